"""A trained autoencoder enters and leaves with latents of the mean and deviation that every Wan 2.1 model expects.

Samplers subtract Wan's fixed means and divide by its fixed deviations. Both are folded into the two 1x1x1
convolutions around the latents, so that nobody has to know other numbers, and pictures stay what they were.

Legend: B clips, C latent channels, T latent frames, H W latent cells.
"""

import torch
from torch import Tensor

from .pictures import training_batch
from .sizes import WorldSizes
from .wan_vae import WanVae

# What stock samplers apply to a latent of Wan 2.1: (latent - mean) / std.
WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.9160,
)  # fmt: skip
_STREAM = 97
_BATCHES, _BATCH, _NUM_FRAMES = 8, 8, 9


@torch.inference_mode()
def measure_latents(vae: WanVae, world: WorldSizes, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over training clips, float32 on the CPU."""
    latents = []
    for idx in range(_BATCHES):
        video_BCTHW = training_batch(world, seed + _STREAM, idx, _NUM_FRAMES, _BATCH, device)
        latents.append(vae.encode(video_BCTHW.bfloat16())[0].double().cpu())
    values_CN = torch.cat(latents).movedim(1, 0).flatten(1)
    return values_CN.mean(dim=1).float(), values_CN.std(dim=1).float()


@torch.no_grad()
def scale_latents(vae: WanVae, mean_C: Tensor, std_C: Tensor) -> None:
    """Make `vae` encode to `(latent - mean_C) / std_C * WAN_STD + WAN_MEAN`, and decode what it then encodes."""
    weight = vae.conv1.weight
    factor_C = (torch.tensor(WAN_STD) / std_C).to(weight)
    shift_C = (torch.tensor(WAN_MEAN).to(weight)) - mean_C.to(weight) * factor_C
    channels = len(factor_C)
    # conv1 makes means, then log variances.
    vae.conv1.weight[:channels] *= factor_C.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * factor_C + shift_C
    vae.conv1.bias[channels:] += 2 * factor_C.log()
    scaled_OI111 = vae.conv2.weight / factor_C.view(1, -1, 1, 1, 1)
    vae.conv2.bias -= (scaled_OI111 * shift_C.view(1, -1, 1, 1, 1)).sum(dim=(1, 2, 3, 4))
    vae.conv2.weight.copy_(scaled_OI111)


def normalized(latents_BCTHW: Tensor) -> Tensor:
    """What the diffusion model sees."""
    mean, std = (torch.tensor(each).to(latents_BCTHW).view(1, -1, 1, 1, 1) for each in (WAN_MEAN, WAN_STD))
    return (latents_BCTHW - mean) / std


def denormalized(latents_BCTHW: Tensor) -> Tensor:
    """What the decoder reads."""
    mean, std = (torch.tensor(each).to(latents_BCTHW).view(1, -1, 1, 1, 1) for each in (WAN_MEAN, WAN_STD))
    return latents_BCTHW * std + mean
