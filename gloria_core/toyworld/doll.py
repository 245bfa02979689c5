"""A look and poses enter, the character painted on a canvas leaves: what its parts are and what is painted on them.

Legend: T frames, h w pixels of a part's box; u, v, d as in canvas.py.
"""

import torch
from torch import Tensor

from ..conditioning.anchors import VIEWPOINTS
from .canvas import Canvas, Ellipsoid, Surface
from .face import FaceCanvas, FaceInks, draw_cheeks, draw_face, face_table
from .look import Look, Style
from .poses import Poses
from .shapes2d import ATLAS_REACH, ATLAS_SIDE

HEAD_Y, HEAD_RADIUS, HEAD_HALF_HEIGHT = 0.725, 0.25, 0.235
_TORSO_Y, _TORSO_RADIUS, _TORSO_HALF_HEIGHT = 0.335, 0.17, 0.205
_ARM_X, _ARM_Y, _ARM_RADIUS, _ARM_HALF_HEIGHT = 0.205, 0.335, 0.094, 0.15
_LEG_X, _LEG_Y, _LEG_RADIUS, _LEG_HALF_HEIGHT = 0.082, 0.13, 0.085, 0.12
_SHOE_FORWARD, _SHOE_Y, _SHOE_RADIUS, _SHOE_HALF_HEIGHT = 0.03, 0.042, 0.085, 0.045
# Half widths of the marks in heights of the character, and how high they sit on their part (in its half heights).
_TORSO_MARK, _TORSO_MARK_V = 0.118, 0.06
_SLEEVE_MARK, _SLEEVE_MARK_V = 0.082, 0.22
_MARK_BORDER = 0.15
_EAR_X, _EAR_Y, _EAR_RADIUS = 0.248, -0.035, 0.05
_BUN_X, _BUN_Y, _TAIL_Y, _TAIL_BACK = 0.185, 0.20, 0.0, 0.27
FRONT, BACK, LEFT, RIGHT = (VIEWPOINTS.index(name) for name in ("front", "back", "left", "right"))


def draw_doll(canvas: Canvas, look: Look, poses: Poses, atlas: Tensor) -> None:
    """Paint the character, far parts first."""
    painter = _Painter(canvas, look, poses, atlas)
    canvas.shadow(poses.x_T, 0.02, 0.24, 0.3)
    # The character's left is near where its left side is turned to the camera.
    near_T = torch.where(torch.sin(poses.yaw_T) < 0, 1.0, -1.0)
    head, hair = painter.head_shape(), painter.hair_shape()
    for side_T in (-near_T, near_T):
        painter.legs(side_T)
    painter.arm(-near_T)
    painter.torso()
    painter.arm(near_T)
    painter.hair(hair, is_back=True)
    painter.tail()
    painter.head(head)
    painter.hair(hair, is_back=False)
    for side_T in (-near_T, near_T):
        painter.ear(side_T)
        painter.bun(side_T)


