"""A source video enters, its character in its room leaves, ready to be drawn in any pose, dress and part.

Legend: T frames, H W pixels, E expressions.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from .canvas import VIEW_HEIGHT
from .look import Look
from .poses import Poses
from .render import cut_out, pixels_per_unit
from .scene import Backdrop, paint
from .source import Source

_BATCH = 128


@dataclass(frozen=True, eq=False)
class Puppet:
    """What `draw` draws.

    Args:
        look: one for all frames, or one for each.
    """

    look: Look
    backdrop: Backdrop
    tint_T3: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, source: Source, device: torch.device | str, shrink: int = 1) -> "Puppet":
        """The character and the room of a video, drawn `shrink` times smaller."""
        height, width = source.height // shrink, source.width // shrink
        backdrop = paint(source.scene, pixels_per_unit(height), device)
        return cls(source.look.to(device), backdrop, source.tint_T3.to(device), height, width)

    def of_frames(self, frames: Tensor) -> "Puppet":
        """The puppet of some of the frames."""
        return self if len(self.look) == 1 else replace(self, look=self.look[frames])

    def fitted(self, frames_T3HW: Tensor) -> Tensor:
        """Frames at the size of this puppet's pictures."""
        return F.interpolate(frames_T3HW, size=(self.height, self.width), mode="area")

    def draw(self, poses: Poses, with_marks: bool = True) -> tuple[Tensor, Tensor]:
        """Pictures [T, 3, H, W], and the share of each pixel that can be trusted [T, 1, H, W].

        Args:
            poses: equally many in a row for each look.
            with_marks: whether marks and cheeks can be trusted as well.
        """
        look = self.look if len(self.look) == 1 else self.look.repeat_interleave(len(poses) // len(self.look))
        pictures, trusts = [], []
        for rows in torch.arange(len(poses), device=self.tint_T3.device).split(_BATCH):
            few = poses[rows]
            cut = cut_out(look if len(look) == 1 else look[rows], few, self.height, self.width, not with_marks)
            room = self.backdrop.shot(few.camera_T3, self.height, self.width, VIEW_HEIGHT)
            pictures.append((cut.over(room) * self.tint_T3[:, :, None, None]).clamp_(0, 1))
            trusts.append(torch.ones_like(cut.cover_THW) if cut.marked_THW is None else 1 - cut.marked_THW)
        return torch.cat(pictures), torch.cat(trusts)[:, None]


def with_face(poses: Poses, expression_T: Tensor, speech_T: Tensor) -> Poses:
    """The same poses with other faces, expressions by their number."""
    return replace(poses, expression_TE=F.one_hot(expression_T, len(EXPRESSIONS)).float(), speech_T=speech_T)
