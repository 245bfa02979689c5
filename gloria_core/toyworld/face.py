"""Expressions and mouth opening enter, the drawn face leaves, as features painted on the front of the head.

Legend: T frames, E expressions, P face parameters, h w pixels of the head's box. Coordinates u (to the character's
left) and v (up) are in radii of the head.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS


class FaceShape(NamedTuple):
    """How an expression forms the face."""

    eye_open: float
    """Height of the eyes, 1 at rest."""
    iris: float
    """Size of the iris, 1 at rest."""
    laugh: float
    """0 open eyes, 1 eyes closed to arcs."""
    lid: float
    """Where the upper lid cuts the eye: 1 above it, 0 through the middle."""
    lid_tilt: float
    """Positive: the lid falls towards the nose."""
    brow: float
    """Height of the brows."""
    brow_tilt: float
    """Positive: the brows fall towards the nose."""
    one_sided: float
    """How much one brow rises and one eye narrows, -1 to 1."""
    mouth_curve: float
    """Positive: corners up."""
    mouth_width: float
    mouth_skew: float
    """Positive: the mouth rises towards the character's left."""
    mouth_open: float
    """Opening that the expression itself asks for."""


FACE_SHAPES = {
    "surprise": FaceShape(1.25, 0.62, 0, 1.4, 0, 1.1, -0.1, 0, 0.0, 0.62, 0, 0.60),
    "angry": FaceShape(0.95, 0.80, 0, 0.35, 0.75, -0.95, 0.75, 0, -0.9, 0.95, 0, 0.0),
    "disgust": FaceShape(0.85, 0.70, 0, -0.25, 0.25, -0.7, 0.2, 0.35, -0.5, 1.0, 0.35, 0.30),
    "fear": FaceShape(1.15, 0.50, 0, 1.4, -0.2, 0.7, -0.75, 0, -0.7, 1.15, 0, 0.28),
    "contempt": FaceShape(0.95, 0.85, 0, 0.12, 0, 0.3, 0.1, -1.0, 0.5, 0.85, -0.55, 0.0),
    "sad": FaceShape(0.90, 0.95, 0, 0.55, -0.7, 0.2, -0.7, 0, -1.1, 0.70, 0, 0.0),
    "neutral": FaceShape(1.0, 1.0, 0, 1.2, 0, 0.1, 0, 0, 0.25, 0.75, 0, 0.0),
    "happy": FaceShape(1.0, 1.0, 1.0, 1.2, 0, 0.5, -0.15, 0, 1.4, 1.25, 0, 0.22),
}

_EYE_X, _EYE_Y, _EYE_HALF_WIDTH, _EYE_HALF_HEIGHT = 0.37, -0.06, 0.185, 0.26
_MOUTH_Y, _MOUTH_HALF_WIDTH, _MOUTH_OPEN_HEIGHT = -0.56, 0.24, 0.19
_CHEEK_X, _CHEEK_Y, _CHEEK_HALF_WIDTH, _CHEEK_HALF_HEIGHT = 0.60, -0.42, 0.19, 0.14
_INK = (0.13, 0.09, 0.12)
_EYE_WHITE = (1.0, 1.0, 1.0)
_MOUTH_INSIDE = (0.50, 0.08, 0.12)
_TONGUE = (0.93, 0.45, 0.45)


def face_table(device: torch.device | str = "cpu") -> Tensor:
    """Face parameters [E, P] in the order of `EXPRESSIONS`."""
    return torch.tensor([FACE_SHAPES[name] for name in EXPRESSIONS], dtype=torch.float32, device=device)


def mouth_opening(expression_TE: Tensor, speech_T: Tensor) -> Tensor:
    """How far the mouth is open [T], 0 to 1: what the expression or what the speech asks for, whichever is more."""
    wanted_T = expression_TE @ face_table(expression_TE.device)[:, FaceShape._fields.index("mouth_open")]
    return torch.maximum(wanted_T, speech_T)


class FaceInks(NamedTuple):
    """Colors of one face [T or 1, 3]."""

    eyes: Tensor
    brows: Tensor


class FaceCanvas:
    """Colors of the head's box, on which features are painted."""

    def __init__(self, color_T3hw: Tensor, u: Tensor, v: Tensor, softness: Tensor, front: Tensor) -> None:
        self.color_T3hw, self.u, self.v, self.softness, self.front = color_T3hw, u, v, softness, front

    def cover(self, distance: Tensor) -> Tensor:
        """Coverage of pixels by the inside of a shape on the front of the head."""
        return (0.5 - distance / self.softness).clamp_(0, 1) * self.front

    def paint(self, cover: Tensor, ink: Tensor | tuple[float, ...]) -> None:
        """Blend a color [T or 1, 3] in."""
        ink_T3 = ink if isinstance(ink, Tensor) else self.color_T3hw.new_tensor([ink])
        self.color_T3hw.lerp_(ink_T3[:, :, None, None], cover[:, None])


