"""ComfyUI's Wan VAEs as streaming decoders: the same numbers as `vae.decode`, a few frames at a time."""

import contextlib
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import torch
from comfy import model_management
from comfy.sd import VAE
from torch import Tensor, nn

from ...gloria_core.errors import MediaError
from ...gloria_core.media.decode_latents import check_latents, fingerprint_weights

# Enough latents for ComfyUI's memory estimate to take a video, not an image, for granted.
ESTIMATE_LATENTS = 9
PROBE_LATENTS = 5
WAN_2_2_PATCH = 2


def open_decoder(vae: VAE, latents_BCTHW: Tensor) -> "ComfyWanDecoder":
    """A streaming decoder for these latents, with the VAE loaded; refuses any VAE but Wan's."""
    vae.throw_exception_if_invalid()
    model = vae.first_stage_model
    if not isinstance(model, (comfy.ldm.wan.vae.WanVAE, comfy.ldm.wan.vae2_2.WanVAE)):
        raise MediaError(
            f"This VAE is a {type(model).__name__}, which cannot be streamed. "
            "Load a Wan 2.1 VAE (16 channels) or a Wan 2.2 VAE (48 channels), or use VAE Decode for other models."
        )
    check_latents(latents_BCTHW, vae.latent_channels)
    return ComfyWanDecoder(vae, tuple(latents_BCTHW.shape))


class ComfyWanDecoder:
    """Keeps the feature cache of ComfyUI's Wan decoder alive between pushes."""

    def __init__(self, vae: VAE, latent_shape: tuple[int, ...]) -> None:
        self.channels: int = vae.latent_channels
        self._vae = vae
        self._model = vae.first_stage_model
        self._is_2_2 = isinstance(self._model, comfy.ldm.wan.vae2_2.WanVAE)
        self._latent_shape = (*latent_shape[:2], min(latent_shape[2], ESTIMATE_LATENTS), *latent_shape[3:])
        self._cache: list[Tensor | str | None] = []
        self._is_first = True
        self._load()
        with torch.inference_mode(), _device_context(vae.device):
            self._cache_size, self.group_latents = _probe_grouping(self._model, self.channels, vae)
        self.fingerprint = (
            f"{fingerprint_weights(self._model.decoder)} {vae.vae_dtype} {vae.device} {torch.__version__}"
        )

    def reset(self) -> None:
        """Forget all history; loads the VAE again if something pushed it out of memory."""
        self._load()
        self._cache = [None] * self._cache_size
        self._is_first = True

    @torch.inference_mode()
    def push(self, latents_BCTHW: Tensor) -> Tensor:
        """Decode one group into frames_THWC as `vae.decode` would have made them."""
        vae = self._vae
        with _device_context(vae.device):
            features = self._model.conv2(latents_BCTHW.to(device=vae.device, dtype=vae.vae_dtype))
            options = {"first_chunk": self._is_first} if self._is_2_2 else {}
            out = self._model.decoder(features, feat_cache=self._cache, feat_idx=[0], **options)
            self._is_first = False
            out_BCTHW = torch.cat(out, 2) if isinstance(out, list) else out
            if self._is_2_2:
                out_BCTHW = comfy.ldm.wan.vae2_2.unpatchify(out_BCTHW, patch_size=WAN_2_2_PATCH)
            # A copy, because newer ComfyUI maps it to 0..1 in place and the cache may share its memory.
            pixels = out_BCTHW.to(device=vae.output_device, dtype=_output_dtype(vae), copy=True)
            return vae.process_output(pixels)[0].movedim(0, -1).cpu()

    def _load(self) -> None:
        vae = self._vae
        needed = vae.memory_used_decode(self._latent_shape, vae.vae_dtype)
        model_management.load_models_gpu(
            [vae.patcher], memory_required=needed, force_full_load=getattr(vae, "disable_offload", False)
        )


class _ProbeDoneError(Exception):
    """Leaves ComfyUI's decode once it has shown how it groups latents."""


def _probe_grouping(model: nn.Module, channels: int, vae: VAE) -> tuple[int, int]:
    """Slots of the feature cache and latents per group, read off ComfyUI's own decode of a tiny latent.

    Releases differ for Wan 2.1: latents go in one by one, or the first alone and then in pairs; mixing them up
    gives wrong frames, not an error.
    """
    calls: list[tuple[int, int]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((len(kwargs["feat_cache"]), args[0].shape[2]))
        if len(calls) == 2:
            raise _ProbeDoneError

    handle = model.decoder.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with contextlib.suppress(_ProbeDoneError):
            model.decode(torch.zeros(1, channels, PROBE_LATENTS, 2, 2, device=vae.device, dtype=vae.vae_dtype))
    finally:
        handle.remove()
    if len(calls) != 2 or calls[0][1] != 1:
        raise MediaError(f"This ComfyUI decodes Wan latents in an unknown way {calls}. Update Gloria.")
    return calls[1]


def _output_dtype(vae: VAE) -> torch.dtype:
    # ComfyUI before 0.17 always returns float32.
    return vae.vae_output_dtype() if hasattr(vae, "vae_output_dtype") else torch.float32


def _device_context(device: torch.device) -> contextlib.AbstractContextManager[None]:
    # ComfyUI before 0.17 knows one GPU only and has no such context.
    if hasattr(model_management, "cuda_device_context"):
        return model_management.cuda_device_context(device)
    return contextlib.nullcontext()
