"""A seed enters, a room leaves: two-color wall, floor and three props, painted once and then panned and zoomed.

Legend: B rooms, T frames, H W pixels, h w texels. World: x to the image's right, y up, the floor under the feet at 0,
the character 1 high.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .palette import MARK_COLORS, Color, from_hsv

WALL_PATTERNS = ("plain", "stripes", "checks", "dots", "waves", "planks")
PROP_KINDS = ("ball", "crate", "tree", "lamp", "picture", "window")
NUM_PROPS = 3
_STREAM = 21
# What is painted: more than any camera sees.
_LEFT, _RIGHT, _BOTTOM, _TOP = -1.15, 1.15, -0.35, 1.4
_FLOOR_EDGE = 0.1
# Texels per pixel of the frame that the room is painted for.
_OVERSAMPLING = 1.5


@dataclass(frozen=True)
class Prop:
    """One object of the room: on the floor (ball, crate, tree, lamp) or on the wall (picture, window)."""

    kind: str
    color: Color
    x: float
    size: float


@dataclass(frozen=True)
class Scene:
    """The room and the light of one source video."""

    wall: Color
    pattern_color: Color
    floor: Color
    pattern: str
    pattern_scale: float
    pattern_angle: float
    props: tuple[Prop, ...]
    tint: Color
    """What the camera multiplies red, green and blue with."""


def make_scene(seed: int) -> Scene:
    """The room of this number."""
    rng = np.random.default_rng((_STREAM, seed))
    hue, saturation, value = rng.uniform(), rng.uniform(0.12, 0.42), rng.uniform(0.62, 0.95)
    second_hue = hue + rng.uniform(-0.12, 0.12) + 0.5 * (rng.uniform() < 0.25)
    # One prop on each side of the character, the third on the wall or beside one of them.
    places = [rng.uniform(-0.5, -0.4), rng.uniform(0.4, 0.5), rng.choice([-1, 1]) * rng.uniform(0.3, 0.45)]
    kinds = [*rng.choice(PROP_KINDS[:4], size=2, replace=False), PROP_KINDS[4 + rng.integers(2)]]
    colors = rng.permutation(6)[:NUM_PROPS]
    gain = rng.uniform(0.92, 1.0)
    return Scene(
        wall=from_hsv(hue, saturation, value),
        pattern_color=from_hsv(second_hue % 1, saturation * rng.uniform(0.7, 1.5), value * rng.uniform(0.8, 0.92)),
        floor=from_hsv((hue + rng.uniform(-0.1, 0.1)) % 1, rng.uniform(0.2, 0.45), value * rng.uniform(0.5, 0.7)),
        pattern=WALL_PATTERNS[rng.integers(len(WALL_PATTERNS))],
        pattern_scale=rng.uniform(0.13, 0.22),
        pattern_angle=rng.uniform(-0.5, 0.5),
        props=tuple(
            Prop(str(kind), _softened(MARK_COLORS[color], rng), float(x), rng.uniform(0.85, 1.15))
            for kind, color, x in zip(kinds, colors, places, strict=True)
        ),
        tint=tuple(float(gain * rng.uniform(0.97, 1.0)) for _ in range(3)),
    )


def _softened(color: Color, rng: np.random.Generator) -> Color:
    weight = rng.uniform(0.15, 0.35)
    return tuple(float((1 - weight) * value + weight * 0.6) for value in color)


@dataclass(frozen=True, eq=False)
class Backdrop:
    """Painted rooms.

    Args:
        texels_B3hw: their colors, top row first.
    """

    texels_B3hw: Tensor

    def shot(self, camera_T3: Tensor, height: int, width: int, view_height: float) -> Tensor:
        """Frames [T, 3, H, W] of cameras (x, y, zoom), equally many in each room, room after room."""
        center_x, center_y, zoom = (camera_T3[:, idx, None] for idx in range(3))
        unit = view_height / zoom / height
        rows = (torch.arange(height, device=camera_T3.device) + 0.5 - height / 2) * -unit + center_y
        columns = (torch.arange(width, device=camera_T3.device) + 0.5 - width / 2) * unit + center_x
        grid_y = 1 - 2 * (rows - _BOTTOM) / (_TOP - _BOTTOM)
        grid_x = 2 * (columns - _LEFT) / (_RIGHT - _LEFT) - 1
        grid_y, grid_x = torch.broadcast_tensors(grid_y[:, :, None], grid_x[:, None, :])
        # The shots of one room, one below the other, are one picture of it.
        num_rooms = self.texels_B3hw.shape[0]
        grid = torch.stack([grid_x, grid_y], -1).view(num_rooms, -1, width, 2)
        shots = F.grid_sample(self.texels_B3hw, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return shots.view(num_rooms, 3, -1, height, width).movedim(1, 2).reshape(-1, 3, height, width)


def paint(scene: Scene, pixels_per_unit: float, device: torch.device | str = "cpu") -> Backdrop:
    """Paint the room for frames of about this scale."""
    density = pixels_per_unit * _OVERSAMPLING
    height, width = round((_TOP - _BOTTOM) * density), round((_RIGHT - _LEFT) * density)
    y = _TOP - (torch.arange(height, device=device)[:, None] + 0.5) / density
    x = _LEFT + (torch.arange(width, device=device)[None, :] + 0.5) / density
    y, x = y.expand(height, width), x.expand(height, width)
    # Edges as soft as one pixel of the frame, not one texel: nothing is left to alias.
    brush = _Brush(x, y, 1 / pixels_per_unit)
    brush.fill(scene.wall)
    brush.cover(_pattern(scene, x, y), scene.pattern_color)
    for prop in scene.props:
        if prop.kind in PROP_KINDS[4:]:
            _PAINTERS[prop.kind](brush, prop)
    brush.cover(y - _FLOOR_EDGE, scene.floor)
    brush.cover((y - _FLOOR_EDGE).abs() - 0.012, tuple(0.75 * value for value in scene.floor))
    for prop in scene.props:
        if prop.kind in PROP_KINDS[:4]:
            _PAINTERS[prop.kind](brush, prop)
    return Backdrop(brush.texels_3hw[None])


class _Brush:
    """Texels of the room and the two ways to put color on them."""

    def __init__(self, x: Tensor, y: Tensor, softness: float) -> None:
        self.x, self.y, self.softness = x, y, softness
        self.texels_3hw = x.new_zeros(3, *x.shape)

    def fill(self, color: Color) -> None:
        self.texels_3hw += self.texels_3hw.new_tensor(color).view(3, 1, 1)

    def cover(self, distance: Tensor, color: Color, opacity: float = 1.0) -> None:
        """Paint where the signed distance is negative."""
        cover_hw = (0.5 - distance / self.softness).clamp(0, 1) * opacity
        self.texels_3hw.lerp_(self.texels_3hw.new_tensor(color).view(3, 1, 1), cover_hw)

    def shadow(self, x: float, y: float, half_width: float) -> None:
        self.cover(_ellipse(self.x - x, self.y - y, half_width, half_width * 0.25), (0.0, 0.0, 0.0), 0.25)


def _pattern(scene: Scene, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the second color of the wall."""
    scale, cos, sin = scene.pattern_scale, math.cos(scene.pattern_angle), math.sin(scene.pattern_angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    if scene.pattern == "stripes":
        return _wave(along / scale) * scale
    if scene.pattern == "planks":
        return _wave(y / scale * 0.8) * scale
    if scene.pattern == "waves":
        return _wave((y + 0.05 * torch.sin(x * 2 * math.pi / 0.5)) / scale) * scale
    if scene.pattern == "checks":
        first, second = _wave(along / scale) * scale, _wave(across / scale) * scale
        return torch.maximum(torch.minimum(first, second), -torch.maximum(first, second))
    if scene.pattern == "dots":
        u, v = (along / scale) % 1 - 0.5, (across / scale) % 1 - 0.5
        return (torch.hypot(u, v) - 0.27) * scale
    return torch.ones_like(x)


def _wave(phase: Tensor) -> Tensor:
    """Triangle wave of period 1: distance to the nearest edge, negative in one half."""
    return ((phase % 1) - 0.5).abs() - 0.25


def _ellipse(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return (torch.hypot(x / half_width, y / half_height) - 1) * min(half_width, half_height)


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _shaded(color: Color, factor: float) -> Color:
    return tuple(min(1.0, factor * value) for value in color)


def _ball(brush: _Brush, prop: Prop) -> None:
    radius = 0.11 * prop.size
    x, y = brush.x - prop.x, brush.y - radius - 0.01
    brush.shadow(prop.x, 0.01, radius)
    brush.cover(_ellipse(x, y, radius, radius), _shaded(prop.color, 0.8))
    brush.cover(_ellipse(x + 0.015, y - 0.015, radius * 0.8, radius * 0.8), prop.color)
    brush.cover(_box(x, y, radius * 0.82, radius * 0.16), (0.96, 0.95, 0.92))


def _crate(brush: _Brush, prop: Prop) -> None:
    half = 0.105 * prop.size
    x, y = brush.x - prop.x, brush.y - half
    brush.shadow(prop.x, 0.0, half * 1.2)
    brush.cover(_box(x, y, half, half), _shaded(prop.color, 0.7))
    brush.cover(_box(x, y, half * 0.72, half * 0.72), prop.color)
    plank = torch.maximum((x - y).abs() / 1.41 - half * 0.13, _box(x, y, half * 0.8, half * 0.8))
    brush.cover(plank, _shaded(prop.color, 0.7))


def _tree(brush: _Brush, prop: Prop) -> None:
    size = 0.15 * prop.size
    x = brush.x - prop.x
    brush.shadow(prop.x, 0.0, size * 0.7)
    brush.cover(_box(x, brush.y - 0.05, 0.03, 0.06), (0.45, 0.30, 0.22))
    for step, factor in ((0, 0.8), (1, 0.95), (2, 1.1)):
        base, height = 0.09 + 0.13 * step * prop.size, 0.2 * prop.size
        half = size * (1 - 0.22 * step)
        slope = math.hypot(height, half)
        sides = (height * x.abs() + half * (brush.y - base - height)) / slope
        brush.cover(torch.maximum(sides, base - brush.y), _shaded(prop.color, factor))


def _lamp(brush: _Brush, prop: Prop) -> None:
    top = 0.62 * prop.size
    x, y = brush.x - prop.x, brush.y
    brush.shadow(prop.x, 0.01, 0.08)
    brush.cover(_box(x, y - top / 2, 0.012, top / 2), (0.30, 0.28, 0.30))
    brush.cover(_ellipse(x, y - 0.015, 0.07, 0.025), (0.30, 0.28, 0.30))
    brush.cover(_ellipse(x, y - top, 0.24, 0.2), (1.0, 0.95, 0.75), 0.25)
    shade = torch.maximum((y - top).abs() - 0.075, (x.abs() + 0.35 * (y - top) - 0.1) / 1.06)
    brush.cover(shade, prop.color)


def _picture(brush: _Brush, prop: Prop) -> None:
    half_width, half_height = 0.12 * prop.size, 0.1 * prop.size
    x, y = brush.x - prop.x, brush.y - 0.85
    brush.cover(_box(x, y, half_width, half_height), (0.40, 0.28, 0.20))
    brush.cover(_box(x, y, half_width - 0.025, half_height - 0.025), (0.95, 0.93, 0.86))
    hill = torch.maximum(_box(x, y, half_width - 0.025, half_height - 0.025), y + 0.02 + 0.25 * x.abs())
    brush.cover(hill, prop.color)
    brush.cover(_ellipse(x - 0.03, y - 0.035, 0.02, 0.02), prop.color)


def _window(brush: _Brush, prop: Prop) -> None:
    half_width, half_height = 0.13 * prop.size, 0.15 * prop.size
    x, y = brush.x - prop.x, brush.y - 0.8
    brush.cover(_box(x, y, half_width, half_height), (0.97, 0.96, 0.93))
    brush.cover(
        _box(x.abs() - half_width * 0.49, y.abs() - half_height * 0.49, half_width * 0.39, half_height * 0.39),
        prop.color,
    )


_PAINTERS = {"ball": _ball, "crate": _crate, "tree": _tree, "lamp": _lamp, "picture": _picture, "window": _window}
