"""Frames that should show a known character in its room enter, what they do show leaves: analysis by synthesis.

Run `python benchmarks/toyworld_readout.py` for the errors of these readings on clean, noisy and blurred pictures.

Legend: T frames, H W pixels, C colors, V viewpoints, K colors of the palette.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import ToyWorldError
from .canvas import VIEW_HEIGHT
from .fit import Puppet, align_room, make_bank, refine, turn_far, turn_near, with_face
from .palette import to_lab
from .poses import Poses, concatenate
from .program import VIEW_YAW
from .read_details import (
    Window,
    body_window,
    cheek_share,
    face_window,
    mark_patches,
    palette_of,
    read_cheeks,
    read_expression,
    read_marks,
    read_palette,
)
from .render import cut_out
from .source import Source

# The face is read up to this turn of the head, a mark up to this turn away from its side, where 80 % of it shows.
FACE_WITHIN = math.radians(45)
_FACE_MARGIN = math.radians(15)
MARK_WITHIN = math.radians(40)
# A picture that differs more than this from the best drawing, on average over blocks, shows something else.
MAX_MISFIT = 0.11
# Sides of the blocks, and how much of a block must be room.
_BLOCK, _ROOM_BLOCK, _MOSTLY = 4, 8, 0.6
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Reading:
    """What T frames show."""

    poses: Poses
    """The fitted poses; expression and mouth mean something where `sees_face_T`."""
    is_readable_T: Tensor
    misfit_T: Tensor
    """How much the character differs from its best drawing, marks and cheeks left out."""
    sees_face_T: Tensor
    quirk_T: Tensor
    """Index into `MARK_COLORS`."""
    sees_mark_TV: Tensor
    mark_shape_TV: Tensor
    mark_color_TV: Tensor
    room_delta_T: Tensor
    """Color difference (delta E 1976) of the room from what it should be, on average over blocks."""
    palette_delta_T: Tensor
    """Color difference of the character's colors, on average over what can be seen of them."""

    def __len__(self) -> int:
        return len(self.poses)

    def expressions(self) -> Tensor:
        """Indices into `EXPRESSIONS` [T]."""
        return self.poses.expression_TE.argmax(1)


