"""Blocks that keep only their input in the forward pass and compute the rest again in the backward pass."""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..model.dit import GloriaDiT


def checkpoint_blocks(model: GloriaDiT, offload: bool = False) -> None:
    """Replace each block's forward by a recomputed one: gradients stay the same bit for bit.

    Args:
        offload: keep the blocks' inputs in host memory between the passes.
    """
    for block in model.blocks:
        block.forward = functools.partial(_recomputed, block.forward, offload)


def _recomputed(forward: Any, offload: bool, x_BSD: Tensor, inputs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x_BSD, inputs)
    storage = torch.autograd.graph.save_on_cpu(pin_memory=x_BSD.is_cuda) if offload else contextlib.nullcontext()
    # Non-reentrant: it follows every tensor inside `inputs`, and gradients reach LoRA in block 0, whose input has none.
    with storage:
        return checkpoint(forward, x_BSD, inputs, use_reentrant=False)
