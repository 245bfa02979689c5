"""Shares of attention in a film's job folder enter; curves over time, means by chunk and by facing angle leave.

The two analyses of the paper's section 5.4: attention to the global anchor over chunks (fig. 9), and attention to the
back anchor over how far the character has turned round (fig. 10).

Legend: F latent frames of a chunk, G groups (F frames, then anchors), T latent frames of a film.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.anchor_tokens import Slot
from ..sampling.plan import Chunk, ChunkPlan
from .attention_file import read_shares
from .attention_probe import AttentionShares

# Beside the anchors: the latents that a chunk starts with (taken over from the chunk before; in the first chunk its
# first latent), and the rest of its own video.
PREFIX: Slot = ("chunk", "prefix")
VIDEO: Slot = ("chunk", "video")


@dataclass(frozen=True, eq=False)
class FilmAttention:
    """What every latent frame of a film looked at, in the chunk that added it.

    Args:
        curves_T: by what was looked at; NaN where a chunk was not probed or did not have that anchor. Prefix and video
            come last.
        even_T: the same, had every token got the same attention.
        looks: (step, block), of all chunks.
        missing: finished or unfinished chunks without shares.
    """

    curves_T: dict[Slot, Tensor]
    even_T: dict[Slot, Tensor]
    looks: tuple[tuple[int, int], ...]
    missing: tuple[int, ...]


def read_film_attention(folder: Path, plan: ChunkPlan) -> FilmAttention:
    """The curves of a film from its job folder."""
    shares_of = {chunk.index: read_shares(folder, chunk) for chunk in plan.chunks}
    found = {index: shares for index, shares in shares_of.items() if shares is not None}
    slots = tuple(dict.fromkeys(slot for shares in found.values() for slot in shares.slots))
    names = (*slots, PREFIX, VIDEO) if found else ()
    curves_T, even_T = ({name: torch.full((plan.total_latents,), math.nan) for name in names} for _ in range(2))
    for chunk in plan.chunks:
        shares = found.get(chunk.index)
        if shares is None:
            continue
        new = slice(chunk.start + chunk.prefix, chunk.stop)
        tokens_G = torch.tensor(shares.tokens, dtype=torch.float32)
        even_FG = (tokens_G / tokens_G.sum()).expand(chunk.length, -1)
        for target, table_FG in ((curves_T, shares.shares_LFG.mean(0)), (even_T, even_FG)):
            for name, values_F in _by_name(table_FG, shares.slots, chunk).items():
                target[name][new] = values_F[chunk.prefix :]
    looks = tuple(sorted({look for shares in found.values() for look in shares.looks}))
    return FilmAttention(curves_T, even_T, looks, tuple(index for index in shares_of if index not in found))


def _by_name(table_FG: Tensor, slots: Sequence[Slot], chunk: Chunk) -> dict[Slot, Tensor]:
    """Columns of a table of shares: anchors, the start of the chunk, the rest of its video."""
    start, video = table_FG[:, : chunk.length].tensor_split([max(chunk.prefix, 1)], dim=1)
    anchors = {slot: table_FG[:, chunk.length + idx] for idx, slot in enumerate(slots)}
    return {**anchors, PREFIX: start.sum(1), VIDEO: video.sum(1)}


def attention_map(shares: AttentionShares) -> Tensor:
    """[F, G]: what each latent frame gives to each other one and to each anchor, the mean of all looks (fig. 9)."""
    return shares.shares_LFG.mean(0)


def means_by_chunk(attention: FilmAttention, plan: ChunkPlan) -> dict[Slot, list[float]]:
    """Mean of each curve over the latent frames that a chunk adds, for every chunk (fig. 9)."""
    spans = [slice(chunk.start + chunk.prefix, chunk.stop) for chunk in plan.chunks]
    return {name: [float(curve_T[span].nanmean()) for span in spans] for name, curve_T in attention.curves_T.items()}


class AngleBin(NamedTuple):
    """Mean attention while the character faces away from the camera by `degrees`, give or take half a bin."""

    degrees: float
    mean: float
    standard_error: float
    count: int


def share_by_angle(shares_T: Tensor, yaw_T: Tensor, num_bins: int = 6) -> list[AngleBin]:
    """Attention over the facing angle (fig. 10): 0 degrees is towards the camera, 180 away from it.

    Args:
        shares_T: of one anchor; NaN counts for nothing.
        yaw_T: radians, one for each share, as in `toyworld`: 0 is front, pi is back, the sign is the side.
    """
    assert shares_T.shape == yaw_T.shape, "one angle for each share"
    away_T = torch.acos(torch.cos(yaw_T.double()).clamp(-1, 1)).rad2deg()
    width = 180 / num_bins
    bin_T = (away_T / width).long().clamp(max=num_bins - 1)
    bins = []
    for idx in range(num_bins):
        own = shares_T[(bin_T == idx) & shares_T.isfinite()].double()
        if len(own):
            error = float(own.std() / len(own) ** 0.5) if len(own) > 1 else math.nan
            bins.append(AngleBin((idx + 0.5) * width, float(own.mean()), error, len(own)))
    return bins
