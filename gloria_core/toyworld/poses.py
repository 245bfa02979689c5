"""What a frame shows, as numbers: the full ground truth of the toy world. Legend: T frames, E expressions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .face import mouth_opening


@dataclass(frozen=True, eq=False)
class Poses:
    """State of character and camera in T frames; angles in radians, lengths in heights of the character.

    A yaw of 0 faces the camera; negative yaw faces the image's left and shows the character's left side.
    """

    yaw_T: Tensor
    head_yaw_T: Tensor
    x_T: Tensor
    bob_T: Tensor
    """How far the body is lifted."""
    lean_T: Tensor
    """Sideways shift of the head's top against the feet."""
    expression_TE: Tensor
    """Weights of the expressions, in the order of `EXPRESSIONS`, summing to 1."""
    speech_T: Tensor
    """Opening of the mouth that the speech asks for, 0 to 1."""
    camera_T3: Tensor
    """Center x, y of the picture and zoom."""

    def __len__(self) -> int:
        return self.yaw_T.shape[0]

    def __getitem__(self, frames: slice | Tensor) -> "Poses":
        return Poses(**{field.name: getattr(self, field.name)[frames] for field in fields(self)})

    def mouth(self) -> Tensor:
        """Opening of the mouth [T], 0 to 1."""
        return mouth_opening(self.expression_TE, self.speech_T)

    def to(self, device: torch.device | str) -> "Poses":
        """The same poses on `device`."""
        return Poses(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def repeat_interleave(self, times: int) -> "Poses":
        """Every pose `times` times in a row."""
        return Poses(**{field.name: getattr(self, field.name).repeat_interleave(times, 0) for field in fields(self)})


def concatenate(poses: Sequence[Poses]) -> Poses:
    """One set of poses behind the other."""
    return Poses(**{field.name: torch.cat([getattr(each, field.name) for each in poses]) for field in fields(Poses)})
