"""Images through a ComfyUI Wan VAE -> raw latents: anchors, the start image, and the latent a film starts from."""

from dataclasses import replace
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import numpy as np
import torch

from ...gloria_core.conditioning.anchors import Anchor, AnchorLatent, AnchorSet, AnchorSizes, fit_anchor, fitted_size
from ...gloria_core.errors import MediaError, PlanError
from ...gloria_core.media.decode_latents import fingerprint_weights
from ...gloria_core.shapes import SPATIAL_STRIDE_BY_CHANNELS, LatentSize, pixel_frames_for

_WAN_VAES = (comfy.ldm.wan.vae.WanVAE, comfy.ldm.wan.vae2_2.WanVAE)
# Only bases that use the 16-channel VAE exist with image channels.
IMAGE_CHANNELS_VAE = 16
_GRAY = 0.5
# The encoder's causal convolutions look back 29 latents: from here on a gray video's latents are all equal.
_LATENTS_UNTIL_STEADY_GRAY = 30
# Long enough for stock Wan models in one piece; a Gloria model repeats the last latent itself.
_MAX_CONCAT_LATENTS = 41


def wan_latent_channels(vae: Any) -> int:
    """Latent channels of a Wan video VAE: 16 for Wan 2.1, 48 for Wan 2.2.

    Raises:
        MediaError: Any other VAE.
    """
    network = getattr(vae, "first_stage_model", None)
    channels = getattr(vae, "latent_channels", None)
    if not isinstance(network, _WAN_VAES) or channels not in SPATIAL_STRIDE_BY_CHANNELS:
        raise MediaError(
            f"The connected VAE ({type(network).__name__}, {channels} latent channels) is not a Wan video VAE. "
            f"Load wan_2.1_vae.safetensors for Wan 2.1 and Wan2.2 A14B models, wan2.2_vae.safetensors for TI2V-5B."
        )
    return channels


def encode_image(vae: Any, image_HWC: torch.Tensor) -> torch.Tensor:
    """One image alone -> one raw latent frame [1, C, 1, h, w] in float32 on the CPU."""
    return _encode(vae, image_HWC.unsqueeze(0))


def encode_anchors(vae: Any, anchors: AnchorSet, sizes: AnchorSizes) -> tuple[list[torch.Tensor], str]:
    """Raw latent of every anchor, and what became of the latents that a character file brought, if it brought any.

    Those are used where they were made by this very VAE at this size.
    """
    channels = wan_latent_channels(vae)
    num_stored = sum(anchor.latent is not None for anchor in anchors.anchors)
    fingerprint = fingerprint_weights(vae.first_stage_model) if num_stored else ""
    latents, num_used = [], 0
    for anchor in anchors.anchors:
        stored = anchor.latent
        shape = (1, *LatentSize.from_pixels(channels, 1, *fitted_size(anchor, sizes, channels)))
        if stored is not None and stored.vae == fingerprint and stored.latent_1C1HW.shape == shape:
            latents.append(stored.latent_1C1HW)
            num_used += 1
        else:
            latents.append(encode_image(vae, fit_anchor(anchor, sizes, channels)))
    told = f"{num_used} of {num_stored} latents of the character file used" if num_stored else ""
    if num_used < num_stored:
        told += "; the others are of another VAE, precision or size and were encoded anew"
    return latents, told


def with_latents(vae: Any, anchors: AnchorSet) -> AnchorSet:
    """The same anchors, crops with their latents at standard sizes; the global one follows the size of the video."""
    channels = wan_latent_channels(vae)
    fingerprint = fingerprint_weights(vae.first_stage_model)
    crops = AnchorSizes(video_height=0, video_width=0)

    def latent(anchor: Anchor) -> AnchorLatent | None:
        if anchor.kind == "global":
            return None
        return AnchorLatent(fingerprint, encode_image(vae, fit_anchor(anchor, crops, channels)))

    return AnchorSet(tuple(replace(anchor, latent=latent(anchor)) for anchor in anchors.anchors))


def encode_start_video(vae: Any, image_HWC: torch.Tensor, latent_frames: int) -> torch.Tensor:
    """The image followed by gray, as image-to-video bases get it -> raw latents [1, C, T', h, w].

    T' is `latent_frames` up to the length that stock models take in one piece; every later latent equals the last.
    """
    encoded_frames = min(latent_frames, _LATENTS_UNTIL_STEADY_GRAY)
    video_THWC = image_HWC.new_full((pixel_frames_for(encoded_frames), *image_HWC.shape), _GRAY)
    video_THWC[0] = image_HWC
    latent_BCTHW = _encode(vae, video_THWC)
    missing = min(latent_frames, _MAX_CONCAT_LATENTS) - encoded_frames
    return torch.cat([latent_BCTHW, latent_BCTHW[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)


def film_latent(size: LatentSize, start_latent: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """LATENT of a whole film to be sampled: zeros that take no memory until written, the start image in frame 0.

    `noise_mask` says which latents are known; stock samplers and the long sampler keep those.
    """
    try:
        # Unlike torch, numpy asks the system for zeroed pages, which become resident only when they are written.
        samples_BCTHW = torch.from_numpy(np.zeros((1, *size), dtype=np.float32))
    except MemoryError as error:
        raise PlanError(
            f"The latent of this film would take {size.num_bytes_fp32 / 2**30:.0f} GiB, more than this machine grants: "
            f"make a shorter or smaller video."
        ) from error
    if start_latent is None:
        return {"samples": samples_BCTHW}
    samples_BCTHW[:, :, :1] = start_latent
    noise_mask_BCTHW = torch.ones(1, 1, size.frames, 1, 1)
    noise_mask_BCTHW[:, :, :1] = 0.0
    return {"samples": samples_BCTHW, "noise_mask": noise_mask_BCTHW}


def _encode(vae: Any, video_THWC: torch.Tensor) -> torch.Tensor:
    latent_BCTHW = vae.encode(video_THWC).to("cpu", torch.float32)
    if not torch.isfinite(latent_BCTHW).all():
        raise MediaError(
            "The VAE made values that are not finite (NaN or infinity) from an image. The VAE file is damaged or its "
            "precision too low: download it again, or start ComfyUI with --fp32-vae or --bf16-vae."
        )
    return latent_BCTHW
