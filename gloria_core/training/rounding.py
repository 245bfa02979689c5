"""float32 values enter, bfloat16 values leave that do not forget small updates.

bfloat16 keeps 8 bits of a number: added to a weight of 1, an update below 1/512 changes nothing.
"""

import torch
from torch import Tensor

_DROPPED_BITS = 16


def add_kahan_(weight: Tensor, update: Tensor, lost: Tensor) -> None:
    """`weight += update` in bfloat16; `lost` (bfloat16) carries what rounding drops to the next call."""
    wanted = update.float() + lost.float()
    before = weight.float()
    weight.copy_(before + wanted)
    lost.copy_(wanted - (weight.float() - before))


def round_stochastically_(weight: Tensor, value: Tensor, generator: torch.Generator) -> None:
    """Write float32 `value` to bfloat16 `weight`, up or down with the probability that makes the mean exact."""
    noise = torch.randint(
        0, 1 << _DROPPED_BITS, value.shape, dtype=torch.int32, device=value.device, generator=generator
    )
    bits = value.contiguous().view(torch.int32) + noise
    # The upper 16 bits of a float32 are a bfloat16.
    weight.copy_((bits & -(1 << _DROPPED_BITS)).view(torch.float32))
