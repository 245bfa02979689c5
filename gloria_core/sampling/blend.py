"""The end of the film so far and the start of the next chunk enter, their cross-fade on clean latents leaves."""

import torch
from torch import Tensor

# Supplement 1.2: printed with two decimals, kept as printed.
PAPER_WEIGHTS = (1.0, 0.67, 0.33, 0.0)


def blend_weights(num_overlap: int) -> tuple[float, ...]:
    """Weight of the film so far at each overlapped latent, falling linearly from 1 to 0."""
    if num_overlap == len(PAPER_WEIGHTS):
        return PAPER_WEIGHTS
    if num_overlap <= 1:
        return (1.0,) * num_overlap
    return tuple(1.0 - i / (num_overlap - 1) for i in range(num_overlap))


def blend_overlap(film_end: Tensor, chunk_start: Tensor, time_dim: int) -> Tensor:
    """`w * film_end + (1 - w) * chunk_start` along `time_dim`; both hold the same latents of the film.

    The sum is taken in float32 and returned in the dtype that came.
    """
    shape = [1] * film_end.ndim
    shape[time_dim] = film_end.shape[time_dim]
    weights = torch.tensor(blend_weights(film_end.shape[time_dim]), dtype=torch.float32).view(shape)
    blended = weights * film_end.float() + (1 - weights) * chunk_start.float()
    return blended.to(film_end.dtype)
