"""The whole of inference, read from top to bottom: a loaded model and its conditions enter, a film on disk leaves.

For use without ComfyUI: validation, benchmarks, clusters. The caller encodes text, images and speech; from here on
chunk plan -> each chunk denoised behind the end of the one before -> journal -> film of latents -> video with sound.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .analysis.attention_file import AttentionRecorder
from .analysis.attention_probe import ProbeSettings
from .media.decode_latents import StreamingDecoder
from .media.mux_film import AudioTrack
from .media.write_video import FilmSettings, write_film
from .model.dit import GloriaDiT
from .sampling.denoise import Conditions, SampleSettings, check_conditions, denoise_chunk
from .sampling.engine import run_chunks
from .sampling.journal import Journal
from .sampling.plan import Chunk, plan_chunks
from .sampling.schedule import flow_sigmas
from .shapes import LatentSize


@dataclass(frozen=True)
class Job:
    """Where the film's chunks are kept while it is made.

    Args:
        inputs: by name {"value": ...} or {"digest": ...} of model and conditions; other inputs make another job.
    """

    root: Path
    name: str
    inputs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class VideoOutput:
    """How the film of latents becomes a file.

    Args:
        pixel_frames: exact length; by default all that the latents decode to.
    """

    path: Path
    decoder: StreamingDecoder
    settings: FilmSettings = field(default_factory=FilmSettings)
    pixel_frames: int | None = None
    audio: AudioTrack | None = None


def generate(
    model: GloriaDiT,
    conditions: Conditions,
    size: LatentSize,
    settings: SampleSettings,
    job: Job,
    output: VideoOutput | None = None,
    on_chunk: Callable[[Chunk, bool], None] | None = None,
    probe: ProbeSettings | None = None,
) -> Tensor:
    """Sample a film of any length and, if asked, write it as a video; a second call goes on where one was stopped.

    Args:
        size: of the whole film.
        output: its decoder takes latents in the model's space, see `NormalizedDecoder`.
        on_chunk: called after each chunk with whether it was kept from an earlier run.
        probe: which anchor each chunk looks at is put beside it, see `analysis/attention_probe.py`.

    Returns:
        Latents [1, C, T, H, W] of the film in the model's space, mapped from disk.
    """
    check_conditions(model, conditions, size)
    plan = plan_chunks(size.frames, settings.chunk_latents, settings.prefix_latents)
    sigmas = flow_sigmas(settings.steps, settings.shift)

    with Journal(
        job.root, job.name, _journal_inputs(job, settings, size), plan, (size.channels, *size[2:]), _environment(model)
    ) as journal:
        attention = AttentionRecorder(journal, probe, len(model.blocks), sigmas)

        def denoise(chunk: Chunk, seed: int, prefix_BCTHW: Tensor | None) -> Tensor:
            return denoise_chunk(model, conditions, size, settings, chunk, seed, prefix_BCTHW, attention.start())

        def finish(chunk: Chunk, is_kept: bool) -> None:
            attention.finish(chunk, is_kept)
            if on_chunk is not None:
                on_chunk(chunk, is_kept)

        run_chunks(plan, settings.seed, journal, denoise, finish)
        # Latents given in place come back as they were, so there is nothing to cross-fade.
        film_BCTHW = journal.film(blend=model.config.takes_image_channels)

    if output is not None:
        write_film(output.path, output.decoder, film_BCTHW, output.settings, output.pixel_frames, output.audio)
    return film_BCTHW


def _journal_inputs(job: Job, settings: SampleSettings, size: LatentSize) -> dict[str, Mapping[str, Any]]:
    values = {**asdict(settings), "latent_size": list(size)}
    return {**{name: {"value": value} for name, value in values.items()}, **job.inputs}


def _environment(model: GloriaDiT) -> dict[str, str]:
    device = model.patch_embedding.weight.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": torch.__version__, "device": name}
