"""The training objective (paper eq. 2): a batch with its noise levels enters, one velocity loss per sample leaves.

The model is asked exactly what sampling asks it (`sampling/denoise.py`): the same channels, timesteps and windows.

Legend: B samples, C latent channels, T latent frames, H W latent height and width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.batch import Batch
from ..model.presets import DiTConfig
from ..sampling.schedule import timestep_of
from ..shapes import TEMPORAL_STRIDE
from .flow_matching import noisy_latents, velocity_loss, velocity_target

Forward = Callable[..., Tensor]


def batch_loss(forward: Forward, dit: DiTConfig, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Loss [B] of a batch that is on the model's device, float32.

    Given frames follow the base: with image channels they are denoised again and count; in place they are clean,
    at timestep 0, and do not count.

    Args:
        dtype: type the model computes in.
    """
    clean_BCTHW = batch.latents_BCTHW.float()
    noise_BCTHW = sample_noise(clean_BCTHW, [draw.noise_seed for draw in batch.draws])
    sigma_B = torch.tensor([draw.sigma for draw in batch.draws], device=clean_BCTHW.device)
    x_BCTHW = noisy_latents(clean_BCTHW, noise_BCTHW, sigma_B)
    timestep = timestep_of(sigma_B)
    counted_BT = torch.ones_like(batch.known_BT)
    if dit.takes_image_channels:
        x_BCTHW = torch.cat([x_BCTHW, _image_channels(batch)], dim=1)
    elif batch.known_BT.any():
        held = batch.known_BT[:, None, :, None, None]
        x_BCTHW = torch.where(held, clean_BCTHW, x_BCTHW)
        timestep = timestep[:, None].expand_as(batch.known_BT).masked_fill(batch.known_BT, 0.0)
        counted_BT = ~batch.known_BT
    prediction_BCTHW = forward(
        x_BCTHW.to(dtype),
        timestep,
        batch.text_BLD.to(dtype),
        None if batch.clip_BSD is None else batch.clip_BSD.to(dtype),
        [anchor.to(dtype) for anchor in batch.anchors],
        batch.anchor_slots,
        None if batch.audio_BNWLC is None else batch.audio_BNWLC.to(dtype),
    )
    return velocity_loss(prediction_BCTHW, velocity_target(clean_BCTHW, noise_BCTHW), counted_BT)


def sample_noise(like_BCTHW: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise of each sample from its own seed, drawn on the CPU: the same on every device and in every batch."""
    noise = [
        torch.randn(like_BCTHW.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds
    ]
    return torch.stack(noise).to(like_BCTHW.device)


def _image_channels(batch: Batch) -> Tensor:
    """Wan's I2V input behind the noisy latent: a mask with one channel per video frame of a latent, then the image."""
    if batch.image_BCTHW is None:
        raise AssertionError("a base with image channels got a batch without them")
    image_BCTHW = batch.image_BCTHW.float()
    mask = batch.known_BT.to(image_BCTHW)[:, None, :, None, None]
    return torch.cat([mask.expand(-1, TEMPORAL_STRIDE, -1, *image_BCTHW.shape[3:]), image_BCTHW], dim=1)
