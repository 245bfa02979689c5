"""A source video enters, labelled anchors of its character leave, each with something that must not be copied.

Viewpoint anchors (body crops) wear any expression, expression anchors (head crops) look anywhere within 40 degrees in
light of another tint, the global anchor is any frame of the video.

Legend: T anchors, E expressions, H W pixels, C colors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor
from .canvas import VIEW_HEIGHT
from .doll import HEAD_Y
from .poses import Poses
from .program import VIEW_YAW
from .render import render
from .source import Source

# Heights of the character that the crops show.
BODY_VIEW, HEAD_VIEW = 1.08, 0.66
MAX_VIEW_JITTER = math.radians(12)
MAX_EXPRESSION_YAW = math.radians(40)
_HEAD_JITTER = math.radians(20)
_TINT = (0.85, 1.12)
_CROP_JITTER = 0.03


@dataclass(frozen=True)
class CropSizes:
    """Pixels (height, width) of the crops."""

    viewpoint: tuple[int, int] = (64, 48)
    expression: tuple[int, int] = (48, 48)


DEFAULT_CROPS = CropSizes()


@dataclass(frozen=True, eq=False)
class ToyAnchors:
    """Anchors and the truth about them, in the same order."""

    anchors: tuple[Anchor, ...]
    poses: Poses


def viewpoint_anchors(
    source: Source, rng: np.random.Generator, labels: Sequence[str] = VIEWPOINTS, sizes: CropSizes = DEFAULT_CROPS
) -> ToyAnchors:
    """One body crop for each label, in any expression."""
    num = len(labels)
    yaw_T = np.array([VIEW_YAW[label] for label in labels]) + rng.uniform(-MAX_VIEW_JITTER, MAX_VIEW_JITTER, num)
    worn = rng.integers(len(EXPRESSIONS), size=num)
    poses = _poses(source, rng, yaw_T, yaw_T + rng.uniform(-_HEAD_JITTER, _HEAD_JITTER, num), worn, BODY_VIEW, 0.505)
    images_THWC = render(source.look, poses, source.backdrop, source.tint_T3, *sizes.viewpoint)
    return ToyAnchors(_labelled("viewpoint", labels, images_THWC), poses)


def expression_anchors(
    source: Source, rng: np.random.Generator, labels: Sequence[str] = EXPRESSIONS, sizes: CropSizes = DEFAULT_CROPS
) -> ToyAnchors:
    """One head crop for each label, from anywhere in front and in another light."""
    num = len(labels)
    head_yaw_T = rng.uniform(-MAX_EXPRESSION_YAW, MAX_EXPRESSION_YAW, num)
    yaw_T = head_yaw_T + rng.uniform(-_HEAD_JITTER, _HEAD_JITTER, num)
    worn = np.array([EXPRESSIONS.index(label) for label in labels])
    poses = _poses(source, rng, yaw_T, head_yaw_T, worn, HEAD_VIEW, HEAD_Y)
    tint_T3 = source.tint_T3 * torch.from_numpy(rng.uniform(*_TINT, (num, 3)).astype(np.float32))
    images_THWC = render(source.look, poses, source.backdrop, tint_T3, *sizes.expression)
    return ToyAnchors(_labelled("expression", labels, images_THWC), poses)


def global_anchor(source: Source, frame: int) -> ToyAnchors:
    """One whole frame of the video."""
    poses = source.poses(frame, 1)
    return ToyAnchors(_labelled("global", ("global",), source.picture(poses)), poses)


def global_frame(source: Source, rng: np.random.Generator, clip: tuple[int, int], is_inside: bool) -> int:
    """A random frame inside or outside of a clip (first frame, number of frames)."""
    first, num = clip
    if is_inside or num >= source.num_frames:
        return int(first + rng.integers(num))
    frame = int(rng.integers(source.num_frames - num))
    return frame if frame < first else frame + num


def _poses(
    source: Source,
    rng: np.random.Generator,
    yaw_T: np.ndarray,
    head_yaw_T: np.ndarray,
    worn: np.ndarray,
    view: float,
    center_y: float,
) -> Poses:
    num = len(yaw_T)
    x_T = np.full(num, source.program.x)
    jitter = rng.uniform(-_CROP_JITTER, _CROP_JITTER, (num, 2))
    zoom = VIEW_HEIGHT / view * np.exp(rng.uniform(-0.03, 0.03, num))
    speech_T = rng.uniform(0, 0.8, num) * (rng.uniform(size=num) < 0.3)
    return Poses(
        yaw_T=_tensor(yaw_T),
        head_yaw_T=_tensor(head_yaw_T),
        x_T=_tensor(x_T),
        bob_T=_tensor(np.zeros(num)),
        lean_T=_tensor(rng.uniform(-0.02, 0.02, num)),
        expression_TE=torch.nn.functional.one_hot(torch.from_numpy(worn), len(EXPRESSIONS)).float(),
        speech_T=_tensor(speech_T),
        camera_T3=_tensor(np.stack([x_T + jitter[:, 0], center_y + jitter[:, 1], zoom], -1)),
    )


def _labelled(kind: str, labels: Sequence[str], images_THWC: Tensor) -> tuple[Anchor, ...]:
    return tuple(Anchor(kind, label, image_HWC) for label, image_HWC in zip(labels, images_THWC, strict=True))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