def draw_face(canvas: FaceCanvas, shape_TP: Tensor, mouth_T: Tensor, inks: FaceInks) -> None:
    """Paint eyes, brows and mouth."""
    shape = FaceShape(*(shape_TP[:, idx, None, None] for idx in range(shape_TP.shape[1])))
    _draw_eyes(canvas, shape, inks)
    _draw_brows(canvas, shape, inks.brows)
    _draw_mouth(canvas, shape, mouth_T[:, None, None])


def draw_cheeks(canvas: FaceCanvas, ink_T3: Tensor, opacity_T: Tensor) -> Tensor:
    """Paint the quirk and return where it is."""
    x, y = canvas.u.abs() - _CHEEK_X, canvas.v - _CHEEK_Y
    cover = canvas.cover(_ellipse(x, y, _CHEEK_HALF_WIDTH, _CHEEK_HALF_HEIGHT))
    canvas.paint(cover * opacity_T[:, None, None], ink_T3)
    return cover


def _draw_eyes(canvas: FaceCanvas, shape: FaceShape, inks: FaceInks) -> None:
    side = torch.sign(canvas.u)
    x, y = canvas.u.abs() - _EYE_X, canvas.v - _EYE_Y
    half_height = _EYE_HALF_HEIGHT * shape.eye_open
    lid = _EYE_HALF_HEIGHT * shape.lid * (1 - 0.35 * side * shape.one_sided) + 0.3 * shape.lid_tilt * x
    open_cover = 1 - shape.laugh
    white = torch.maximum(_ellipse(x, y, _EYE_HALF_WIDTH, half_height), y - lid)
    # The dark shape behind the white shows above it as lashes.
    lashes = torch.maximum(_ellipse(x, y - 0.03, _EYE_HALF_WIDTH + 0.05, half_height + 0.05), y - lid - 0.08)
    canvas.paint(canvas.cover(lashes) * open_cover, _INK)
    inside = canvas.cover(white) * open_cover
    canvas.paint(inside, _EYE_WHITE)
    iris = _ellipse(x + 0.01, y + 0.01, 0.125 * shape.iris, 0.20 * shape.iris)
    canvas.paint(torch.minimum(canvas.cover(iris), inside), inks.eyes)
    pupil = _ellipse(x + 0.01, y + 0.01, 0.075 * shape.iris, 0.12 * shape.iris)
    canvas.paint(torch.minimum(canvas.cover(pupil), inside), _INK)
    shine = _ellipse(x - 0.05 * side, y - 0.07 * shape.iris, 0.055, 0.055)
    canvas.paint(torch.minimum(canvas.cover(shine), inside), _EYE_WHITE)
    arc = (y + 0.02 - 0.16 + 4.2 * x * x).abs() * 0.62 - 0.05
    arc = torch.maximum(arc, x.abs() - 0.2)
    canvas.paint(canvas.cover(arc) * shape.laugh, _INK)


def _draw_brows(canvas: FaceCanvas, shape: FaceShape, ink_T3: Tensor) -> None:
    side = torch.sign(canvas.u)
    x = canvas.u.abs() - _EYE_X
    height = 0.30 + 0.09 * shape.brow + 0.10 * side * shape.one_sided + 0.55 * shape.brow_tilt * x
    distance = torch.maximum((canvas.v - height).abs() - 0.05, x.abs() - 0.17)
    canvas.paint(canvas.cover(distance), ink_T3)


def _draw_mouth(canvas: FaceCanvas, shape: FaceShape, opening: Tensor) -> None:
    half_width = _MOUTH_HALF_WIDTH * shape.mouth_width * (1 - 0.15 * opening)
    x = canvas.u / half_width
    middle = _MOUTH_Y + 0.11 * shape.mouth_curve * (x * x - 0.5) + 0.5 * shape.mouth_skew * canvas.u
    half_height = 0.035 + _MOUTH_OPEN_HEIGHT * opening * (1 - x * x).clamp_min(0).sqrt()
    y = canvas.v - middle
    sides = canvas.u.abs() - half_width
    lips = torch.maximum(y.abs() - half_height, sides)
    canvas.paint(canvas.cover(lips), _INK)
    inside = canvas.cover(lips + 0.05)
    canvas.paint(inside, _MOUTH_INSIDE)
    tongue = _ellipse(canvas.u, y + 0.8 * half_height, 0.65 * half_width, 0.7 * half_height)
    canvas.paint(torch.minimum(canvas.cover(tongue), inside), _TONGUE)


def _ellipse(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
    """Signed distance to an ellipse, exact on its axes."""
    smaller = torch.minimum(torch.as_tensor(half_width), torch.as_tensor(half_height))
    return (((x / half_width) ** 2 + (y / half_height) ** 2).sqrt() - 1) * smaller
