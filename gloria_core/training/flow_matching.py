"""Paper eq. 2 as pure functions: clean latents and noise enter, what the model sees and what it should say leave.

The paper writes `x_t = t x_1 + (1 - t) x_0` with data x_1, noise x_0 and target `x_1 - x_0`. Wan counts the other way:
`sigma = 1 - t` is the noise level and the target is `noise - data`.

Legend: B samples, C latent channels, T latent frames, H W latent height and width.
"""

import math
from statistics import NormalDist

from torch import Tensor

from .config import TimestepConfig

_STANDARD_NORMAL = NormalDist()


def noisy_latents(clean_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
    """`(1 - sigma) clean + sigma noise`, float32."""
    sigma = sigma_B.float().view(-1, 1, 1, 1, 1)
    return (1 - sigma) * clean_BCTHW.float() + sigma * noise_BCTHW.float()


def velocity_target(clean_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor:
    """The velocity along the path, dx/dsigma = noise - clean, float32."""
    return noise_BCTHW.float() - clean_BCTHW.float()


def velocity_loss(prediction_BCTHW: Tensor, target_BCTHW: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean squared error of each sample [B] over its counted latent frames, float32.

    Args:
        counted_BT: bool; at least one frame of every sample.
    """
    error_BT = (prediction_BCTHW.float() - target_BCTHW.float()).square().mean(dim=(1, 3, 4))
    weight_BT = counted_BT.to(error_BT)
    return (error_BT * weight_BT).sum(dim=1) / weight_BT.sum(dim=1)


def draw_sigma(config: TimestepConfig, u: float) -> float:
    """The noise level at quantile `u` of the distribution, 0 to 1, restricted to [min, max]."""
    low, high = _cdf(config, config.min), _cdf(config, config.max)
    sigma = _inverse_cdf(config, low + (high - low) * u)
    return min(max(sigma, config.min), config.max)


def stratum_quantile(idx: int, num: int, u: float) -> float:
    """Quantile of sample `idx` of `num`, each with an equal slice of the distribution to itself."""
    return (idx + u) / num


def _inverse_cdf(config: TimestepConfig, u: float) -> float:
    if config.kind == "logit_normal":
        if u <= 0 or u >= 1:
            return float(u > 0)
        base = 1 / (1 + math.exp(-(config.mean + config.std * _STANDARD_NORMAL.inv_cdf(u))))
    else:
        base = u
    return config.shift * base / (1 + (config.shift - 1) * base)


def _cdf(config: TimestepConfig, sigma: float) -> float:
    base = sigma / (config.shift - (config.shift - 1) * sigma)
    if config.kind == "uniform" or base <= 0 or base >= 1:
        return min(max(base, 0.0), 1.0)
    return _STANDARD_NORMAL.cdf((math.log(base / (1 - base)) - config.mean) / config.std)
