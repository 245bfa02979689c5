"""A number of steps and a shift enter, the noise levels from 1 (noise) to 0 (data) leave."""

import torch
from torch import Tensor

from ..errors import PlanError

NUM_TRAIN_TIMESTEPS = 1000


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Spend more of the steps at high noise: `s * sigma / (1 + (s - 1) * sigma)`; a shift of 1 changes nothing."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def flow_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels [steps + 1], float64, strictly falling from exactly 1 to exactly 0."""
    if steps < 1:
        raise PlanError(f"Sampling needs at least 1 step, got {steps}.")
    if shift <= 0:
        raise PlanError(f"The shift of the noise schedule must be above 0, got {shift}. Wan uses 3 to 8.")
    return shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def timestep_of(sigma: float) -> float:
    """The timestep 0..1000 that Wan's DiT reads for a noise level 0..1."""
    return sigma * NUM_TRAIN_TIMESTEPS
