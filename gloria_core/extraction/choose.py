"""Measured crops enter, how good each is and the few best that differ leave.

Legend: K candidates, D width of a feature.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .backends import Box


class Crop(NamedTuple):
    """A crop inside the picture and how much of it was cut away."""

    box: tuple[int, int, int, int]
    """Left, top, width, height."""
    cut_off: str | None
    """The side of the picture at which the subject itself ends."""


def fitted_crop(subject: Box, margin: float, size: tuple[int, int], border: float) -> Crop | None:
    """The box around a subject with a margin, inside a picture of `size` (height, width).

    Args:
        margin: in parts of the subject's box, on every side.
        border: how near to the edge, in parts of the picture, a subject counts as cut off.
    """
    height, width = size
    grow_x, grow_y = margin * (subject.right - subject.left), margin * subject.height
    left, top = max(0, math.floor(subject.left - grow_x)), max(0, math.floor(subject.top - grow_y))
    right, bottom = min(width, math.ceil(subject.right + grow_x)), min(height, math.ceil(subject.bottom + grow_y))
    if right - left < 1 or bottom - top < 1:
        return None
    edges = {
        "left": subject.left / width, "right": 1 - subject.right / width,
        "top": subject.top / height, "bottom": 1 - subject.bottom / height,
    }  # fmt: skip
    side = min(edges, key=lambda name: (edges[name], name))
    # Feet out of the picture are usual; the other sides count first.
    others = [name for name in ("left", "right", "top") if edges[name] < border]
    cut_off = others[0] if others else (side if edges[side] < border else None)
    return Crop((left, top, right - left, bottom - top), cut_off)


def quality_score(factors: Sequence[float]) -> float:
    """Geometric mean of factors from 0 to 1: one bad factor spoils a candidate, as it spoils an anchor."""
    if not factors or min(factors) <= 0:
        return 0.0
    return math.exp(sum(math.log(min(1.0, factor)) for factor in factors) / len(factors))


def diverse_best(
    qualities: Sequence[float], times: Sequence[float], features_KD: Tensor, most: int, apart_seconds: float
) -> list[int]:
    """The best candidate, then those that differ most from all chosen ones, weighed by quality."""
    chosen: list[int] = []
    while len(chosen) < most:
        free = [
            idx for idx in range(len(times)) if all(abs(times[idx] - times[each]) >= apart_seconds for each in chosen)
        ]
        if not free:
            break
        if chosen:
            nearest_K = torch.cdist(features_KD[free], features_KD[chosen]).amin(1)
            worth = [float(nearest) * qualities[idx] for nearest, idx in zip(nearest_K, free, strict=True)]
        else:
            worth = [qualities[idx] for idx in free]
        chosen.append(free[max(range(len(free)), key=lambda place: (worth[place], -times[free[place]]))])
    return chosen
