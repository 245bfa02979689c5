"""Two predictions of one model enter, the classifier-free guided one leaves."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Conditioning = TypeVar("Conditioning")


def guide(positive: Tensor, negative: Tensor, cfg: float) -> Tensor:
    """Push the prediction away from `negative`, through `positive`, by the factor `cfg`."""
    return negative + cfg * (positive - negative)


def guided_velocity(
    predict: Callable[[Conditioning], Tensor], positive: Conditioning, negative: Conditioning, cfg: float
) -> Tensor:
    """Velocity under guidance; at `cfg` 1 the negative has no influence and is not computed."""
    if cfg == 1:
        return predict(positive)
    return guide(predict(positive), predict(negative), cfg)
