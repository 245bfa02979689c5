"""Frozen linear layers of the blocks enter, the same layers with 8-bit weights leave (LoRA on top stays as it is)."""

from typing import Any

import torch
from torch import Tensor, nn

from ..model.dit import GloriaDiT

FP8 = torch.float8_e4m3fn


class _QuantizedMatmul(torch.autograd.Function):
    """`x W^T`; keeps the 8-bit weight for the backward pass, never the wide one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        # Not by save_for_backward: a recomputed block would have to compute this product to get at frozen weights.
        ctx.weight, ctx.scale = weight, scale
        return x @ dequantize(weight, scale, x.dtype).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ dequantize(ctx.weight, ctx.scale, gradient.dtype), None, None


class QuantizedLinear(nn.Linear):
    """A frozen linear layer: float8 weight [out, in], one float32 scale per output row."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight, scale = quantize(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output in the type of `x`."""
        out = _QuantizedMatmul.apply(x, self.weight, self.scale)
        return out if self.bias is None else out + self.bias


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float8 values and the scale [out, 1] that gives each row the whole range of the type."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / torch.finfo(FP8).max
    return (weight.float() / scale).to(FP8), scale


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`."""
    return (weight.to(torch.float32) * scale).to(dtype)


def quantize_frozen(model: GloriaDiT) -> int:
    """Replace frozen linear layers of the blocks in place; returns how many."""
    replaced = 0
    for block in model.blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                is_frozen_linear = type(layer) is nn.Linear and not layer.weight.requires_grad
                if is_frozen_linear:
                    setattr(parent, name, QuantizedLinear(layer))
                    replaced += 1
    return replaced
