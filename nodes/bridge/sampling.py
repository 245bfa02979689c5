"""ComfyUI's samplers behind the chunk engine: the same calls as KSampler, once per chunk, with one progress bar."""

import copy
import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfyui_version import __version__ as comfyui_version
from torch import Tensor

from ...gloria_core.analysis.attention_probe import AttentionProbe
from ...gloria_core.errors import JournalError, PlanError
from ...gloria_core.sampling.plan import Chunk, ChunkPlan
from ...gloria_core.shapes import SPATIAL_STRIDE_BY_CHANNELS, latent_frames_for, pixel_frames_for
from .attention import with_probe
from .conditioning import Conditioning, check_model_reads, chunk_inputs, input_channels
from .player_status import FilmStatus
from .progress import format_seconds
from .timeline import check_timeline, cue_indices, film_timing, unused_cues, with_cue
from .training_notice import training_beside_us

log = logging.getLogger(__name__)

SAMPLER_NAMES = comfy.samplers.KSampler.SAMPLERS
SCHEDULER_NAMES = comfy.samplers.KSampler.SCHEDULERS

StepCallback = Callable[[int, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Film:
    """What the sampler node was given: the model or models, the conditioning, and how to sample.

    Args:
        low_noise: the expert for the end of sampling (Wan2.2 A14B), or None for single models.
        switch_at: noise level 0..1 below which `low_noise` takes over.
        cues: of every chunk, the index of its cue in the timeline that `positive` may carry; see `cue_chunks`.
    """

    model: Any
    low_noise: Any | None
    switch_at: float
    positive: Conditioning
    negative: Conditioning
    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    cues: tuple[int, ...] = ()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the film's latent."""
        _, channels, _, height, width = self.latent["samples"].shape
        return channels, height, width

    @property
    def total_latents(self) -> int:
        """Latent frames of the whole film."""
        return self.latent["samples"].shape[2]


def with_shift(model: Any, shift: float) -> Any:
    """A clone whose noise schedule has this shift, as ModelSamplingSD3 makes it; 0 keeps the model as it is."""
    if shift == 0:
        return model
    sampling = copy.deepcopy(model.get_model_object("model_sampling"))
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscreteFlow):
        raise PlanError(
            f"The model's noise schedule ({type(sampling).__name__}) has no shift. Wan models have one: "
            "check the connected model, or set shift to 0."
        )
    sampling.set_parameters(shift=shift, multiplier=sampling.multiplier)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


def check_film(film: Film) -> None:
    """Refuse what cannot end in a film, before the first step."""
    samples = film.latent["samples"]
    for name, model in (("model", film.model), ("model_low_noise", film.low_noise)):
        if model is not None:
            _check_model(name, model, samples)
            check_model_reads(model, film.positive)
    if film.low_noise is not None and input_channels(film.low_noise) != input_channels(film.model):
        raise PlanError("model and model_low_noise are of different kinds. Load the high and low noise files of one.")
    for name, conditioning in (("positive", film.positive), ("negative", film.negative)):
        if not conditioning:
            raise PlanError(f"The {name} conditioning is empty. Connect Gloria Conditioning.")
    if samples.shape[0] != 1:
        raise PlanError(f"The latent holds {samples.shape[0]} videos, a film has one. Pick one with Latent From Batch.")
    slots = [slot for _, options in film.positive for slot in options.get("gloria_anchor_slots", ())]
    check_timeline(film.positive, film.negative, slots)
    _check_steps(film)
    _warn_about_short_audio(film)


def cue_chunks(film: Film, plan: ChunkPlan) -> Film:
    """The film with the cue of every chunk; cues that come too short are named in the log."""
    cues = cue_indices(film.positive, plan, film.latent)
    for cue in unused_cues(film.positive, cues):
        log.warning("The cue at %s covers most of no chunk, so nothing of it is seen: %s", cue.time, cue.text)
    return replace(film, cues=cues)


def chunk_latents_for(chunk_frames: int) -> int:
    """Latent frames of a chunk of `chunk_frames` pixel frames, which must be 4n + 1."""
    latents = latent_frames_for(chunk_frames)
    if pixel_frames_for(latents) != chunk_frames:
        raise PlanError(
            f"chunk_frames is {chunk_frames}, but Wan's VAE makes 4n + 1 frames: "
            f"use {pixel_frames_for(latents - 1) if latents > 1 else 1} or {pixel_frames_for(latents)}."
        )
    return latents


def film_sigmas(film: Film) -> Tensor:
    """Noise levels [steps + 1] that every chunk is sampled at."""
    return comfy.samplers.KSampler(
        film.model,
        steps=film.steps,
        device=film.model.load_device,
        sampler=film.sampler_name,
        scheduler=film.scheduler,
        denoise=1.0,
        model_options=film.model.model_options,
    ).sigmas


def num_high_noise_steps(film: Film, sigmas: Tensor) -> int:
    """How many of the first steps belong to `film.model`."""
    if film.low_noise is None:
        return len(sigmas) - 1
    return int((sigmas[:-1] >= film.switch_at).sum())


def sample_chunk(
    film: Film,
    chunk: Chunk,
    seed: int,
    prefix: Tensor | None,
    on_step: StepCallback,
    probe: AttentionProbe | None = None,
) -> Tensor:
    """Clean raw latents [1, C, length, h, w] of one chunk; with one model exactly what KSampler computes."""
    film = replace(film, model=with_probe(film.model, probe), low_noise=with_probe(film.low_noise, probe))
    prompts = with_cue(film.positive, film.negative, film.cues[chunk.index])
    positive, negative, latent = chunk_inputs(film.model, *prompts, film.latent, chunk, prefix)
    image, mask = latent["samples"], latent.get("noise_mask")
    noise = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    sigmas = film_sigmas(film)
    switch = num_high_noise_steps(film, sigmas)

    def sample(model: Any, noise: Tensor, image: Tensor, **span: Any) -> Tensor:
        return comfy.sample.sample(
            model, noise, film.steps, film.cfg, film.sampler_name, film.scheduler, positive, negative, image,
            noise_mask=mask, sigmas=sigmas, callback=on_step, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed, **span,
        )  # fmt: skip

    if film.low_noise is None or switch == len(sigmas) - 1:
        return sample(film.model, noise, image)
    if switch == 0:
        return sample(film.low_noise, noise, image)
    half = sample(film.model, noise, image, start_step=0, last_step=switch, force_full_denoise=False)
    left_noise = torch.zeros_like(noise)
    if mask is not None:
        # Known latents must enter the second half as they entered the first: clean, with the same noise.
        keep = mask.to(half).expand_as(half)
        half = half * keep + image.to(half) * (1 - keep)
        left_noise = noise * (1 - keep).to(noise)
    return sample(film.low_noise, left_noise, half, start_step=switch, force_full_denoise=True)


class FilmProgress:
    """One bar over all steps of all chunks, a preview per step, and the time left under the node."""

    def __init__(self, film: Film, plan: ChunkPlan, kept: Collection[int], status: FilmStatus) -> None:
        sigmas = film_sigmas(film)
        self._steps = len(sigmas) - 1
        self._num_high = num_high_noise_steps(film, sigmas)
        self._num_chunks = len(plan.chunks)
        self._to_sample = [chunk.index for chunk in plan.chunks if chunk.index not in kept]
        self._done = 0  # steps of chunks behind us, kept ones included
        self._measured = 0
        self._started = time.monotonic()
        self._status = status
        self._bar = comfy.utils.ProgressBar(self._num_chunks * self._steps)
        self._previewer = latent_preview.get_previewer(film.model.load_device, film.model.model.latent_format)

    def start_chunk(self, chunk: Chunk) -> StepCallback:
        """The sampler's callback for one chunk."""
        calls = 0
        num_chunks_left = sum(index >= chunk.index for index in self._to_sample)
        run = training_beside_us()
        beside = f"\nslower: {run} trains on the same device; stop it with Gloria Train Monitor" if run else ""

        def on_step(_step: int, x0: Tensor, _x: Tensor, _total_steps: int) -> None:
            nonlocal calls
            calls = min(calls + 1, self._steps)  # some samplers report one step more
            if not torch.isfinite(x0).all():
                raise JournalError(
                    f"Chunk {chunk.index} became NaN or infinite at step {calls} of {self._steps}. Earlier chunks are "
                    "kept. Usual causes: fp8 weights or SageAttention on this model, or a high cfg. Change that and "
                    "queue again."
                )
            self._measured += 1
            preview = self._previewer.decode_latent_to_preview_image("JPEG", x0) if self._previewer else None
            self._bar.update_absolute(self._done + calls, preview=preview)
            eta = self._time_for(num_chunks_left * self._steps - calls)
            self._status.update(chunk=chunk.index, step=calls, num_steps=self._steps, eta_seconds=eta)
            step = f"chunk {chunk.index + 1}/{self._num_chunks}, step {calls}/{self._steps}"
            self.say(f"{step}, ETA {format_seconds(eta)}{beside}")

        return on_step

    def finish_chunk(self, _chunk: Chunk) -> None:
        """Move the bar behind a chunk, sampled now or kept from an earlier run."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done += self._steps
        self._bar.update_absolute(self._done)

    def say(self, text: str) -> None:
        """Show a line under the node."""
        self._status.say(text)

    def _time_for(self, num_steps: int) -> float:
        elapsed = time.monotonic() - self._started
        return max(0, num_steps) * elapsed / self._measured


def environment() -> dict[str, str]:
    """What may change the last bits of a result without changing the film's inputs."""
    device = comfy.model_management.get_torch_device()
    return {
        "comfyui": comfyui_version,
        "torch": torch.__version__,
        "device": comfy.model_management.get_torch_device_name(device),
    }


def _check_model(name: str, model: Any, samples: Tensor) -> None:
    _, latent_channels = input_channels(model)
    if samples.ndim != 5:
        raise PlanError(f"The latent has shape {list(samples.shape)}, expected one from Gloria Conditioning.")
    if latent_channels not in SPATIAL_STRIDE_BY_CHANNELS or samples.shape[1] != latent_channels:
        raise PlanError(
            f"The latent has {samples.shape[1]} channels, {name} works on {latent_channels}. Use the model's own VAE "
            "in Gloria Conditioning: Wan 2.1 VAE for 16 channels, Wan 2.2 VAE for 48."
        )
    if model.model_options.get("context_handler") is not None:
        raise PlanError(
            f"{name} has context windows attached (WAN Context Windows). The long sampler cuts the film itself: "
            "remove that node, or use it with a stock KSampler instead."
        )


def _check_steps(film: Film) -> None:
    sigmas = film_sigmas(film)
    high = num_high_noise_steps(film, sigmas)
    low = len(sigmas) - 1 - high
    if not math.isfinite(film.cfg):
        raise PlanError(f"cfg is {film.cfg}, expected a finite number. The paper uses 3.5.")
    if film.low_noise is not None and 0 in (high, low):
        idle = "model" if high == 0 else "model_low_noise"
        log.warning("With switch_at %s the expert in '%s' gets no step.", film.switch_at, idle)


def _warn_about_short_audio(film: Film) -> None:
    needed, _ = film_timing(film.latent)
    lengths = [len(options["gloria_audio"]) for _, options in film.positive if options.get("gloria_audio") is not None]
    if lengths and min(lengths) < needed:
        log.warning(
            "The speech covers %d of the film's %d frames; its last sound is held until the end.", min(lengths), needed
        )
