"""The two functions a host may replace inside the DiT: attention, and the application of RoPE.

ComfyUI injects its own (flash, sage, xformers; fused RoPE); the core and the trainer use PyTorch's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .rope import apply_rope

# In `transformer_options`: an `analysis.attention_probe.AttentionProbe` that looks at self-attention, or absent.
PROBE_OPTION = "gloria_attention_probe"

AttentionFunction = Callable[..., Tensor]
RopeFunction = Callable[[Tensor, Tensor], Tensor]


def torch_attention(
    q_BSD: Tensor,
    k_BSD: Tensor,
    v_BSD: Tensor,
    heads: int,
    transformer_options: Mapping[str, Any] | None = None,  # noqa: ARG001 - the host's functions read it
) -> Tensor:
    """Multi-head attention of flat [B, S, heads * K] tensors with PyTorch's fused kernels."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BSD, k_BSD, v_BSD))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


@dataclass(frozen=True)
class Kernels:
    """The host's attention and RoPE functions."""

    attention: AttentionFunction = torch_attention
    apply_rope: RopeFunction = apply_rope
