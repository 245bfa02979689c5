"""Sizes of a Wan DiT and token counts enter, floating-point operations and a bound on time leave.

One multiply-add counts as two operations. Only matrix products are counted: norms, RoPE and activations are
bound by memory, so real time is always longer.
"""

from typing import NamedTuple


class DiTShape(NamedTuple):
    """Sizes that decide the cost of one forward pass.

    Args:
        context_tokens: text tokens plus CLIP image tokens.
    """

    dim: int
    ffn_dim: int
    num_layers: int
    context_tokens: int


def forward_flops(shape: DiTShape, video_tokens: int, anchor_tokens: int) -> float:
    """Operations of one forward pass of one CFG half, anchors in full self-attention."""
    tokens, dim, context = video_tokens + anchor_tokens, shape.dim, shape.context_tokens
    self_projections = 8 * tokens * dim**2
    self_attention = 4 * tokens**2 * dim
    cross_projections = 4 * tokens * dim**2 + 4 * context * dim**2
    cross_attention = 4 * tokens * context * dim
    feed_forward = 4 * tokens * dim * shape.ffn_dim
    block = self_projections + self_attention + cross_projections + cross_attention + feed_forward
    return float(shape.num_layers * block)


def lower_bound_seconds(flops: float, flops_per_second: float) -> float:
    """Time that no implementation can beat at this matrix rate."""
    return flops / flops_per_second
