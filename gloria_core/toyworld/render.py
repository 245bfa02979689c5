"""Characters, poses and rooms enter, frames leave.

Every pixel of a part of the body knows its point on the unit sphere; turning the part rotates that point about the
vertical axis, and what is painted is a function of the rotated point. So turns are exact and edges are soft at every
size, on the CPU and on a GPU, and characters may differ from frame to frame.

Legend: T frames, H W pixels.
"""

from dataclasses import dataclass

from torch import Tensor

from .canvas import VIEW_HEIGHT, Canvas
from .doll import draw_doll
from .look import Look
from .poses import Poses
from .scene import Backdrop
from .shapes2d import shape_atlas

# Frames drawn at once: few enough for a processor's cache, many enough to hide the cost of a call.
_BATCH = 128


@dataclass(frozen=True, eq=False)
class Cutout:
    """Characters without a room: premultiplied color and coverage."""

    color_T3HW: Tensor
    cover_THW: Tensor
    marked_THW: Tensor | None
    """Share of each pixel that lies on a mark or a cheek, if that was asked for."""

    def over(self, room_T3HW: Tensor) -> Tensor:
        """The characters in front of a picture [T, 3, H, W]."""
        return self.color_T3HW + room_T3HW * (1 - self.cover_THW)[:, None]


def render(look: Look, poses: Poses, backdrop: Backdrop, tint_T3: Tensor, height: int, width: int) -> Tensor:
    """Frames [T, H, W, 3] of one character in one room, float32, 0 to 1.

    Args:
        look: one for all frames, or one for each.
        tint_T3: what the light multiplies red, green and blue with, [T or 1, 3].
    """
    frames_THWC = poses.yaw_T.new_empty(len(poses), height, width, 3)
    for start in range(0, len(poses), _BATCH):
        some = slice(start, start + _BATCH)
        tint = tint_T3 if len(tint_T3) == 1 else tint_T3[some]
        some_look = look if len(look) == 1 else look[some]
        frames_THWC[some] = render_at_once(some_look, poses[some], backdrop, tint, height, width)
    return frames_THWC


def render_at_once(look: Look, poses: Poses, backdrop: Backdrop, tint_T3: Tensor, height: int, width: int) -> Tensor:
    """Frames [T, H, W, 3] of many characters in many rooms, equally many in each room, room after room."""
    room_T3HW = backdrop.shot(poses.camera_T3, height, width, VIEW_HEIGHT)
    picture_T3HW = cut_out(look, poses, height, width).over(room_T3HW)
    return picture_T3HW.mul_(tint_T3[:, :, None, None]).clamp_(0, 1).movedim(1, -1)


def cut_out(look: Look, poses: Poses, height: int, width: int, keeps_marks: bool = False) -> Cutout:
    """The characters alone."""
    canvas = Canvas(poses.camera_T3, height, width, keeps_marks)
    draw_doll(canvas, look, poses, shape_atlas(poses.camera_T3.device))
    return Cutout(canvas.color_T3HW, canvas.cover_THW, canvas.marked_THW)


def pixels_per_unit(height: int, zoom: float = 1.0) -> float:
    """Pixels that the character is high."""
    return height / VIEW_HEIGHT * zoom
