"""The attention probe on ComfyUI's side: how it reaches the model that is sampled, and where a film's looks are found.

It rides on `transformer_options` to our DiT's self-attention, behind ComfyUI's own RoPE and before whichever attention
function ComfyUI has chosen. Models get it only while a chunk is sampled, so no fingerprint of a model ever sees it.
"""

from pathlib import Path
from typing import Any

import folder_paths

from ...gloria_core.analysis.attention_file import AttentionRecorder
from ...gloria_core.analysis.attention_probe import AttentionProbe, ProbeSettings
from ...gloria_core.errors import PlanError
from ...gloria_core.model.attention import PROBE_OPTION
from ...gloria_core.sampling.job_folder import JOB_FILE
from ...gloria_core.sampling.journal import Journal
from .paths import JOBS_FOLDER, MissingFileError, existing_file

FILM_FOLDER = "gloria_film"
"""Key of a LATENT: the name of the job folder it was read from."""


def with_probe(model: Any | None, probe: AttentionProbe | None) -> Any | None:
    """A clone of a MODEL that is looked at; the model itself without a probe."""
    if model is None or probe is None:
        return model
    watched = model.clone()
    watched.model_options.setdefault("transformer_options", {})[PROBE_OPTION] = probe
    return watched


def check_probe(model: Any, settings: ProbeSettings | None) -> None:
    """Refuse to look at a model that has no anchors to look at.

    Raises:
        PlanError: A plain Wan model.
    """
    if settings is not None and not hasattr(model.model, "gloria_config"):
        raise PlanError(
            f"The attention probe looks at anchors, but this model ({type(model.model).__name__}) was loaded as a "
            "plain Wan model and has none. Load the same file with Load Gloria Model, or bypass Gloria Attention Probe."
        )


def film_recorder(model: Any, journal: Journal, settings: ProbeSettings | None, sigmas: Any) -> AttentionRecorder:
    """What keeps the looks of each chunk in the film's folder."""
    return AttentionRecorder(journal, settings, len(model.model.diffusion_model.blocks), sigmas)


def film_folder(latent: dict[str, Any]) -> Path:
    """The job folder that a LATENT of the long sampler was read from."""
    try:
        path = existing_file(
            folder_paths.get_output_directory(), f"{JOBS_FOLDER}/{latent.get(FILM_FOLDER)}/{JOB_FILE}"
        )
    except MissingFileError as error:
        raise PlanError(
            "The latent does not come from Gloria Long Video Sampler, or its folder in output/gloria is gone. Connect "
            "the sampler's latent output directly."
        ) from error
    return path.parent
