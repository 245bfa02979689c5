"""Ellipsoids enter, one after the other, and blend into frames with soft edges and a soft depth test.

Legend: T frames, H W pixels, h w pixels of a part's box. Local coordinates u (to the character's left), v (up),
d (towards its front) are in radii of the part; depth and sizes in heights of the character.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

# Heights of the character that a picture shows at zoom 1.
VIEW_HEIGHT = 1.16
_FAR = -10.0
# Depth over which two parts that cut through each other blend.
_SOFT_DEPTH = 0.02
_OUTLINE_WIDTH = 0.017
_OUTLINE_DARKNESS = 0.5
_LIGHT = (-0.42, 0.52, 0.74)
# Grazing surface shows many texels per pixel; beyond this the limb hides them anyway.
_MAX_STRETCH = 3.0


class Ellipsoid(NamedTuple):
    """One part with a circular horizontal section: place on the picture plane and towards the camera, size, yaw."""

    x_T: Tensor
    y_T: Tensor
    depth_T: Tensor
    radius: Tensor | float
    """Float or [T, 1, 1]."""
    half_height: Tensor | float
    yaw_T: Tensor


@dataclass(frozen=True, eq=False)
class Surface:
    """The visible side of a part, pixel by pixel of its box; what a part does not ask for is not computed."""

    rows: slice
    columns: slice
    cover: Tensor
    """How much of a pixel the part's silhouette covers."""
    nx: Tensor
    """With v and nz the point on the unit sphere, as the camera sees it."""
    v: Tensor
    nz: Tensor
    sin: Tensor
    cos: Tensor
    radius_px: Tensor
    depth: Tensor
    shade: Tensor

    @cached_property
    def u(self) -> Tensor:
        """Local coordinates: to the character's left,"""
        return self.nx * self.cos - self.nz * self.sin

    @cached_property
    def d(self) -> Tensor:
        """and to the front."""
        return self.nx * self.sin + self.nz * self.cos

    @cached_property
    def back_u(self) -> Tensor:
        """u and d of the point behind, on the far side of the part."""
        return self.nx * self.cos + self.nz * self.sin

    @cached_property
    def back_d(self) -> Tensor:
        """See `back_u`."""
        return self.nx * self.sin - self.nz * self.cos

    @cached_property
    def softness(self) -> Tensor:
        """Size of a pixel on the part, in radii."""
        stretch = (self.cos + self.sin * self.nx / self.nz).abs_().clamp_(1, _MAX_STRETCH)
        return stretch / self.radius_px

    @property
    def shape(self) -> torch.Size:
        """T, h, w."""
        return self.nz.shape


class Canvas:
    """Frames in the making: premultiplied color, coverage and depth.

    Args:
        keeps_marks: also note which share of each pixel lies on a mark or a cheek.
    """

    def __init__(self, camera_T3: Tensor, height: int, width: int, keeps_marks: bool) -> None:
        num = camera_T3.shape[0]
        self.camera_T3, self.height, self.width = camera_T3, height, width
        self.unit_T = height / VIEW_HEIGHT * camera_T3[:, 2]
        self.color_T3HW = camera_T3.new_zeros(num, 3, height, width)
        self.cover_THW = camera_T3.new_zeros(num, height, width)
        self.depth_THW = camera_T3.new_full((num, height, width), _FAR)
        self.marked_THW = torch.zeros_like(self.cover_THW) if keeps_marks else None

    def surface(self, part: Ellipsoid) -> Surface | None:
        """What the camera sees of a part; None where it is out of the picture."""
        unit = self.unit_T[:, None, None]
        x_px = self.width / 2 + (part.x_T - self.camera_T3[:, 0])[:, None, None] * unit
        y_px = self.height / 2 - (part.y_T - self.camera_T3[:, 1])[:, None, None] * unit
        radius_px, half_px = part.radius * unit, part.half_height * unit
        columns = _span(x_px, radius_px, self.width)
        rows = _span(y_px, half_px, self.height)
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return None
        nx = (torch.arange(columns.start, columns.stop, device=unit.device) + 0.5 - x_px) / radius_px
        ny = (y_px - torch.arange(rows.start, rows.stop, device=unit.device)[:, None] - 0.5) / half_px
        r2 = nx * nx + ny * ny
        # First-order distance to the silhouette, in pixels.
        slope = ((nx / radius_px) ** 2 + (ny / half_px) ** 2).sqrt_().mul_(2).clamp_min_(1e-6)
        edge = (1 - r2) / slope
        nz = (1 - r2).clamp_min_(1e-4).sqrt_()
        sin, cos = torch.sin(part.yaw_T)[:, None, None], torch.cos(part.yaw_T)[:, None, None]
        light = nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2]
        outline = (edge / (_OUTLINE_WIDTH * unit)).clamp_(0, 1)
        shade = (0.80 + 0.26 * light).mul_(_OUTLINE_DARKNESS + (1 - _OUTLINE_DARKNESS) * outline)
        return Surface(
            rows=rows,
            columns=columns,
            cover=(edge + 0.5).clamp_(0, 1),
            nx=nx,
            v=ny,
            nz=nz,
            sin=sin,
            cos=cos,
            radius_px=radius_px,
            depth=part.depth_T[:, None, None] + part.radius * nz,
            shade=shade,
        )

    def blend(
        self, surface: Surface, color_T3hw: Tensor, cover: Tensor, depth: Tensor, marked: Tensor | None = None
    ) -> None:
        """Put colors on the canvas where nothing nearer is there yet.

        Args:
            marked: share of each pixel of the surface that lies on a mark or a cheek; None: nothing of it.
        """
        rows, columns = surface.rows, surface.columns
        there = self.depth_THW[:, rows, columns]
        weight = ((depth - there) / _SOFT_DEPTH + 0.5).clamp_(0, 1).mul_(cover)
        self.color_T3HW[:, :, rows, columns].lerp_(color_T3hw, weight[:, None])
        self.cover_THW[:, rows, columns].lerp_(torch.ones_like(weight), weight)
        if self.marked_THW is not None:
            self.marked_THW[:, rows, columns].lerp_(torch.zeros_like(weight) if marked is None else marked, weight)
        there.copy_(torch.where(cover > 0.5, torch.maximum(depth, there), there))

    def shadow(self, x_T: Tensor, y: float, half_width: float, opacity: float) -> None:
        """Darken the floor below the character."""
        zero_T = torch.zeros_like(x_T)
        surface = self.surface(Ellipsoid(x_T, zero_T + y, zero_T, half_width, 0.25 * half_width, zero_T))
        if surface is not None:
            soft = (1.2 - 1.2 * (surface.nx**2 + surface.v**2)).clamp_(0, 1)
            self.cover_THW[:, surface.rows, surface.columns] = soft * opacity


def _span(center: Tensor, radius: Tensor, limit: int) -> slice:
    """Pixels that a part can touch in any of the frames."""
    low, high = (center - radius).min(), (center + radius).max()
    return slice(max(0, int(low.floor()) - 1), min(limit, int(high.ceil()) + 1))
