"""A video's pictures enter, the moments of its cuts leave.

The measure is that of PySceneDetect's AdaptiveDetector: how much hue, saturation and brightness change from picture to
picture, held against the pictures around, so that a moving camera is no cut. The library itself would bring a second
OpenCV into most ComfyUI installations; a test compares the cuts of both.

Legend: H W pixels, C colors, h w pixels of a small picture, N changes.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .frames import sample_times, scaled_down
from .records import Span

# Cuts are looked for on an even grid, so that a variable frame rate is no matter.
_RATE = 24.0
_HEIGHT = 144
# A little below 14 moments, so that rounding does not decide.
_MIN_SHOT_SECONDS = 0.58
# PySceneDetect's defaults, in steps of 8-bit colors and of the mean change around.
_MIN_CHANGE = 15.0
_MIN_RATIO = 3.0
_AROUND = 2


def times_for_cuts(seconds: float) -> list[float]:
    """The moments of a video that `find_cuts` looks at."""
    return sample_times(Span(start=0.0, end=seconds), _RATE)


def find_cuts(pictures: Iterable[tuple[float, Tensor]]) -> list[float]:
    """Seconds of the first picture of every shot but the first.

    Args:
        pictures: the moments of `times_for_cuts` and what they show.
    """
    moments: list[float] = []
    changes: list[float] = []
    shown, before = None, None
    for time, picture_HWC in pictures:
        if picture_HWC is shown:  # fewer pictures a second than moments: nothing new was shown
            continue
        shown = picture_HWC
        colors = hue_saturation_value(scaled_down(picture_HWC, _HEIGHT))
        moments.append(time)
        changes.append(0.0 if before is None else float((colors - before).abs().mean()))
        before = colors
    return [moments[idx] for idx in cuts_of(np.array(moments), np.array(changes))]


def hue_saturation_value(picture_hwC: Tensor) -> Tensor:
    """Hue from 0 to 180, saturation and value from 0 to 255 [h, w, 3], as OpenCV scales them for bytes."""
    red, green, blue = picture_hwC.float().unbind(-1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = spread.clamp(min=1)
    blue_or_green = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sextant = torch.where(value == red, (green - blue) / divisor, blue_or_green)
    hue = torch.where(spread == 0, 0, sextant % 6 * 30)
    return torch.stack([hue, 255 * spread / value.clamp(min=1), value], -1)


def cuts_of(moments_N: np.ndarray, changes_N: np.ndarray) -> list[int]:
    """Places of the changes that are cuts: great, far greater than those around, and not soon after another."""
    found, last = [], 0
    for idx in range(_AROUND, len(changes_N) - _AROUND):
        near = changes_N[idx - _AROUND : idx + _AROUND + 1]
        around = (near.sum() - changes_N[idx]) / (2 * _AROUND)
        is_cut = changes_N[idx] >= max(_MIN_CHANGE, _MIN_RATIO * around)
        if is_cut and moments_N[idx] - moments_N[last] >= _MIN_SHOT_SECONDS:
            found.append(idx)
            last = idx
    return found
