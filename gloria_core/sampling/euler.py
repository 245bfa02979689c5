"""Noise and a velocity field enter, the sample at noise level 0 leaves.

Wan's sign: `x = sigma * noise + (1 - sigma) * data`, so the velocity dx/dsigma is `noise - data`.
"""

import itertools
from collections.abc import Callable

from torch import Tensor


def euler_flow(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    sigmas: Tensor,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate `velocity(x, sigma)` along `sigmas` [steps + 1] from their first value to their last.

    Args:
        on_step: called after every step with its index and the current estimate of the clean sample.
    """
    x = noise
    levels = [float(sigma) for sigma in sigmas]
    for step_idx, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        flow = velocity(x, sigma)
        if on_step is not None:
            on_step(step_idx, x - sigma * flow)
        x = x + (sigma_next - sigma) * flow
    return x
