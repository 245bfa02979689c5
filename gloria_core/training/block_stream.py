"""Frozen blocks that live in host memory and visit the GPU when they are computed: a ring of two, host to device only.

Nothing is ever copied back, because frozen weights do not change. While one block computes, the next one in the
direction of travel (up in the forward pass, down in the backward pass) is on its way into the other slot.
"""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..model.dit import GloriaDiT

_NUM_SLOTS = 2
Weights = dict[str, Tensor]


def stream_blocks(model: GloriaDiT, num_streamed: int, device: torch.device) -> None:
    """Move the model to `device` but for the frozen weights of its last `num_streamed` blocks.

    Call before `checkpoint_blocks`, so that the recomputation brings the weights back too.
    """
    count = min(num_streamed, len(model.blocks))
    streamed = list(model.blocks)[len(model.blocks) - count :]
    masters = [_take_masters(block, device) for block in streamed]
    model.to(device)
    ring = _Ring(streamed, masters, device)
    for position, block in enumerate(streamed):
        block.inner = functools.partial(ring.forward, position, block.inner)


class _Ring:
    """Which block lies in which slot, and the copies under way."""

    def __init__(self, blocks: list[nn.Module], masters: list[Weights], device: torch.device) -> None:
        self._blocks = blocks
        self._masters = masters
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Blocks with an audio branch have more weights than those without.
        largest = {name: x for weights in masters for name, x in weights.items()}
        self._slots = [
            {name: torch.empty_like(x, device=device) for name, x in largest.items()}
            for _ in range(min(_NUM_SLOTS, len(blocks)))
        ]
        self._held: list[int | None] = [None] * len(self._slots)
        self._arrived: list[Any] = [None] * len(self._slots)
        self._last = -1

    def forward(self, position: int, forward: Any, *args: Any) -> tuple[Tensor, Tensor]:
        """Run a block with its weights in place, the neighbour's following; they stay until the next but one runs."""
        is_down = position in (self._last, self._last - 1) and torch.is_grad_enabled()
        self._last = position
        slot = self._fetch(position)
        if self._stream is not None:
            torch.cuda.current_stream().wait_event(self._arrived[slot])
        _point_to(self._blocks[position], self._slots[slot])
        neighbour = position - 1 if is_down else position + 1
        if 0 <= neighbour < len(self._blocks):
            self._fetch(neighbour)
        return forward(*args)

    def _fetch(self, position: int) -> int:
        """Slot of a block, its copy started if it is not there."""
        slot = position % len(self._slots)
        if self._held[slot] == position:
            return slot
        self._held[slot] = position
        if self._stream is not None:
            # The block that was here may still be computing.
            self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext(), torch.no_grad():
            for name, master in self._masters[position].items():
                self._slots[slot][name].copy_(master, non_blocking=True)
            if self._stream is not None:
                self._arrived[slot] = torch.cuda.Event()
                self._arrived[slot].record(self._stream)
        return slot


def _take_masters(block: nn.Module, device: torch.device) -> Weights:
    """The block's frozen weights in host memory; in the block nothing is left of them."""
    masters = {}
    for name, parameter in block.named_parameters():
        if parameter.requires_grad:
            continue
        master = parameter.detach()
        masters[name] = master.pin_memory() if device.type == "cuda" else master
        parameter.data = parameter.data.new_empty(0)
    if not masters:
        raise TrainingError("memory.streamed_blocks needs frozen blocks: use method lora, or set it to 0.")
    return masters


def _point_to(block: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in block.named_parameters():
        if name in weights:
            parameter.data = weights[name]
