"""A seed and a step enter, a batch of the toy world's pictures or clips leaves: what the autoencoder learns from.

Legend: B clips, C colors, T frames, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..toyworld.anchors import CropSizes, expression_anchors, viewpoint_anchors
from ..toyworld.character import Character, held_out_character, training_character
from ..toyworld.poses import Poses, concatenate
from ..toyworld.program import make_program
from ..toyworld.scene import make_scene
from ..toyworld.source import Source, render_sources
from .sizes import WorldSizes

_STREAM, _HELD_OUT_STREAM = 71, 72
_NUM_CHARACTERS = 4096
_CROPS = CropSizes()
# Of the images: whole frames, body crops, head crops.
_KIND_SHARES = (0.5, 0.25, 0.25)
# A room takes longer to paint than a picture to render: large batches take several of one video.
_MAX_SOURCES = 16


def training_batch(
    world: WorldSizes, seed: int, step: int, num_frames: int, batch: int, device: torch.device | str
) -> Tensor:
    """[B, C, T, H, W] of -1 to 1, a pure function of seed and step; images of one kind, as sizes differ."""
    rng = np.random.default_rng((_STREAM, seed, step))
    kind = rng.choice(3, p=_KIND_SHARES) if num_frames == 1 else 0
    if kind == 0:
        num_sources = min(batch, _MAX_SOURCES)
        characters = [training_character(int(idx)) for idx in rng.integers(_NUM_CHARACTERS, size=num_sources)]
        return clips(world, rng, characters, num_frames, device, clips_each=-(-batch // num_sources))[:batch]
    draw, labels = (viewpoint_anchors, VIEWPOINTS) if kind == 1 else (expression_anchors, EXPRESSIONS)
    labels = labels * -(-batch // (_MAX_SOURCES * len(labels)))
    pictures: list[Tensor] = []
    while len(pictures) < batch:
        source = _silent_source(world, rng, training_character(int(rng.integers(_NUM_CHARACTERS))))
        pictures += [anchor.image_HWC for anchor in draw(source, rng, labels, _CROPS).anchors]
    return _as_video(torch.stack(pictures[:batch])[:, None]).to(device)


def held_out_clips(world: WorldSizes, num_frames: int, batch: int, device: torch.device | str) -> Tensor:
    """The same clips of characters that are never trained on, at every call."""
    rng = np.random.default_rng(_HELD_OUT_STREAM)
    return clips(world, rng, [held_out_character(idx) for idx in range(batch)], num_frames, device)


def clips(
    world: WorldSizes, rng: np.random.Generator, characters: Sequence[Character], num_frames: int,
    device: torch.device | str, clips_each: int = 1,
) -> Tensor:  # fmt: skip
    """Random stretches of a video of each character; the mouths move without a sound."""
    sources = [_silent_source(world, rng, character) for character in characters]
    firsts = [[int(rng.integers(source.num_frames - num_frames + 1)) for _ in range(clips_each)] for source in sources]
    poses = [
        concatenate([_talking(source.poses(first, num_frames), rng) for first in own])
        for source, own in zip(sources, firsts, strict=True)
    ]
    video_THWC = render_sources(sources, poses, device)
    return _as_video(video_THWC.unflatten(0, (-1, num_frames)))


def _silent_source(world: WorldSizes, rng: np.random.Generator, character: Character) -> Source:
    seed = int(rng.integers(2**31))
    program = make_program(seed, world.seconds)
    return Source(character, make_scene(seed), program, None, world.fps, world.side, world.side)


def _talking(poses: Poses, rng: np.random.Generator) -> Poses:
    opening_T = rng.uniform(0, 1, len(poses)) * (rng.uniform() < 0.7)
    return replace(poses, speech_T=torch.from_numpy(opening_T.astype(np.float32)))


def _as_video(pictures_BTHWC: Tensor) -> Tensor:
    return pictures_BTHWC.movedim(-1, 1) * 2 - 1
