"""A seed enters, training samples leave without end and without files: a clip, its prompt, sound and anchors.

Legend: T frames, H W pixels, C colors, N samples at 16 kHz.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..conditioning.anchors import Anchor
from .anchors import DEFAULT_CROPS, CropSizes, expression_anchors, global_frame, viewpoint_anchors
from .character import training_character
from .poses import Poses, concatenate
from .source import DEFAULT_SECONDS, DEFAULT_SIZE, Source, make_source

_STREAM = 61


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What samples are like."""

    fps: float
    num_frames: int
    height: int = DEFAULT_SIZE
    width: int = DEFAULT_SIZE
    source_seconds: float = DEFAULT_SECONDS
    crop_sizes: CropSizes = DEFAULT_CROPS
    num_characters: int = 4096
    inside_share: float = 0.5
    """How often the global anchor comes from inside the clip."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ToyClip:
    """One sample with the truth about it."""

    source: Source
    first_frame: int
    frames_THWC: Tensor
    prompt: str
    poses: Poses
    samples_N: np.ndarray
    """The clip's own sound; the whole video's is in `source`."""
    anchors: tuple[Anchor, ...]
    """Global, four viewpoints, eight expressions."""
    anchor_poses: tuple[Poses, ...]
    """Of the global anchor, the viewpoints and the expressions."""


def clip_of(source: Source, first_frame: int, rng: np.random.Generator, options: ClipOptions) -> ToyClip:
    """A stretch of a video with a full set of anchors."""
    span = (first_frame, options.num_frames)
    poses = source.poses(*span)
    frame = global_frame(source, rng, span, is_inside=bool(rng.uniform() < options.inside_share))
    global_poses = source.poses(frame, 1)
    # One call for clip and global anchor: small calls cost as much as large ones.
    pictures_THWC = source.picture(concatenate([poses, global_poses]))
    viewpoints = viewpoint_anchors(source, rng, sizes=options.crop_sizes)
    expressions = expression_anchors(source, rng, sizes=options.crop_sizes)
    return ToyClip(
        source=source,
        first_frame=first_frame,
        frames_THWC=pictures_THWC[:-1],
        prompt=source.prompt(*span),
        poses=poses,
        samples_N=source.sound(*span),
        anchors=(Anchor("global", "global", pictures_THWC[-1]), *viewpoints.anchors, *expressions.anchors),
        anchor_poses=(global_poses, viewpoints.poses, expressions.poses),
    )


def random_clips(seed: int, options: ClipOptions, clips_per_source: int = 4) -> Iterator[ToyClip]:
    """Clips of training characters without end; the same ones for the same seed.

    Args:
        clips_per_source: how many are cut from one video before the next one is made.
    """
    rng = np.random.default_rng((_STREAM, seed))
    while True:
        source = make_source(
            training_character(int(rng.integers(options.num_characters))),
            int(rng.integers(2**31)),
            options.fps,
            options.source_seconds,
            options.height,
            options.width,
        )
        for _ in range(clips_per_source):
            first_frame = int(rng.integers(source.num_frames - options.num_frames + 1))
            yield clip_of(source, first_frame, rng, options)
