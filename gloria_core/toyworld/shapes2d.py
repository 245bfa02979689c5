"""Points of a plane enter, signed distances to the eight mark shapes leave (negative inside, in half widths)."""

import math

import torch
from torch import Tensor

MARK_SHAPES = ("disc", "ring", "triangle", "heart", "plus", "cross", "stripes", "pillars")
# Behind the shapes in the table: all that any of them can cover.
PATCH = len(MARK_SHAPES)
# Shapes reach to 1 on both axes; the table goes on so that outlines can be drawn around them.
ATLAS_REACH = 1.5
ATLAS_SIDE = 160


def shape_atlas(device: torch.device | str = "cpu") -> Tensor:
    """Distances [shape and patch, y, x] on a grid over -ATLAS_REACH..ATLAS_REACH, y up: one look-up draws any shape."""
    axis = ((torch.arange(ATLAS_SIDE, device=device) + 0.5) / ATLAS_SIDE * 2 - 1) * ATLAS_REACH
    y, x = axis[:, None].expand(ATLAS_SIDE, ATLAS_SIDE), axis[None, :].expand(ATLAS_SIDE, ATLAS_SIDE)
    radius = torch.hypot(x, y)
    diagonal = (x + y).abs() / math.sqrt(2), (x - y).abs() / math.sqrt(2)
    distances = {
        "disc": radius - 0.92,
        "ring": (radius - 0.70).abs() - 0.26,
        "triangle": _triangle(x, y),
        "heart": _heart(x, y),
        "plus": torch.minimum(_box(x, y, 0.95, 0.30), _box(x, y, 0.30, 0.95)),
        "cross": torch.minimum(_box(*diagonal, 1.15, 0.28), _box(*diagonal, 0.28, 1.15)),
        "stripes": _box(x, y.abs() - 0.55, 0.92, 0.30),
        "pillars": _box(x.abs() - 0.55, y, 0.30, 0.92),
    }
    return torch.stack([*(distances[name] for name in MARK_SHAPES), _box(x, y, 1.0, 1.0)])


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    slope = math.hypot(1.85, 1.0)
    return torch.maximum(-0.85 - y, (1.85 * x.abs() + y - 1.0) / slope)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    lobes = torch.hypot(x.abs() - 0.46, y - 0.36) - 0.50
    point = torch.maximum((x.abs() * 1.05 - y - 0.92) / 1.45, y - 0.42)
    return torch.minimum(lobes, point)
