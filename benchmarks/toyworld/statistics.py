"""One number for each identity enters, the mean with its bootstrap interval leaves; arms are compared pairwise.

Identities are what is drawn again, not films or frames: those of one character are alike.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

DRAWS, LEVEL, SEED = 10_000, 0.95, 20_240
SEPARATES, OTHER_WAY, TOGETHER, TOO_FEW = "separates", "separates, the other way", "does not separate", "too few"


class Estimate(NamedTuple):
    """A mean over identities; the interval is NaN for a single one."""

    mean: float
    low: float
    high: float
    count: int


def estimate(values: Mapping[int, float | None]) -> Estimate | None:
    """Mean and percentile interval over the identities that have a value."""
    present = np.array([value for _, value in sorted(values.items()) if value is not None], dtype=np.float64)
    if not len(present):
        return None
    low, high = (float("nan"),) * 2 if len(present) == 1 else bootstrap_interval(present)
    return Estimate(float(present.mean()), low, high, len(present))


def paired_difference(arm: Mapping[int, float | None], full: Mapping[int, float | None]) -> Estimate | None:
    """`arm - full` over the identities that have both."""
    both = [number for number in arm.keys() & full.keys() if arm[number] is not None and full[number] is not None]
    return estimate({number: arm[number] - full[number] for number in both})


def bootstrap_interval(values_N: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the mean."""
    rng = np.random.default_rng(SEED)
    means = values_N[rng.integers(len(values_N), size=(DRAWS, len(values_N)))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def verdict(difference: Estimate | None, direction: int) -> str:
    """Whether the interval of the difference leaves out 0, and on the expected side.

    Args:
        direction: -1, 1, or 0 for either.
    """
    if difference is None or difference.count < 2:
        return TOO_FEW
    if difference.low <= 0 <= difference.high:
        return TOGETHER
    side = 1 if difference.low > 0 else -1
    return SEPARATES if direction in (0, side) else OTHER_WAY
