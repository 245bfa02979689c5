"""Trained weights enter after every step, their exponential moving average leaves."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import TrainingError


class Ema:
    """A float32 average beside the weights: `average = decay average + (1 - decay) weight`.

    The decay rises to its value with the steps, so that a short run's average does not keep what the run began with.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._averages = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the weights after this step of the run, the first being 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter.detach().float(), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, float32."""
        return dict(self._averages)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot."""
        if set(tensors) != set(self._averages):
            raise TrainingError(f"The snapshot averages {len(tensors)} tensors, this run {len(self._averages)}.")
        for name, average in self._averages.items():
            average.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The averages in place of the weights; afterwards the weights are back bit for bit."""
        kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(self._averages[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])
