"""Latents in the model's space enter a VAE decoder that expects raw ones."""

from torch import Tensor

from .decode_latents import StreamingDecoder


class NormalizedDecoder:
    """A decoder behind the undoing of the model's normalisation: `latent * std + mean` per channel.

    Args:
        mean_C: of the VAE's raw latents, for Wan `vae.config.latents_mean` in diffusers.
        std_C: likewise `vae.config.latents_std`.
    """

    def __init__(self, decoder: StreamingDecoder, mean_C: Tensor, std_C: Tensor) -> None:
        self.channels = decoder.channels
        self.group_latents = decoder.group_latents
        self.fingerprint = f"{decoder.fingerprint} mean {mean_C.tolist()} std {std_C.tolist()}"
        self._decoder = decoder
        self._mean = mean_C.view(1, -1, 1, 1, 1)
        self._std = std_C.view(1, -1, 1, 1, 1)

    def reset(self) -> None:
        """Forget all history."""
        self._decoder.reset()

    def push(self, latents_BCTHW: Tensor) -> Tensor:
        """Decode the next group."""
        return self._decoder.push(latents_BCTHW * self._std.to(latents_BCTHW) + self._mean.to(latents_BCTHW))
