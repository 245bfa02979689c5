"""Rotary position embedding of Wan in three dimensions, and eq. 1: the temporal offsets that mark anchors.

Legend: S tokens, N heads, K head width. A table is [1, S, 1, K/2, 2, 2]: one 2x2 rotation per pair.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import AnchorError
from ..shapes import TokenGrid
from .presets import GloriaSettings

THETA = 10000.0


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """How many of the `head_dim` channels rotate with time, height and width (Wan's split)."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def anchor_position(kind: str, label: str, settings: GloriaSettings) -> int:
    """Temporal position of an anchor: o_i + so_j of eq. 1 (its own t is 0).

    Raises:
        AnchorError: The checkpoint knows no such kind or label.
    """
    if kind == "global":
        return settings.global_offset
    labels_and_offsets = {
        "viewpoint": (settings.viewpoints, settings.viewpoint_offset),
        "expression": (settings.expressions, settings.expression_offset),
    }
    if kind not in labels_and_offsets:
        raise AnchorError(f"Unknown kind of anchor '{kind}'. Expected global, viewpoint or expression.")
    labels, offset = labels_and_offsets[kind]
    if label not in labels:
        raise AnchorError(f"This checkpoint has no {kind} anchor '{label}'. It knows: {', '.join(labels)}.")
    return offset + settings.label_step * labels.index(label)


def video_axes(
    grid: TokenGrid, device: torch.device, rope_options: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the video tokens along each axis, with ComfyUI's optional `rope_options` scaling and shift."""
    options = rope_options or {}
    axes = []
    for name, size in zip(("t", "y", "x"), grid, strict=True):
        length = (size - 1.0) * options.get(f"scale_{name}", 1.0) + 1.0
        start = options.get(f"shift_{name}", 0.0)
        axes.append(torch.linspace(start, start + length - 1, steps=size, device=device, dtype=torch.float32))
    return tuple(axes)


def anchor_axes(grid: TokenGrid, position: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of one anchor's tokens: eq. 1 along time, its own rows and columns from 0 in space."""
    # float32, never the model's dtype: bfloat16 cannot tell 600 from 601, so labels would collapse.
    time = torch.full((grid.frames,), float(position), device=device, dtype=torch.float32)
    rows = torch.arange(grid.height, device=device, dtype=torch.float32)
    columns = torch.arange(grid.width, device=device, dtype=torch.float32)
    return time, rows, columns


def _rotations(positions: Tensor, width: int) -> Tensor:
    """Rotation matrices [len(positions), width/2, 2, 2] of one axis, in float32 from float64 angles."""
    # Apple's GPUs have no float64; the angles are tiny, so they may as well be made on the CPU there.
    device = positions.device if positions.device.type != "mps" else torch.device("cpu")
    scale = torch.linspace(0, (width - 2) / width, steps=width // 2, dtype=torch.float64, device=device)
    angles = positions.to(device)[:, None] * (1.0 / THETA**scale)[None, :]
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2)).to(positions.device, torch.float32)


def rope_table(axes: tuple[Tensor, Tensor, Tensor], head_dim: int) -> Tensor:
    """Rotation table [1, S, 1, K/2, 2, 2] of all tokens of a grid, given its positions along each axis."""
    lengths = [len(axis) for axis in axes]
    parts = []
    for dim_idx, (axis, width) in enumerate(zip(axes, axis_widths(head_dim), strict=True)):
        # Angles are computed once per row, column or frame and then broadcast over the grid.
        shape = [1, 1, 1]
        shape[dim_idx] = lengths[dim_idx]
        rotations = _rotations(axis, width)
        parts.append(rotations.reshape(*shape, *rotations.shape[1:]).expand(*lengths, *rotations.shape[1:]))
    return torch.cat(parts, dim=3).flatten(0, 2)[None, :, None]


def apply_rope(x_BSNK: Tensor, table: Tensor) -> Tensor:
    """Rotates queries or keys; adjacent channels form a pair, as in Wan."""
    pairs = x_BSNK.to(table.dtype).unflatten(-1, (-1, 1, 2))
    rotated = table[..., 0] * pairs[..., 0] + table[..., 1] * pairs[..., 1]
    return rotated.flatten(-2).type_as(x_BSNK)
