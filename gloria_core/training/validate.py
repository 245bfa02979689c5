"""What shows whether training works: held-out loss at fixed noise, sampled clips, and one long roll-out.

Clips are sampled as `gloria_core/generate.py` does, from the conditions of held-out clips and the same seed each time,
so that clips of different steps differ by the training alone.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch, SampleDraw
from ..data.cache import CacheStore
from ..data.cache_index import CacheIndex, CachedAnchor, CachedClip
from ..durable_files import write_safetensors
from ..model.dit import GloriaDiT
from ..sampling.denoise import Conditions, SampleSettings, check_conditions, denoise_chunk
from ..sampling.plan import Chunk, chunk_seed, plan_chunks
from ..shapes import LatentSize, latent_frames_for, pixel_frames_for
from .config import TrainConfig


@dataclass(frozen=True)
class SampledClip:
    """A clip that the model in training made, as latents on disk."""

    path: Path
    clip_id: str
    is_rollout: bool


def held_out_loss(
    loss_of: Callable[[Batch], Tensor],
    load_batches: Callable[[Sequence[SampleDraw]], list[Batch]],
    draws: Sequence[SampleDraw],
    micro_batch_size: int,
) -> dict[str, Any]:
    """Mean loss over fixed clips, noise and noise levels, and the loss of each level."""
    by_level: dict[float, list[float]] = {}
    with torch.no_grad():
        for start in range(0, len(draws), micro_batch_size):
            for batch in load_batches(draws[start : start + micro_batch_size]):
                for draw, loss in zip(batch.draws, loss_of(batch).tolist(), strict=True):
                    by_level.setdefault(draw.sigma, []).append(loss)
    levels = {sigma: sum(losses) / len(losses) for sigma, losses in sorted(by_level.items())}
    return {
        "loss": sum(levels.values()) / len(levels),
        "levels": [{"sigma": round(sigma, 4), "loss": loss} for sigma, loss in levels.items()],
    }


def validation_clips(index: CacheIndex, num_clips: int) -> list[CachedClip]:
    """The first held-out clips; a dataset without any shows clips it trains on."""
    held_out = [clip for clip in index.clips if clip.split == "validation"]
    return (held_out or list(index.clips))[:num_clips]


def clip_conditions(store: CacheStore, index: CacheIndex, clip: CachedClip, with_anchors: bool) -> Conditions:
    """What an artist would give to make this clip: its text, its speech, its first frame, one anchor per label."""
    anchors = _one_per_label(index.source_of(clip).anchors) if with_anchors else []
    start = clip.start_video or clip.latents
    start_CTHW = store.load(start)["latents"].float()
    return Conditions(
        text_BLD=store.load(clip.text)["text"][None].float(),
        negative_text_BLD=store.load(index.empty_text)["text"][None].float(),
        anchors=[store.load(anchor.key)["latent"][None].float() for anchor in anchors],
        anchor_slots=[(anchor.kind, anchor.label) for anchor in anchors],
        audio_FLC=None if clip.audio is None else store.load(clip.audio)["audio"],
        start_BCTHW=(start_CTHW if clip.start_video else start_CTHW[:, :1])[None],
        clip_BLD=None if clip.clip_vision is None else store.load(clip.clip_vision)["clip_vision"][None].float(),
    )


def sample_clips(
    model: GloriaDiT, config: TrainConfig, store: CacheStore, index: CacheIndex, folder: Path, step: int
) -> list[SampledClip]:
    """Sample the validation clips, and the roll-out if asked, into `folder`.

    Each file holds `latents` [C, T, H, W] in the model's space.
    """
    settings = config.validation
    stage_idx, _ = config.stage_at(min(max(step - 1, 0), config.total_steps - 1))
    stage = config.stages[stage_idx]
    made = []
    lengths = [(clip, _window_latents(config, clip), False) for clip in validation_clips(index, settings.num_clips)]
    if settings.rollout_latents:
        lengths.append((validation_clips(index, 1)[0], settings.rollout_latents, True))
    for clip_idx, (clip, num_latents, is_rollout) in enumerate(lengths):
        conditions = clip_conditions(store, index, clip, with_anchors=stage.global_anchor)
        if not stage.audio:
            conditions = _without_audio(conditions)
        elif conditions.audio_FLC is not None and is_rollout:
            conditions = _with_repeated_audio(conditions, num_latents)
        latents_BCTHW = _sample(model, config, index, clip, conditions, num_latents)
        name = "rollout" if is_rollout else f"clip{clip_idx}"
        path = folder / f"step_{step:06d}_{name}.safetensors"
        metadata = {"clip": clip.id, "fps": str(index.fps), "step": str(step), "seed": str(settings.seed)}
        write_safetensors(path, {"latents": latents_BCTHW[0]}, metadata)
        made.append(SampledClip(path, clip.id, is_rollout))
    return made


def _sample(
    model: GloriaDiT, config: TrainConfig, index: CacheIndex, clip: CachedClip, conditions: Conditions, num_latents: int
) -> Tensor:
    """Latents [1, C, num_latents, H, W], chunk by chunk as a long film is made, without its journal."""
    validation = config.validation
    window = _window_latents(config, clip)
    _, height, width = conditions.start_BCTHW.shape[2:]  # type: ignore[union-attr]
    size = LatentSize(index.latent_channels, num_latents, height, width)
    settings = SampleSettings(validation.seed, validation.steps, validation.cfg, validation.shift, window)
    check_conditions(model, conditions, size)
    film: list[Tensor] = []
    prefix = None
    was_training = model.training
    model.eval()
    for chunk in plan_chunks(num_latents, window).chunks if num_latents > window else [Chunk(0, 0, num_latents, 0)]:
        seed = chunk_seed(validation.seed, chunk.index)
        latents = denoise_chunk(model, conditions, size, settings, chunk, seed, prefix)
        film.append(latents[:, :, chunk.prefix :])
        prefix = latents[:, :, -settings.prefix_latents :].clone()
    model.train(was_training)
    return torch.cat(film, dim=2)


def _window_latents(config: TrainConfig, clip: CachedClip) -> int:
    """Latents of the longest window that the clip is trained at."""
    fitting = [n for n in map(latent_frames_for, config.data.frames) if n <= clip.num_latents]
    return max(fitting, default=clip.num_latents)


def _one_per_label(anchors: Sequence[CachedAnchor]) -> list[CachedAnchor]:
    order = {"global": 0, "viewpoint": 1, "expression": 2}
    ranked = sorted(anchors, key=lambda anchor: (order[anchor.kind], anchor.label))
    return [next(group) for _, group in itertools.groupby(ranked, key=lambda anchor: (anchor.kind, anchor.label))]


def _without_audio(conditions: Conditions) -> Conditions:
    return replace(conditions, audio_FLC=None)


def _with_repeated_audio(conditions: Conditions, num_latents: int) -> Conditions:
    """The clip's speech again and again, so that a roll-out longer than the clip keeps speaking."""
    audio_FLC = conditions.audio_FLC
    assert audio_FLC is not None
    repeats = -(-pixel_frames_for(num_latents) // audio_FLC.shape[0])
    return replace(conditions, audio_FLC=audio_FLC.repeat(repeats, 1, 1))
