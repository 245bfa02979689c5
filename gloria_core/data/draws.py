"""Seed, stage and step enter, everything left to chance leaves: superset anchoring, prefixes, dropout (sec. 4.1, 4.4).

A step's draw is a pure function of (seed, step). It does not depend on which process asks, on how many there are, or
on what was asked before, so a resumed run draws what an unbroken one draws.
"""

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from ..errors import ConfigError, DatasetError
from ..sampling.plan import PREFIX_LATENTS
from ..shapes import latent_frames_for, pixel_span_of_latent
from ..training.config import StageConfig, TrainConfig
from ..training.flow_matching import draw_sigma, stratum_quantile
from .batch import SampleDraw, StepDraw
from .cache_index import CachedClip, CachedSource, CacheIndex
from .label_draw import draw_labels

_IDENTITY_KINDS = ("viewpoint", "expression")
Bucket = tuple[int, int, int]
"""Height, width, latent frames of the window."""


_STRATA = 8
"""Consecutive samples that draw from different slices of the noise levels, however small the batch is."""
_MAX_VALIDATION_CLIPS = 16


class DrawPlan:
    """All draws of a run.

    Args:
        image_channels: whether the base is image-to-video, which always has a first frame or a prefix.
    """

    def __init__(self, index: CacheIndex, config: TrainConfig, image_channels: bool) -> None:
        self._index = index
        self._config = config
        self._image_channels = image_channels
        self._sources = {source.id: source for source in index.sources}
        self._windows = tuple(sorted({latent_frames_for(frames) for frames in config.data.frames}, reverse=True))
        self._continues = any(stage.prefix_probability > 0 for stage in config.stages)
        self._epoch = functools.lru_cache(maxsize=8)(self._make_epoch)

    def check(self) -> None:
        """Refuse what cannot be drawn, before anything expensive.

        Raises:
            DatasetError: The dataset lacks what a stage wants.
            ConfigError: Settings that contradict the base.
        """
        if self._continues and min(self._windows) <= PREFIX_LATENTS:
            raise ConfigError(
                f"data.frames {list(self._config.data.frames)}: a window that continues a chunk needs more than its "
                f"{PREFIX_LATENTS} given latents. Use more frames, or set prefix_probability to 0."
            )
        if self._image_channels and min(self._windows) == 1:
            raise ConfigError(
                f"data.frames {list(self._config.data.frames)}: this base makes video from an image, so there is "
                "nothing to learn from windows of 1 frame. Use 5 frames or more."
            )
        if not self._pool("none"):
            longest = max((clip.num_latents for clip in self._index.clips if clip.split == "train"), default=0)
            shift = " and one more, so that a window can be cut mid-stream" if self._continues else ""
            raise DatasetError(
                f"No training clip is long enough: the shortest window is {min(self._windows)} latent frames{shift}, "
                f"the longest of the training clips has {longest}. Lower data.frames, cut longer clips, or set "
                "prefix_probability to 0."
            )
        for stage in self._config.stages:
            self._check_stage(stage)

    def step(self, step: int) -> StepDraw:
        """The samples of one optimizer step, the same in every process."""
        stage_idx, stage_step = self._config.stage_at(step)
        stage = self._config.stages[stage_idx]
        batch_type, ordinal = self._batch_type(stage, stage_step)
        bucket, clips = self._batch(stage_idx, batch_type, ordinal)
        sizes = self._rng("sizes", stage_idx, stage_step)
        counts = {
            "viewpoint": sizes.randint(1, stage.max_viewpoints),
            "expression": sizes.randint(1, stage.max_expressions),
        }
        samples = []
        for place, clip_idx in enumerate(clips):
            rng = self._rng("sample", stage_idx, stage_step, place)
            sigma = self._sigma(stage_idx, stage_step, place, rng)
            samples.append(self._sample(stage, batch_type, bucket, clip_idx, counts, sigma, rng))
        return StepDraw(step=step, stage_idx=stage_idx, batch_type=batch_type, samples=tuple(samples))

    def validation(self) -> tuple[SampleDraw, ...]:
        """Fixed draws on held-out clips: every noise level of `validation.levels`, conditions of the last stage.

        Empty when no clip is held out.
        """
        stage = replace(
            self._config.stages[-1], text_dropout=0.0, audio_dropout=0.0, prefix_probability=0.0, start_probability=1.0
        )
        held_out = [idx for idx, clip in enumerate(self._index.clips) if clip.split == "validation"]
        fitting = [(idx, window) for idx in held_out if (window := self._window(self._index.clips[idx]))]
        every = max(1, -(-len(fitting) // _MAX_VALIDATION_CLIPS))
        levels, draws = self._config.validation.levels, []
        for clip_idx, window in fitting[::every]:
            clip = self._index.clips[clip_idx]
            for level in range(levels):
                rng = self._rng("validation", clip_idx, level)
                sigma = draw_sigma(self._config.timesteps, (level + 0.5) / levels)
                counts = {"viewpoint": stage.max_viewpoints, "expression": stage.max_expressions}
                bucket = (clip.height, clip.width, window)
                kinds = self._kinds(self._sources[clip.source])
                draws.append(
                    self._sample(stage, _widest_type(stage, kinds), bucket, clip_idx, counts, sigma, rng)
                )
        return tuple(draws)

    def _check_stage(self, stage: StageConfig) -> None:
        if self._image_channels and stage.start_probability < 1:
            raise ConfigError(
                f"Stage '{stage.name}' has start_probability {stage.start_probability}, but this base makes video "
                "from an image and always has a first frame. Set it to 1."
            )
        train = [clip for clip in self._index.clips if clip.split == "train"]
        lacking = sorted({clip.source for clip in train if "global" not in self._kinds(self._sources[clip.source])})
        if stage.global_anchor and lacking:
            raise DatasetError(
                f"Stage '{stage.name}' needs a global anchor, but the sources {', '.join(lacking[:5])} have none. "
                "Build the dataset again, or set global_anchor to false."
            )
        if stage.audio and all(clip.audio is None for clip in train):
            raise DatasetError(
                f"Stage '{stage.name}' has speech, but no clip of the dataset does: build it with an audio encoder "
                "from videos with sound, or set the stage's audio to false."
            )
        for batch_type in self._types(stage):
            if not self._pool(batch_type):
                wanted = "viewpoint and expression" if batch_type == "both" else batch_type
                raise DatasetError(
                    f"Stage '{stage.name}' wants {wanted} anchors, but no training source has them. Add labelled "
                    "anchors to the dataset, or set identity_anchors to none or auto."
                )
        if not stage.superset:
            self._check_inside(stage, train)

    def _check_inside(self, stage: StageConfig, clips: Sequence[CachedClip]) -> None:
        """Anchors from elsewhere alone would leave a stage without superset anchoring without any anchor."""
        shown = {
            self._sources[clip.source].anchors[idx].kind
            for clip in clips
            for idx in self._shown(clip, 0, clip.num_latents)
        }
        wanted = {kind for kind in self._types(stage) if kind in _IDENTITY_KINDS}
        wanted |= set(_IDENTITY_KINDS) if stage.identity_anchors == "both" else set()
        wanted |= {"global"} if stage.global_anchor else set()
        if wanted - shown:
            raise DatasetError(
                f"Stage '{stage.name}' has superset false, but no training clip shows the moment of any "
                f"{' or '.join(sorted(wanted - shown))} anchor. Give anchors the times of their frames, or set "
                "superset to true."
            )

    def _types(self, stage: StageConfig) -> tuple[str, ...]:
        """Types of batches of a stage; with `one_type` a kind that no source has is left to the other one."""
        if stage.identity_anchors == "both":
            return ("both",)
        if stage.identity_anchors == "one_type":
            kinds = tuple(kind for kind in _IDENTITY_KINDS if self._pool(kind))
            shares = {"viewpoint": stage.viewpoint_share, "expression": 1 - stage.viewpoint_share}
            return tuple(kind for kind in kinds or _IDENTITY_KINDS if shares[kind] > 0) or kinds
        return ("global" if stage.global_anchor else "none",)

    def _batch_type(self, stage: StageConfig, stage_step: int) -> tuple[str, int]:
        """Type of a step's batch, and how many batches of that type the stage had before."""
        types = self._types(stage)
        if len(types) == 1:
            return types[0], stage_step
        # Evenly interleaved: the share is exact over any stretch, and the count needs no history.
        before, after = (math.floor(steps * stage.viewpoint_share + 1e-9) for steps in (stage_step, stage_step + 1))
        return ("viewpoint", before) if after > before else ("expression", stage_step - before)

    def _batch(self, stage_idx: int, batch_type: str, ordinal: int) -> tuple[Bucket, tuple[int, ...]]:
        num_batches = sum(-(-len(clips) // self._config.batch_size) for clips in self._pool(batch_type).values())
        epoch, place = divmod(ordinal, num_batches)
        return self._epoch(stage_idx, batch_type, epoch)[place]

    def _make_epoch(self, stage_idx: int, batch_type: str, epoch: int) -> list[tuple[Bucket, tuple[int, ...]]]:
        """Batches in which every clip of the type is once; the last of a bucket is filled up from its beginning."""
        rng = self._rng("epoch", stage_idx, batch_type, epoch)
        size, batches = self._config.batch_size, []
        for bucket, clips in self._pool(batch_type).items():
            order = list(clips)
            rng.shuffle(order)
            for start in range(0, len(order), size):
                batches.append((bucket, tuple(order[(start + place) % len(order)] for place in range(size))))
        rng.shuffle(batches)
        return batches

    @functools.cache  # noqa: B019 - one plan lives as long as its run
    def _pool(self, batch_type: str) -> dict[Bucket, tuple[int, ...]]:
        """Training clips that can serve a type of batch, by bucket."""
        needed = {"none": set(), "global": set(), "both": set(_IDENTITY_KINDS)}.get(batch_type, {batch_type})
        pool: dict[Bucket, list[int]] = {}
        for idx, clip in enumerate(self._index.clips):
            window = self._window(clip)
            if clip.split == "train" and window and needed <= self._kinds(self._sources[clip.source]):
                pool.setdefault((clip.height, clip.width, window), []).append(idx)
        return {bucket: tuple(clips) for bucket, clips in sorted(pool.items())}

    def _window(self, clip: CachedClip) -> int | None:
        """The longest window that fits, with a latent to spare when windows are also cut mid-stream."""
        room = clip.num_latents - int(self._continues)
        return next((window for window in self._windows if window <= room), None)

    def _kinds(self, source: CachedSource) -> set[str]:
        return {anchor.kind for anchor in source.anchors}

    def _sigma(self, stage_idx: int, stage_step: int, place: int, rng: Random) -> float:
        u = rng.random()
        if not self._config.timesteps.stratified:
            return draw_sigma(self._config.timesteps, u)
        size = self._config.batch_size
        steps = -(-_STRATA // size)
        group, turn = divmod(stage_step, steps)
        strata = list(range(size * steps))
        self._rng("strata", stage_idx, group).shuffle(strata)
        quantile = stratum_quantile(strata[turn * size + place], len(strata), u)
        return draw_sigma(self._config.timesteps, quantile)

    def _sample(
        self,
        stage: StageConfig,
        batch_type: str,
        bucket: Bucket,
        clip_idx: int,
        counts: Mapping[str, int],
        sigma: float,
        rng: Random,
    ) -> SampleDraw:
        clip = self._index.clips[clip_idx]
        window = bucket[2]
        # Every choice takes its number whether or not it is used, so that one setting does not shift the others.
        continues, starts, shift = rng.random() < stage.prefix_probability, rng.random(), rng.random()
        first = 1 + int(shift * (clip.num_latents - window)) if continues else 0
        # A single picture is never given: nothing of it would be left to make.
        starts_given = window > 1 and (self._image_channels or starts < stage.start_probability)
        num_known = PREFIX_LATENTS if continues else int(starts_given)
        drop_text, drop_audio = rng.random() < stage.text_dropout, rng.random() < stage.audio_dropout
        noise_seed = rng.getrandbits(63)
        return SampleDraw(
            clip_idx=clip_idx, num_latents=window, first_latent=first, num_known=num_known, drop_text=drop_text,
            drop_audio=drop_audio, noise_seed=noise_seed, sigma=sigma,
            anchors=self._anchors(stage, batch_type, clip, (first, first + window), counts, rng),
        )  # fmt: skip

    def _anchors(
        self,
        stage: StageConfig,
        batch_type: str,
        clip: CachedClip,
        latents: tuple[int, int],
        counts: Mapping[str, int],
        rng: Random,
    ) -> tuple[int, ...]:
        """Superset anchoring: candidates from inside the window or from the rest of the source.

        Where one side has none, the other side's are taken. Without `superset` there is no other side: a kind or label
        that the window does not show is left out.
        """
        anchors = self._sources[clip.source].anchors
        # An image from elsewhere has no time: it is outside of every clip.
        shown = self._shown(clip, *latents)
        offered = range(len(anchors)) if stage.superset else shown
        shares = {"viewpoint": self._config.data.viewpoint_shares, "expression": self._config.data.expression_shares}

        def pick(kind: str, label: str) -> int:
            candidates = [idx for idx in offered if (anchors[idx].kind, anchors[idx].label) == (kind, label)]
            inside = [idx for idx in candidates if idx in shown]
            outside = [idx for idx in candidates if idx not in inside]
            wants_inside = rng.random() < stage.inside_ratio
            return rng.choice((inside if wants_inside else outside) or candidates)

        has_global = any(anchors[idx].kind == "global" for idx in offered)
        chosen = [pick("global", "global")] if stage.global_anchor and has_global else []
        for kind in _IDENTITY_KINDS:
            if batch_type in (kind, "both"):
                present = {anchors[idx].label for idx in offered if anchors[idx].kind == kind}
                available = {label: share for label, share in shares[kind].items() if label in present}
                labels = draw_labels(available, min(counts[kind], len(available)), rng)
                chosen += [pick(kind, label) for label in labels]
        return tuple(chosen)

    def _shown(self, clip: CachedClip, first: int, stop: int) -> list[int]:
        """Places of the anchors whose moment lies in these latent frames of a clip."""
        begin = clip.start + pixel_span_of_latent(first)[0] / self._index.fps
        end = clip.start + pixel_span_of_latent(stop - 1)[1] / self._index.fps
        times = [anchor.time for anchor in self._sources[clip.source].anchors]
        return [idx for idx, time in enumerate(times) if time is not None and begin <= time < end]

    def _rng(self, *names: str | int) -> Random:
        text = "/".join(map(str, (self._config.seed, *names)))
        return Random(hashlib.sha256(text.encode()).digest())


def _widest_type(stage: StageConfig, kinds: set[str]) -> str:
    """For validation: every kind of anchor that the stage knows and the source has."""
    if stage.identity_anchors in ("none", "auto"):
        return "global"
    identity = [kind for kind in _IDENTITY_KINDS if kind in kinds]
    return "both" if len(identity) == 2 else (identity or ["global"])[0]
