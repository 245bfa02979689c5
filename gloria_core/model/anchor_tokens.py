"""Anchor latents -> tokens beside the video's: own resolution, shared patch embedding, RoPE of eq. 1 (sec. 4.1).

Legend: B batch, C latent channels, A anchor tokens, D model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import AnchorError
from ..shapes import PATCH_SIZE, TokenGrid
from .presets import DiTConfig
from .rope import anchor_axes, anchor_position, rope_table

NUM_MASK_CHANNELS = 4
Slot = tuple[str, str]
"""Kind and label of an anchor."""


def pad_to_patches(x_BCTHW: Tensor) -> Tensor:
    """Pads height and width at their ends to multiples of the patch, wrapping around as ComfyUI does."""
    missing = [-size % patch for size, patch in zip(x_BCTHW.shape[2:], PATCH_SIZE, strict=True)]
    if not any(missing):
        return x_BCTHW
    return pad(x_BCTHW, (0, missing[2], 0, missing[1], 0, missing[0]), mode="circular")


def anchor_channels(latent_BC1HW: Tensor, config: DiTConfig) -> Tensor:
    """An anchor's latent with all channels the base expects.

    A base with image channels sees what it sees at a known frame: the clean latent where the noise would
    be, a mask of ones, and the same latent as the image.
    """
    if not config.takes_image_channels:
        return latent_BC1HW
    mask = torch.ones_like(latent_BC1HW[:, :1]).expand(-1, NUM_MASK_CHANNELS, -1, -1, -1)
    return torch.cat([latent_BC1HW, mask, latent_BC1HW], dim=1)


def embed_anchors(
    anchors: Sequence[Tensor],
    slots: Sequence[Slot | Sequence[Slot]],
    patch_embedding: nn.Module,
    config: DiTConfig,
) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens and RoPE tables of all anchors, in the given order.

    Args:
        anchors: Clean latents in the model's space, each [B, C, 1, h, w] of any size.
        slots: Kind and label of each anchor, for the whole batch or one for every sample.

    Returns:
        Token tensors [B, a, D] and tables [1 or B, a, 1, K/2, 2, 2], one pair per anchor.

    Raises:
        AnchorError: Anchors and slots do not match, or an anchor is not one latent frame of this base.
    """
    if len(anchors) != len(slots):
        raise AnchorError(f"Got {len(anchors)} anchor latents but {len(slots)} anchor labels.")
    tokens, tables = [], []
    for latent, slot in zip(anchors, slots, strict=True):
        kind, label = slot if isinstance(slot[0], str) else slot[0]
        if latent.ndim != 5 or latent.shape[1] != config.out_dim or latent.shape[2] != 1:
            raise AnchorError(
                f"The {kind} anchor '{label}' is a latent of shape {tuple(latent.shape)}. This model expects "
                f"[batch, {config.out_dim}, 1, height, width]: encode anchors with the VAE of the same base."
            )
        x = pad_to_patches(anchor_channels(latent, config))
        embedded = patch_embedding(x.float()).to(latent.dtype)
        grid = TokenGrid(*embedded.shape[2:])
        tokens.append(embedded.flatten(2).transpose(1, 2))
        tables.append(_anchor_table(slot, grid, config, latent.device))
    return tokens, tables


def _anchor_table(
    slot: Slot | Sequence[Slot], grid: TokenGrid, config: DiTConfig, device: torch.device
) -> Tensor:
    """RoPE table [1, a, ...] of a slot, or [B, a, ...] when every sample has its own."""
    own = (slot,) if isinstance(slot[0], str) else tuple(slot)
    shared = own[:1] if len(set(own)) == 1 else own
    axes = [anchor_axes(grid, anchor_position(kind, label, config.gloria), device) for kind, label in shared]
    return torch.cat([rope_table(one, config.head_dim) for one in axes])