class _Painter:
    """One canvas, one look, one set of poses."""

    def __init__(self, canvas: Canvas, look: Look, poses: Poses, atlas: Tensor) -> None:
        self.canvas, self.look, self.poses, self.atlas = canvas, look, poses, atlas

    def torso(self) -> None:
        surface = self._body_surface(0.0, 0.0, _TORSO_Y, _TORSO_RADIUS, _TORSO_HALF_HEIGHT)
        if surface is None:
            return
        color = _filled(surface, self.look.shirt_T3)
        belt = _cover(surface, surface.v + 0.48)
        _paint(color, belt, self.look.trousers_T3)
        side = torch.sign(surface.d)
        size = _TORSO_MARK / _TORSO_RADIUS
        v = (surface.v - _TORSO_MARK_V) * (_TORSO_HALF_HEIGHT / _TORSO_RADIUS)
        is_front = surface.d > 0
        shape = torch.where(is_front, *(self.look.mark_shape_T4[:, idx, None, None] for idx in (FRONT, BACK)))
        ink = torch.where(
            is_front[:, None], *(self.look.mark_color_T43[:, idx, :, None, None] for idx in (FRONT, BACK))
        )
        marked = self._mark(color, side * surface.u / size, v / size, shape, ink, surface.softness / size)
        self._blend(surface, color, marked)

    def arm(self, side_T: Tensor) -> None:
        surface = self._body_surface(side_T * _ARM_X, 0.0, _ARM_Y, _ARM_RADIUS, _ARM_HALF_HEIGHT)
        if surface is None:
            return
        color = _filled(surface, 0.92 * self.look.shirt_T3)
        _paint(color, _cover(surface, surface.v + 0.62), self.look.skin_T3)
        is_left_T = side_T > 0
        shape_T = torch.where(is_left_T, *(self.look.mark_shape_T4[:, idx] for idx in (LEFT, RIGHT)))
        ink_T3 = torch.where(is_left_T[:, None], *(self.look.mark_color_T43[:, idx] for idx in (LEFT, RIGHT)))
        side = side_T[:, None, None]
        size = _SLEEVE_MARK / _ARM_RADIUS
        v = (surface.v - _SLEEVE_MARK_V) * (_ARM_HALF_HEIGHT / _ARM_RADIUS)
        # On the inner side of the sleeve there is nothing: far outside every shape.
        x = torch.where(surface.u * side > 0, -side * surface.d / size, 9.0)
        shape, ink = shape_T[:, None, None], ink_T3[:, :, None, None]
        marked = self._mark(color, x, v / size, shape, ink, surface.softness / size)
        self._blend(surface, color, marked)

    def legs(self, side_T: Tensor) -> None:
        leg = self._body_surface(side_T * _LEG_X, 0.0, _LEG_Y, _LEG_RADIUS, _LEG_HALF_HEIGHT)
        if leg is not None:
            self._blend(leg, self.look.trousers_T3[:, :, None, None])
        shoe = self._body_surface(side_T * _LEG_X, _SHOE_FORWARD, _SHOE_Y, _SHOE_RADIUS, _SHOE_HALF_HEIGHT)
        if shoe is not None:
            color = _filled(shoe, self.look.shoes_T3)
            _paint(color, _cover(shoe, shoe.v + 0.45), (0.93, 0.92, 0.90))
            self._blend(shoe, color)

    def head(self, part: Ellipsoid) -> None:
        surface = self.canvas.surface(part)
        if surface is None:
            return
        look, poses = self.look, self.poses
        front = ((surface.d - 0.05) * 8).clamp(0, 1)
        face = FaceCanvas(_filled(surface, look.skin_T3), surface.u, surface.v, surface.softness, front)
        # Fades out and in while one expression gives way to another.
        quirk_TE = (2 * poses.expression_TE - 1).clamp_min(0)
        opacity_T = quirk_TE.sum(1)
        ink_T3 = torch.einsum("te,tec->tc", quirk_TE, look.quirk_color_TE3.expand(len(poses), -1, -1))
        marked = draw_cheeks(face, ink_T3 / opacity_T.clamp_min(1e-6)[:, None], opacity_T)
        shape_TP = poses.expression_TE @ face_table(look.skin_T3.device)
        draw_face(face, shape_TP, poses.mouth(), FaceInks(look.eyes_T3, 0.55 * look.hair_T3))
        self._blend(surface, face.color_T3hw, marked)

    def hair(self, part: Ellipsoid, is_back: bool) -> None:
        """The near side of the hair's shell, or the inside of its far side."""
        surface = self.canvas.surface(part)
        if surface is None:
            return
        style = self.look.style
        u, d = (surface.back_u, surface.back_d) if is_back else (surface.u, surface.d)
        distance = _outside_hair(u, surface.v, d, style)
        cover = surface.cover * _cover(surface, distance)
        color = _filled(surface, self.look.hair_T3 * (0.62 if is_back else 1.0))
        depth = 2 * part.depth_T[:, None, None] - surface.depth if is_back else surface.depth
        if not is_back:
            # The crown shines, the edge of the fringe is drawn.
            shine = torch.exp(-(((surface.v - 0.52) / 0.09) ** 2)) * (0.5 + 0.5 * torch.cos(style.strands * u))
            color.lerp_(torch.ones_like(color), (0.22 * shine)[:, None])
            _paint(color, _cover(surface, -0.05 - distance) * 0.45, (0.0, 0.0, 0.0))
        self.canvas.blend(surface, color * surface.shade[:, None], cover, depth)

    def tail(self) -> None:
        """A ponytail."""
        size = self.look.style.tail
        self._hair_ball(0.0, -_TAIL_BACK - 0.1 * size[:, 0, 0], _TAIL_Y, size * HEAD_RADIUS, 1.75)

    def bun(self, side_T: Tensor) -> None:
        """One of two buns."""
        self._hair_ball(side_T * _BUN_X, -0.02, _BUN_Y, self.look.style.bun * HEAD_RADIUS, 1.0)

    def ear(self, side_T: Tensor) -> None:
        """One of two ears."""
        surface = self._head_surface(side_T * _EAR_X, 0.0, _EAR_Y, _EAR_RADIUS, 1.2 * _EAR_RADIUS)
        if surface is not None:
            self._blend(surface, self.look.skin_T3[:, :, None, None])

    def head_shape(self) -> Ellipsoid:
        """The skull."""
        poses = self.poses
        x_T = poses.x_T + poses.lean_T * HEAD_Y
        y_T = poses.bob_T + HEAD_Y
        return Ellipsoid(x_T, y_T, torch.zeros_like(x_T), HEAD_RADIUS, HEAD_HALF_HEIGHT, poses.head_yaw_T)

    def hair_shape(self) -> Ellipsoid:
        """The hair's shell around the skull."""
        head, volume = self.head_shape(), self.look.style.volume
        return head._replace(radius=HEAD_RADIUS * volume, half_height=HEAD_HALF_HEIGHT * volume, y_T=head.y_T + 0.012)

    def _hair_ball(self, u_T: Tensor | float, d_T: Tensor | float, v: float, radius: Tensor, aspect: float) -> None:
        if not bool((radius > 0).any()):
            return
        # Characters without it keep a speck that covers nothing.
        size = radius.clamp_min(1e-4)
        surface = self._head_surface(u_T, d_T, v, size, aspect * size)
        if surface is not None:
            color = 0.94 * self.look.hair_T3[:, :, None, None] * surface.shade[:, None]
            self.canvas.blend(surface, color, surface.cover * (radius > 0), surface.depth)

    def _head_surface(
        self, u_T: Tensor | float, d_T: Tensor | float, v: float, radius: Tensor | float, half_height: Tensor | float
    ) -> Surface | None:
        """Something on the head, placed from its center in heights of the character."""
        head, yaw_T = self.head_shape(), self.poses.head_yaw_T
        cos, sin = torch.cos(yaw_T), torch.sin(yaw_T)
        x_T, depth_T = head.x_T + u_T * cos + d_T * sin, -u_T * sin + d_T * cos
        return self.canvas.surface(Ellipsoid(x_T, head.y_T + v, depth_T, radius, half_height, yaw_T))

    def _body_surface(
        self, u_T: Tensor | float, d: float, y: float, radius: float, half_height: float
    ) -> Surface | None:
        """A part of the body, `u_T` to the character's left and `d` to the front of its axis."""
        poses = self.poses
        cos, sin = torch.cos(poses.yaw_T), torch.sin(poses.yaw_T)
        x_T = poses.x_T + poses.lean_T * y + u_T * cos + d * sin
        # The feet stay on the floor.
        y_T = y + poses.bob_T * min(1.0, y / _TORSO_Y) ** 2
        return self.canvas.surface(Ellipsoid(x_T, y_T, -u_T * sin + d * cos, radius, half_height, poses.yaw_T))

    def _mark(self, color: Tensor, x: Tensor, y: Tensor, shape: Tensor, ink: Tensor, softness: Tensor) -> Tensor:
        """Paint a mark and return the place that any mark takes there.

        Args:
            x, y: in half widths of the mark.
            ink: [T or 1, 3, h or 1, w or 1].
        """
        scale = ATLAS_SIDE / (2 * ATLAS_REACH)
        column = ((x + ATLAS_REACH) * scale).clamp_(0, ATLAS_SIDE - 1).long()
        row = ((y + ATLAS_REACH) * scale).clamp_(0, ATLAS_SIDE - 1).long()
        distance = self.atlas.view(-1)[(shape * ATLAS_SIDE + row) * ATLAS_SIDE + column]
        _paint(color, (0.5 - (distance - _MARK_BORDER) / softness).clamp_(0, 1), 0.6 * self.look.shirt_T3)
        color.lerp_(ink.expand_as(color), (0.5 - distance / softness).clamp_(0, 1)[:, None])
        return (0.5 - (torch.maximum(x.abs(), y.abs()) - 1 - _MARK_BORDER) / softness).clamp_(0, 1)

    def _blend(self, surface: Surface, color_T3hw: Tensor, marked: Tensor | None = None) -> None:
        self.canvas.blend(surface, color_T3hw * surface.shade[:, None], surface.cover, surface.depth, marked)


def _outside_hair(u: Tensor, v: Tensor, d: Tensor, style: Style) -> Tensor:
    """Signed distance to the hair on its shell."""
    across = u - style.parting
    fringe = style.fringe + 0.25 * across.abs() * style.wave - style.wave * torch.cos(style.strands * across)
    top = fringe - v - 0.15 * (d - 0.6).clamp_max(0)
    sides = torch.maximum(d - style.sides - 0.35 * (v - 0.2), style.length - v)
    return torch.minimum(top, sides)


def _filled(surface: Surface, color_T3: Tensor) -> Tensor:
    num, height, width = surface.shape
    return color_T3[:, :, None, None].expand(num, 3, height, width).clone()


def _cover(surface: Surface, distance: Tensor) -> Tensor:
    return (0.5 - distance / surface.softness).clamp_(0, 1)


def _paint(color_T3hw: Tensor, cover: Tensor, ink: Tensor | tuple[float, ...]) -> None:
    ink_T3 = ink if isinstance(ink, Tensor) else color_T3hw.new_tensor([ink])
    color_T3hw.lerp_(ink_T3[:, :, None, None], cover[:, None])
