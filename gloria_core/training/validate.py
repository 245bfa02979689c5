"""What shows whether training works: held-out loss at fixed noise, sampled clips, and one long roll-out.

Clips are sampled as `gloria_core/generate.py` does, from the conditions of held-out clips and the same seed each time,
so that clips of different steps differ by the training alone.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch, SampleDraw
from ..data.cache import CacheStore
from ..data.cache_index import CachedAnchor, CachedClip, CacheIndex
from ..durable_files import write_safetensors
from ..model.dit import GloriaDiT
from ..sampling.denoise import Conditions, SampleSettings, check_conditions, denoise_chunk
from ..sampling.plan import Chunk, chunk_seed, plan_chunks
from ..shapes import LatentSize, latent_frames_for, pixel_frames_for
from .config import TrainConfig
from .sample_videos import SampleVideos
from .trainer import LoadBatches, Trainer


class Validation:
    """Held-out loss and clips of one run, each at its own interval, with the averaged weights if there are any."""

    def __init__(
        self,
        trainer: Trainer,
        store: CacheStore,
        index: CacheIndex,
        load_batches: LoadBatches,
        draws: Sequence[SampleDraw],
        folder: Path,
        is_main: bool,
        videos: SampleVideos | None = None,
    ) -> None:
        self._trainer = trainer
        self._store = store
        self._index = index
        self._load_batches = load_batches
        self._draws = draws
        self._folder = folder
        self._is_main = is_main
        self._videos = videos

    def run_due(self, clips_now: bool = False) -> None:
        """What is due after the trainer's present step; every process computes it, the first one writes it."""
        trainer, settings = self._trainer, self._trainer.config.validation
        is_last = trainer.step == trainer.config.total_steps
        loss_due = bool(self._draws) and _is_due(trainer.step, settings.loss_every, is_last)
        clips_due = clips_now or (trainer.step > 0 and _is_due(trainer.step, settings.clips_every, is_last))
        if not loss_due and not clips_due:
            return
        trainer.progress.say("validating", f"validating step {trainer.step}")
        with trainer.ema.applied() if trainer.ema is not None else contextlib.nullcontext():
            if loss_due:
                audio = trainer.config.stages[-1].audio
                values = held_out_loss(
                    trainer.loss_of,
                    lambda draws: self._load_batches(draws, audio),
                    self._draws,
                    trainer.config.micro_batch_size,
                )
                trainer.progress.add_validation({"step": trainer.step, **values})
            if clips_due:
                clips = sample_clips(
                    trainer.model, trainer.config, self._store, self._index, self._folder, trainer.step, self._is_main
                )
                trainer.progress.add_validation({"step": trainer.step, "clips": [path.name for path in clips]})
                if self._videos is not None:
                    self._videos.write(clips)


def _is_due(step: int, every: int, is_last: bool) -> bool:
    return every > 0 and (is_last or step % every == 0)


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
    model: GloriaDiT,
    config: TrainConfig,
    store: CacheStore,
    index: CacheIndex,
    folder: Path,
    step: int,
    write: bool = True,
) -> list[Path]:
    """Sample the validation clips, and the roll-out if asked, into files in `folder`.

    Each file holds `latents` [C, T, H, W] in the model's space; its metadata names the clip.
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
        if write:
            write_safetensors(path, {"latents": latents_BCTHW[0]}, metadata)
        made.append(path)
    return made


def _sample(
    model: GloriaDiT, config: TrainConfig, index: CacheIndex, clip: CachedClip, conditions: Conditions, num_latents: int
) -> Tensor:
    """Latents [1, C, num_latents, H, W], chunk by chunk as a long film is made, without its journal."""
    validation = config.validation
    window = _window_latents(config, clip)
    _, height, width = conditions.start_BCTHW.shape[2:]  # type: ignore[union-attr]
    if num_latents == 1:
        # As in training: of a picture that is given nothing is left to make.
        conditions = replace(conditions, start_BCTHW=None)
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
