"""Losses with their noise levels enter, a running mean for each range of levels leaves."""

from typing import Any

NUM_BINS = 8
_MOMENTUM = 0.95


class LossBins:
    """The loss depends far more on the noise level than on the step; only equal levels can be compared."""

    def __init__(self) -> None:
        self._means: list[float | None] = [None] * NUM_BINS

    def add(self, sigma: float, loss: float) -> None:
        """Count one sample, sigma 0 to 1."""
        idx = min(int(sigma * NUM_BINS), NUM_BINS - 1)
        old = self._means[idx]
        if loss == loss:  # NaN is not counted
            self._means[idx] = loss if old is None else _MOMENTUM * old + (1 - _MOMENTUM) * loss

    def means(self) -> list[float | None]:
        """Running mean of each range, None where nothing was counted yet."""
        return list(self._means)

    def state(self) -> dict[str, Any]:
        """Plain values for a snapshot."""
        return {"means": self.means()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._means = list(state["means"])
