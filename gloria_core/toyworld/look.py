"""Characters enter, the tensors that the renderer paints with leave. Legend: T frames (1: the same in all)."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from .character import Character, HairStyle
from .palette import MARK_COLORS


class Style(NamedTuple):
    """`HairStyle` as tensors [T, 1, 1]."""

    volume: Tensor
    fringe: Tensor
    wave: Tensor
    strands: Tensor
    parting: Tensor
    sides: Tensor
    length: Tensor
    bun: Tensor
    tail: Tensor


@dataclass(frozen=True, eq=False)
class Look:
    """How characters are painted."""

    skin_T3: Tensor
    hair_T3: Tensor
    eyes_T3: Tensor
    shirt_T3: Tensor
    trousers_T3: Tensor
    shoes_T3: Tensor
    style_TS: Tensor
    mark_shape_T4: Tensor
    """Indices into `MARK_SHAPES`, in the order of `VIEWPOINTS`."""
    mark_color_T43: Tensor
    quirk_color_TE3: Tensor

    def __len__(self) -> int:
        return self.skin_T3.shape[0]

    def __getitem__(self, frames: slice | Tensor) -> "Look":
        return Look(**{field.name: getattr(self, field.name)[frames] for field in fields(self)})

    @property
    def style(self) -> Style:
        """The hair's measures by name."""
        return Style(*self.style_TS.T[:, :, None, None])

    def to(self, device: torch.device | str) -> "Look":
        """The same look on `device`."""
        return Look(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def repeat_interleave(self, times: int) -> "Look":
        """Every frame's look `times` times in a row."""
        return Look(**{field.name: getattr(self, field.name).repeat_interleave(times, 0) for field in fields(self)})


def look_of(characters: Sequence[Character]) -> Look:
    """The look of one character per frame, or of one for all frames."""
    palette = torch.tensor(MARK_COLORS, dtype=torch.float32)
    colors = {
        f"{name}_T3": torch.tensor([getattr(each, name) for each in characters], dtype=torch.float32)
        for name in ("skin", "hair", "eyes", "shirt", "trousers", "shoes")
    }
    return Look(
        **colors,
        style_TS=torch.tensor([astuple(each.style) for each in characters], dtype=torch.float32),
        mark_shape_T4=torch.tensor([[mark.shape for mark in each.marks] for each in characters]),
        mark_color_T43=palette[torch.tensor([[mark.color for mark in each.marks] for each in characters])],
        quirk_color_TE3=palette[torch.tensor([each.quirks for each in characters])],
    )


assert Style._fields == tuple(field.name for field in fields(HairStyle))
