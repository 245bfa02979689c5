"""Frames that should show a known character in its room enter, what they do show leaves: analysis by synthesis.

Run `python benchmarks/toyworld_readout.py` for the errors of these readings on clean, noisy and blurred pictures.

Legend: T frames, H W pixels, C colors, V viewpoints, K colors of the palette.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import ToyWorldError
from .canvas import VIEW_HEIGHT
from .fit import align_room, make_bank, refine, turn_far, turned_bodies
from .look import Look
from .palette import MARK_COLORS, to_lab
from .poses import Poses, concatenate
from .program import VIEW_YAW
from .puppet import Puppet, with_face
from .read_details import (
    Window,
    body_window,
    face_window,
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
        """Read frames of the video's size, 0 to 1; the reading is on the CPU."""
        height, width = self.puppet.height, self.puppet.width
        if frames_THWC.ndim != 4 or tuple(frames_THWC.shape[1:]) != (height, width, 3):
            raise ToyWorldError(f"Expected frames [T, {height}, {width}, 3], got {list(frames_THWC.shape)}.")
        return _joined([self._read_some(some.to(self.device).movedim(-1, 1)) for some in frames_THWC.split(_BATCH)])

    def _read_some(self, frames: Tensor) -> Reading:
        poses = self._fit(frames)
        marks = read_marks(body_window(self.puppet, frames, poses))
        whole = Window(frames, poses, self.puppet)
        cover_THW = cut_out(self.puppet.look, poses, self.puppet.height, self.puppet.width).cover_THW
        picture, trust_T1HW = self.puppet.draw(poses, with_marks=False)
        misfit_T = _misfit(frames - picture, cover_THW * trust_T1HW[:, 0])
        view_yaw = torch.tensor([VIEW_YAW[view] for view in VIEWPOINTS], device=frames.device)
        away_TV = torch.remainder(poses.yaw_T[:, None] - view_yaw + math.pi, 2 * math.pi) - math.pi
        return Reading(
            poses=poses,
            is_readable_T=misfit_T <= MAX_MISFIT,
            misfit_T=misfit_T,
            sees_face_T=poses.head_yaw_T.abs() <= FACE_WITHIN,
            quirk_T=read_cheeks(face_window(self.puppet, frames, poses)),
            sees_mark_TV=away_TV.abs() <= MARK_WITHIN,
            mark_shape_TV=marks.shape_TV,
            mark_color_TV=marks.color_TV,
            room_delta_T=_room_delta(whole, cover_THW),
            palette_delta_T=_palette_delta(whole, trust_T1HW),
        )

    def _fit(self, frames: Tensor) -> Poses:
        """Poses that explain the frames: from coarse to fine, then once more with the marks that are there."""
        small, small_frames = self.small, self.small.fitted(frames)
        poses = align_room(small, small_frames, self.bank.nearest(frames))
        poses = refine(small, small_frames, poses, 2, with_marks=False)
        poses = turn_far(small, small_frames, poses)
        poses = refine(small, small_frames, poses, 2, with_marks=False)
        poses = _with_face(small, small_frames, poses)
        poses, look = _as_seen(small, small_frames, poses)
        poses = refine(replace(self.puppet, look=look), frames, poses, 3, with_marks=True)
        return _with_face(self.puppet, frames, poses)


def _as_seen(puppet: Puppet, frames: Tensor, poses: Poses) -> tuple[Poses, Look]:
    """The look with the marks and cheeks of each frame, and the poses with the body turned to fit them best."""
    tried = turned_bodies(poses)
    marks = [read_marks(body_window(puppet, frames, each)) for each in tried]
    best_T = torch.stack([each.rest_T for each in marks]).argmin(0)
    row = torch.arange(len(poses), device=frames.device)
    colors = torch.tensor(MARK_COLORS, device=frames.device)
    cheeks_T3 = colors[read_cheeks(face_window(puppet, frames, poses))]
    look = replace(
        puppet.look.repeat_interleave(len(poses)),
        mark_shape_T4=torch.stack([each.shape_TV for each in marks])[best_T, row],
        mark_color_T43=colors[torch.stack([each.color_TV for each in marks])[best_T, row]],
        quirk_color_TE3=cheeks_T3[:, None].expand(-1, len(EXPRESSIONS), -1),
    )
    return replace(poses, yaw_T=torch.stack([each.yaw_T for each in tried])[best_T, row]), look


def _with_face(puppet: Puppet, frames: Tensor, poses: Poses) -> Poses:
    """Read the faces that can be seen; the others are neutral."""
    seen = (poses.head_yaw_T.abs() <= FACE_WITHIN + _FACE_MARGIN).nonzero()[:, 0]
    expression_T = torch.full((len(poses),), EXPRESSIONS.index("neutral"), device=frames.device)
    opening_T = torch.zeros(len(poses), device=frames.device)
    if len(seen):
        window = face_window(puppet, frames[seen], poses[seen])
        expression_T[seen], opening_T[seen] = read_expression(window)
    return with_face(poses, expression_T, opening_T)


def _room_delta(whole: Window, cover_THW: Tensor) -> Tensor:
    """Color difference of the room around the character, on average over blocks."""
    puppet = whole.puppet
    room = puppet.backdrop.shot(whole.poses.camera_T3, puppet.height, puppet.width, VIEW_HEIGHT)
    room = room * puppet.tint_T3[:, :, None, None]
    seen, weight = _block_means(whole.frames_T3hw, 1 - cover_THW, _ROOM_BLOCK)
    expected, _ = _block_means(room, 1 - cover_THW, _ROOM_BLOCK)
    delta = _delta(seen.movedim(1, -1), expected.movedim(1, -1))
    inside = (weight > _MOSTLY).float()
    return (delta * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)


def _palette_delta(whole: Window, trust_T1HW: Tensor) -> Tensor:
    """Color difference of the character's colors, each counted by its pixels."""
    colors_TK3, pixels_TK = read_palette(whole, trust_T1HW)
    delta_TK = _delta(colors_TK3, palette_of(whole.puppet.look))
    return (delta_TK * pixels_TK).sum(1) / pixels_TK.sum(1).clamp_min(1e-6)


def _misfit(rest: Tensor, weight_THW: Tensor) -> Tensor:
    """Root mean square difference of blocks, which noise hardly reaches."""
    means, weight = _block_means(rest, weight_THW, _BLOCK)
    return ((means.square().mean(1) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)).sqrt()


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
    poses = concatenate(columns.pop("poses")).to("cpu")
    return Reading(poses=poses, **{name: torch.cat(values).cpu() for name, values in columns.items()})
