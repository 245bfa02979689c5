"""Pixel, latent and token arithmetic of Wan's video VAEs, written once: every count in the project comes from here.

Latent frame 0 of a video covers one pixel frame, every later one covers `TEMPORAL_STRIDE` of them,
so latent `g` ends at pixel frame `4g` and starts at `4g - 3`.
"""

import math
from typing import NamedTuple

from .errors import PlanError

TEMPORAL_STRIDE = 4
PATCH_SIZE = (1, 2, 2)
# Wan 2.1's VAE (16 channels) shrinks each side by 8, the Wan 2.2 VAE of TI2V-5B (48 channels) by 16.
SPATIAL_STRIDE_BY_CHANNELS = {16: 8, 48: 16}


class TokenGrid(NamedTuple):
    """Tokens of one patchified latent along time, height and width."""

    frames: int
    height: int
    width: int

    @property
    def count(self) -> int:
        """Number of tokens."""
        return math.prod(self)


class LatentSize(NamedTuple):
    """Size of one latent video without its batch dimension."""

    channels: int
    frames: int
    height: int
    width: int

    @property
    def grid(self) -> TokenGrid:
        """Token grid after patchifying; odd sides are padded up, as Wan's DiT does."""
        return TokenGrid(*(-(-size // patch) for size, patch in zip(self[1:], PATCH_SIZE, strict=True)))

    @property
    def num_bytes_fp32(self) -> int:
        """Bytes of the latent in float32."""
        return math.prod(self) * 4

    @classmethod
    def from_pixels(cls, channels: int, pixel_frames: int, height: int, width: int) -> "LatentSize":
        """Latent size of a video of `pixel_frames` x `height` x `width` pixels."""
        stride = spatial_stride(channels)
        return cls(channels, latent_frames_for(pixel_frames), height // stride, width // stride)


def spatial_stride(channels: int) -> int:
    """Pixels per latent cell along height and width for a VAE with `channels` latent channels."""
    if channels not in SPATIAL_STRIDE_BY_CHANNELS:
        raise PlanError(
            f"A latent with {channels} channels is not a Wan video latent. "
            f"Expected one of {sorted(SPATIAL_STRIDE_BY_CHANNELS)} channels: load a Wan 2.1 or Wan 2.2 VAE."
        )
    return SPATIAL_STRIDE_BY_CHANNELS[channels]


def pixel_multiple(channels: int) -> int:
    """Smallest step of a side in pixels that both the VAE and the 2x2 patching divide evenly."""
    return spatial_stride(channels) * PATCH_SIZE[-1]


def latent_frames_for(pixel_frames: int) -> int:
    """Latent frames that cover at least `pixel_frames` pixel frames."""
    if pixel_frames < 1:
        raise PlanError(f"A video needs at least 1 frame, got {pixel_frames}.")
    return -(-(pixel_frames - 1) // TEMPORAL_STRIDE) + 1


def pixel_frames_for(latent_frames: int) -> int:
    """Pixel frames that `latent_frames` latent frames decode to."""
    if latent_frames < 1:
        raise PlanError(f"A video needs at least 1 latent frame, got {latent_frames}.")
    return (latent_frames - 1) * TEMPORAL_STRIDE + 1


def pixel_span_of_latent(latent_idx: int) -> tuple[int, int]:
    """Half-open span of pixel frames that latent frame `latent_idx` (global index) covers."""
    if latent_idx == 0:
        return 0, 1
    last = latent_idx * TEMPORAL_STRIDE
    return last - TEMPORAL_STRIDE + 1, last + 1
