"""Latents in, frames out, a few at a time: Wan's causal video VAEs decode any length at the memory of one group.

Tensor suffixes: B batch, C channels, T time, H height, W width.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..errors import MediaError
from ..shapes import TEMPORAL_STRIDE

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

# The decoders look back 37.5 latents, so after this many a restarted decode equals an unbroken one.
WARM_UP_LATENTS = 38
DIGEST_LATENTS = 16


class StreamingDecoder(Protocol):
    """A VAE decoder that keeps its feature cache between pushes."""

    channels: int
    group_latents: int
    fingerprint: str

    def reset(self) -> None:
        """Forget all history: the next push is the start of a video."""

    def push(self, latents_BCTHW: Tensor) -> Tensor:
        """Decode the next group, one latent after a reset and up to `group_latents` later.

        Returns:
            frames_THWC on the CPU, 0 to 1: one for the first latent after a reset, `TEMPORAL_STRIDE` for every other.
        """


def check_latents(latents_BCTHW: Tensor, channels: int) -> None:
    """Refuse what is not one video latent with `channels` channels."""
    shape = tuple(latents_BCTHW.shape)
    if latents_BCTHW.is_nested or len(shape) != 5:
        raise MediaError(f"Expected a video latent [1, {channels}, frames, height, width], got shape {shape}.")
    if shape[0] != 1:
        raise MediaError(f"Got {shape[0]} videos in one latent, expected 1: select one with Latent From Batch.")
    if shape[1] != channels:
        raise MediaError(
            f"The latent has {shape[1]} channels, this VAE decodes {channels}: "
            "load the VAE that belongs to the model (16 channels: Wan 2.1 VAE, 48 channels: Wan 2.2 VAE)."
        )
    if not latents_BCTHW.numel():
        raise MediaError(f"The latent is empty, its shape is {shape}.")


def finite_slice(latents_BCTHW: Tensor, start: int, stop: int) -> Tensor:
    """Latent frames `start` to `stop`, or an error that names the first one with NaN or infinity."""
    piece_BCTHW = latents_BCTHW[:, :, start:stop]
    is_bad_T = ~torch.isfinite(piece_BCTHW).all(dim=4).all(dim=3).all(dim=1).all(dim=0)
    if is_bad_T.any():
        raise MediaError(
            f"Latent frame {start + int(is_bad_T.int().argmax())} of {latents_BCTHW.shape[2]} holds NaN or infinity. "
            "Sample again; if it returns, turn SageAttention and fp8 weights off."
        )
    return piece_BCTHW


def digest_latents(latents_BCTHW: Tensor) -> str:
    """SHA-256 of every latent value, read piece by piece; refuses NaN before anything is decoded."""
    digest = hashlib.sha256(f"{latents_BCTHW.dtype} {tuple(latents_BCTHW.shape)}".encode())
    for start in range(0, latents_BCTHW.shape[2], DIGEST_LATENTS):
        piece_BCTHW = finite_slice(latents_BCTHW, start, start + DIGEST_LATENTS)
        piece_TBCHW = piece_BCTHW.detach().movedim(2, 0).cpu().contiguous()
        digest.update(piece_TBCHW.view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_weights(module: nn.Module) -> str:
    """SHA-256 over the name, shape, dtype and 16 spread values of every weight."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        values = weight.detach().flatten()
        picks = torch.linspace(0, max(values.numel() - 1, 0), min(16, values.numel()), dtype=torch.float64).long()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(values[picks.to(values.device)].float().cpu().numpy())
    return digest.hexdigest()


def stream_frames(
    decoder: StreamingDecoder,
    latents_BCTHW: Tensor,
    first_latent: int = 0,
    stop_latent: int | None = None,
    warm_up: int = WARM_UP_LATENTS,
) -> Iterator[Tensor]:
    """Decode latents `first_latent` to `stop_latent` and yield their frames_THWC piece by piece.

    Args:
        latents_BCTHW: the whole film; may be a strided view of a mapped file, only slices of it are read.
        warm_up: latents decoded and dropped before `first_latent`; `WARM_UP_LATENTS` makes a restart exact.
    """
    check_latents(latents_BCTHW, decoder.channels)
    num_latents = latents_BCTHW.shape[2]
    stop = num_latents if stop_latent is None else stop_latent
    if not 0 <= first_latent < stop <= num_latents:
        raise MediaError(f"Cannot decode latents {first_latent} to {stop} of a film of {num_latents} latents.")
    if first_latent and warm_up < 1:
        raise MediaError(f"A decode from latent {first_latent} on needs at least 1 warm-up latent, got {warm_up}.")
    return _stream_groups(decoder, latents_BCTHW, first_latent, stop, warm_up)


def _stream_groups(
    decoder: StreamingDecoder, latents_BCTHW: Tensor, first: int, stop: int, warm_up: int
) -> Iterator[Tensor]:
    # A restart keeps the phase of the groups, so that every kernel sees the shapes of the unbroken decode.
    start = max(0, first - warm_up) // decoder.group_latents * decoder.group_latents
    # A group that straddles `stop` is decoded whole for the same reason.
    num_latents = latents_BCTHW.shape[2]
    decoder.reset()
    position = start
    while position < stop:
        group_stop = min(position + (1 if position == start else decoder.group_latents), num_latents)
        frames_THWC = decoder.push(finite_slice(latents_BCTHW, position, group_stop))
        expected = 1 if position == start else (group_stop - position) * TEMPORAL_STRIDE
        if frames_THWC.shape[0] != expected:
            raise MediaError(
                f"The VAE returned {frames_THWC.shape[0]} frames for latents {position} to {group_stop}, "
                f"expected {expected}: it is not a Wan video VAE."
            )
        if group_stop > first:
            kept = frames_THWC[max(0, first - position) * TEMPORAL_STRIDE :] if position > start else frames_THWC
            if group_stop > stop:
                kept = kept[: -(group_stop - stop) * TEMPORAL_STRIDE]
            if not torch.isfinite(kept).all():
                raise MediaError(
                    f"The VAE returned NaN or infinity for latents {position} to {group_stop}; the latents are fine. "
                    "Run the VAE in full precision (start ComfyUI with --fp32-vae)."
                )
            yield kept
        position = group_stop


class DiffusersWanDecoder:
    """Streams diffusers' `AutoencoderKLWan` (2.1 and 2.2), bit-identical to its own untiled `decode`."""

    group_latents = 1

    def __init__(self, vae: "AutoencoderKLWan") -> None:
        self.channels: int = vae.config.z_dim
        self.fingerprint = fingerprint_weights(vae.decoder)
        self._vae = vae
        self._is_first = True
        self._cache: list[Tensor | str | None] = []

    def reset(self) -> None:
        """Forget all history."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

        num_convs = sum(isinstance(module, WanCausalConv3d) for module in self._vae.decoder.modules())
        self._cache = [None] * num_convs
        self._is_first = True

    @torch.no_grad()
    def push(self, latents_BCTHW: Tensor) -> Tensor:
        """Decode one latent into frames_THWC."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        vae = self._vae
        features = vae.post_quant_conv(latents_BCTHW.to(device=vae.device, dtype=vae.dtype))
        out_BCTHW = vae.decoder(features, feat_cache=self._cache, feat_idx=[0], first_chunk=self._is_first)
        self._is_first = False
        if vae.config.patch_size is not None:
            out_BCTHW = unpatchify(out_BCTHW, patch_size=vae.config.patch_size)
        return out_BCTHW.clamp(-1.0, 1.0)[0].movedim(0, -1).float().cpu().add(1.0).div(2.0)
