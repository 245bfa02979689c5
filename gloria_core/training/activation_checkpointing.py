"""Blocks that keep only their input in the forward pass and compute the rest again in the backward pass."""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ..model.dit import GloriaDiT

_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def checkpoint_blocks(model: GloriaDiT, offload: bool = False, keep_attention: bool = False) -> None:
    """Recompute every block in the backward pass: gradients stay the same bit for bit.

    Args:
        offload: keep the blocks' inputs in host memory between the passes.
        keep_attention: keep the result of self-attention as well, on the device.
    """
    for block in model.blocks:
        # The gate of the last addition has a gradient only when it is trained, and then it needs the layer before it.
        part = "forward" if block.modulation.requires_grad else "inner"
        setattr(block, part, functools.partial(_recomputed, getattr(block, part), offload, keep_attention))


def _recomputed(forward: Any, offload: bool, keep_attention: bool, x_BSD: Tensor, inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(x_BSD, inputs)
    storage = torch.autograd.graph.save_on_cpu(pin_memory=x_BSD.is_cuda) if offload else contextlib.nullcontext()
    options: dict[str, Any] = {}
    if keep_attention:
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _kept_or_not)
    # Non-reentrant: it follows every tensor inside `inputs`, and gradients reach LoRA in block 0, whose input has none.
    with storage:
        return checkpoint(forward, x_BSD, inputs, use_reentrant=False, **options)


def _kept_or_not(_context: Any, operation: Any, *values: Any, **_named: Any) -> CheckpointPolicy:
    """Self-attention is what has at least as many keys as queries; text and speech are cheap to attend to again."""
    is_kept = operation in _ATTENTION and values[1].shape[-2] >= values[0].shape[-2]
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