class Reader:
    """Reads pictures of the character and the room of one video."""

    def __init__(self, source: Source, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.puppet, self.small = Puppet.of(source, device), Puppet.of(source, device, shrink=2)
        self.bank = make_bank(self.puppet)

    def read(self, frames_THWC: Tensor) -> Reading:
        """Read frames of the video's size, 0 to 1."""
        height, width = self.puppet.height, self.puppet.width
        if frames_THWC.ndim != 4 or tuple(frames_THWC.shape[1:]) != (height, width, 3):
            raise ToyWorldError(f"Expected frames [T, {height}, {width}, 3], got {list(frames_THWC.shape)}.")
        return _joined([self._read_some(some.to(self.device).movedim(-1, 1)) for some in frames_THWC.split(_BATCH)])

    def _read_some(self, frames: Tensor) -> Reading:
        poses = self._fit(frames)
        face, body = face_window(self.puppet, frames, poses), body_window(self.puppet, frames, poses)
        shape_TV, color_TV = read_marks(body)
        whole = Window(frames, poses, self.puppet)
        ignored_Thw = torch.maximum(mark_patches(whole).amax(1), cheek_share(whole)[:, 0])
        cover_Thw = cut_out(self.puppet.look, poses, self.puppet.height, self.puppet.width).cover_THW
        misfit_T = _misfit(whole, cover_Thw * (1 - ignored_Thw).clamp(0, 1))
        view_yaw = torch.tensor([VIEW_YAW[view] for view in VIEWPOINTS], device=frames.device)
        away_TV = torch.remainder(poses.yaw_T[:, None] - view_yaw + math.pi, 2 * math.pi) - math.pi
        return Reading(
            poses=poses,
            is_readable_T=misfit_T <= MAX_MISFIT,
            misfit_T=misfit_T,
            sees_face_T=poses.head_yaw_T.abs() <= FACE_WITHIN,
            quirk_T=read_cheeks(face),
            sees_mark_TV=away_TV.abs() <= MARK_WITHIN,
            mark_shape_TV=shape_TV,
            mark_color_TV=color_TV,
            room_delta_T=_room_delta(whole, cover_Thw),
            palette_delta_T=_palette_delta(whole, ignored_Thw),
        )

    def _fit(self, frames: Tensor) -> Poses:
        poses = self.bank.nearest(frames)
        poses = refine(self.small, frames, align_room(self.small, frames, poses), 2)
        poses = refine(self.small, frames, turn_far(self.small, frames, poses), 2)
        poses = _with_face(self.small, self._shrunk(frames), poses)
        poses = refine(self.puppet, frames, turn_near(self.small, frames, poses), 3)
        return _with_face(self.puppet, frames, poses)

    def _shrunk(self, frames: Tensor) -> Tensor:
        return F.interpolate(frames, size=(self.small.height, self.small.width), mode="area")


def _with_face(puppet: Puppet, frames: Tensor, poses: Poses) -> Poses:
    """Read the faces that can be seen; the others are neutral."""
    seen = (poses.head_yaw_T.abs() <= FACE_WITHIN + _FACE_MARGIN).nonzero()[:, 0]
    expression_T = torch.full((len(poses),), EXPRESSIONS.index("neutral"), device=frames.device)
    opening_T = torch.zeros(len(poses), device=frames.device)
    if len(seen):
        window = face_window(puppet, frames[seen], poses[seen])
        expression_T[seen], opening_T[seen] = read_expression(window)
    return with_face(poses, expression_T, opening_T)


def _room_delta(whole: Window, cover_Thw: Tensor) -> Tensor:
    """Color difference of the room around the character, on average over blocks."""
    puppet = whole.puppet
    room = puppet.backdrop.shot(whole.poses.camera_T3, puppet.height, puppet.width, VIEW_HEIGHT)
    room = room * puppet.tint_T3[:, :, None, None]
    seen, weight = _block_means(whole.frames_T3hw, 1 - cover_Thw, _ROOM_BLOCK)
    expected, _ = _block_means(room, 1 - cover_Thw, _ROOM_BLOCK)
    delta = _delta(seen.movedim(1, -1), expected.movedim(1, -1))
    inside = (weight > _MOSTLY).float()
    return (delta * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)


def _palette_delta(whole: Window, ignored_Thw: Tensor) -> Tensor:
    """Color difference of the character's colors, each counted by its pixels."""
    colors_TK3, pixels_TK = read_palette(whole, ignored_Thw)
    delta_TK = _delta(colors_TK3, palette_of(whole.puppet.look))
    return (delta_TK * pixels_TK).sum(1) / pixels_TK.sum(1).clamp_min(1e-6)


def _misfit(whole: Window, weight_Thw: Tensor) -> Tensor:
    """Root mean square difference of blocks, which noise hardly reaches."""
    rest, weight = _block_means(whole.frames_T3hw - whole.draw(whole.poses), weight_Thw, _BLOCK)
    return ((rest.square().mean(1) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)).sqrt()


def _block_means(frames: Tensor, weight_THW: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Weighted means [T, 3, h, w] over blocks and the blocks' weights [T, h, w]."""
    weight = F.avg_pool2d(weight_THW[:, None], block)
    return F.avg_pool2d(frames * weight_THW[:, None], block) / weight.clamp_min(1e-6), weight[:, 0]


def _delta(first: Tensor, second: Tensor) -> Tensor:
    """Delta E 1976 of sRGB colors [..., 3]."""
    labs = (to_lab(colors.cpu().numpy().astype(np.float64)) for colors in torch.broadcast_tensors(first, second))
    return torch.from_numpy(np.linalg.norm(next(labs) - next(labs), axis=-1)).float().to(first.device)


def _joined(readings: list[Reading]) -> Reading:
    columns = {field.name: [getattr(reading, field.name) for reading in readings] for field in fields(Reading)}
    poses = concatenate(columns.pop("poses"))
    return Reading(poses=poses, **{name: torch.cat(values) for name, values in columns.items()})
