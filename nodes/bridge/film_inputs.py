"""A film, its plan and settings enter; everything that decides its latents leaves, by name, as the journal keeps it."""

from typing import Any

from ...gloria_core.sampling.job_folder import Inputs
from ...gloria_core.sampling.plan import ChunkPlan
from .fingerprint import conditioning_fingerprints, fingerprint, prompt_fingerprint
from .sampling import Film
from .timeline import timeline_of, with_cue

_PROMPT = "positive_prompt"


def film_inputs(
    film: Film, plan: ChunkPlan, settings: dict[str, Any], model: Any, low_noise: Any | None
) -> dict[str, dict[str, Any]]:
    """What decides all chunks; models as they came in, so that shift has its own line."""
    channels, height, width = film.latent_shape
    values = {
        **settings,
        "latent_size": [channels, plan.total_latents, height, width],
        "chunk_latents": plan.chunk_latents,
        "prefix_latents": plan.prefix_latents,
    }
    digests = {
        "model": fingerprint(model),
        "latent": fingerprint({key: film.latent[key] for key in ("samples", "noise_mask") if key in film.latent}),
    }
    if low_noise is not None:
        values["switch_at"] = film.switch_at
        digests["model_low_noise"] = fingerprint(low_noise)
    conditions = conditioning_fingerprints(film.positive, film.negative)
    if timeline_of(film.positive) is not None:
        del conditions[_PROMPT]  # the cue that the conditioning happens to show; each chunk's own counts
    return {
        **{name: {"value": value} for name, value in values.items()},
        **{name: {"digest": digest} for name, digest in digests.items()},
        **conditions,
    }


def chunk_inputs_of(film: Film, own_seeds: dict[int, int]) -> list[Inputs]:
    """What decides single chunks: prompt and anchors of their cue, and seeds of their own."""
    of_cue = {index: _cue_inputs(film, index) for index in set(film.cues)}
    seeds = {index: {"seed": {"value": seed}} for index, seed in own_seeds.items()}
    return [{**of_cue[cue], **seeds.get(index, {})} for index, cue in enumerate(film.cues)]


def _cue_inputs(film: Film, index: int) -> Inputs:
    timeline = timeline_of(film.positive)
    if timeline is None:
        return {}
    positive, _ = with_cue(film.positive, film.negative, index)
    return {
        "prompt": {"value": timeline.prompts[index], "digest": prompt_fingerprint(positive)},
        "anchors": {"value": ", ".join(timeline.cues[index].labels) or "all"},
    }
