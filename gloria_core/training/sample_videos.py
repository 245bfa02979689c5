"""Validation clips that were saved as latents enter, videos beside them leave."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..data.encoders import load_wan_vae
from ..errors import ConfigError, MediaError
from ..media.decode_latents import DiffusersWanDecoder
from ..media.encode_video import frame_rate
from ..media.normalized_decoder import NormalizedDecoder
from ..media.write_video import FilmSettings, write_film

logger = logging.getLogger(__name__)


class SampleVideos:
    """The VAE of `validation.vae`; it is on the training device only while it decodes.

    Args:
        channels: of the dataset's latents.
    """

    def __init__(self, folder: Path, channels: int, device: torch.device) -> None:
        self._vae = load_wan_vae(folder)
        self._device = device
        if self._vae.config.z_dim != channels:
            raise ConfigError(
                f"validation.vae: {folder} decodes latents of {self._vae.config.z_dim} channels, the dataset holds "
                f"{channels}. Give the VAE of the base."
            )

    def write(self, clips: Sequence[Path]) -> None:
        """An MP4 beside each clip. A clip is a look at the run and no part of it: one that fails is named and left."""
        for clip in clips:
            try:
                self._vae.to(self._device)
                latents_CTHW, fps = _read(clip)
                write_film(clip.with_suffix(".mp4"), self._decoder(), latents_CTHW[None], FilmSettings(frame_rate(fps)))
            except (MediaError, torch.OutOfMemoryError) as error:
                logger.warning("%s stays as latents, its video could not be made: %s", clip.name, error)
            finally:
                self._vae.to("cpu")

    def _decoder(self) -> NormalizedDecoder:
        config = self._vae.config
        return NormalizedDecoder(
            DiffusersWanDecoder(self._vae), torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        )


def _read(clip: Path) -> tuple[Tensor, float]:
    with safe_open(clip, framework="pt") as file:
        return file.get_tensor("latents"), float(file.metadata()["fps"])
