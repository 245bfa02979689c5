"""A video and moments enter, pictures and their crops leave; one picture is in memory at a time.

Legend: H W pixels, C colors, h w pixels of a small picture.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.read_clip import CLOCK_SECONDS, pictures_at
from .records import Span

# Moments further apart than this are sought, nearer ones decoded through.
_SEEK_GAP_SECONDS = 4.0
_LUMA = (0.299, 0.587, 0.114)
# Sharpness is measured at this height, so that footage of all sizes is measured alike.
_SHARPNESS_HEIGHT = 256
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_THUMB = 8


def sample_times(span: Span, rate: float) -> list[float]:
    """Even moments of a span from its start on, the last one safely inside."""
    count = max(1, math.ceil((span.seconds - 2 * CLOCK_SECONDS) * rate - 1e-6))
    return [span.start + idx / rate for idx in range(count)]


def pictures(video: Path, times: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """Rising moments with their uint8 pictures [H, W, C]."""
    group: list[float] = []
    for time in [*times, math.inf]:
        if group and time - group[-1] > _SEEK_GAP_SECONDS:
            yield from zip(group, pictures_at(video, group), strict=True)
            group = []
        group.append(time)


def crop_box(picture_HWC: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The part of a picture inside left, top, width, height."""
    left, top, width, height = box
    return picture_HWC[top : top + height, left : left + width]


def scaled_down(picture_HWC: Tensor, height: int) -> Tensor:
    """The uint8 picture [h, w, C] at `height`, if it is higher."""
    if picture_HWC.shape[0] <= height:
        return picture_HWC
    size = (height, max(1, round(height * picture_HWC.shape[1] / picture_HWC.shape[0])))
    # On bytes as they lie in memory this is many times faster than on numbers.
    small_1Chw = F.interpolate(picture_HWC.movedim(-1, 0)[None], size=size, mode="bilinear", antialias=True)
    return small_1Chw[0].movedim(0, -1)


def luma(picture_HWC: Tensor, height: int) -> Tensor:
    """Brightness [h, w] from 0 to 1 of a picture scaled down to `height`, if it is higher."""
    return scaled_down(picture_HWC, height).float() @ torch.tensor(_LUMA) / 255


def sharpness(picture_HWC: Tensor) -> float:
    """Variance of the Laplacian of 8-bit brightness; a blurred picture has a low one."""
    gray_hw = luma(picture_HWC, _SHARPNESS_HEIGHT) * 255
    if min(gray_hw.shape) < 3:
        return 0.0
    edges = F.conv2d(gray_hw[None, None], torch.tensor(_LAPLACIAN)[None, None])
    return float(edges.var(correction=0))


def exposure(picture_HWC: Tensor) -> float:
    """1 for a well lit picture, towards 0 for one that is nearly black or nearly white."""
    mean = float(luma(picture_HWC, _SHARPNESS_HEIGHT).mean())
    return max(0.0, 1 - (2 * mean - 1) ** 4)


def thumbnail(picture_HWC: Tensor) -> Tensor:
    """A tiny picture as one vector: what tells two anchors of one label apart without any model."""
    small = F.interpolate(picture_HWC.float().movedim(-1, 0)[None] / 255, size=(_THUMB, _THUMB), mode="area")
    return small.flatten()
