"""One chunk of the core's own sampler: a model, conditions and noise enter, the chunk's clean latents leave.

Known latents (start image, prefix) enter the way the base was trained with: bases with image channels get them
there and denoise them again; the others get them clean in place, at timestep 0.

Legend: B batch (1), C channels, T latent frames, H W latent height and width, F video frames, L text tokens or
wav2vec2 layers, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..analysis.attention_probe import AttentionProbe
from ..conditioning.audio import frame_windows, null_audio
from ..errors import AnchorError, PlanError
from ..model.attention import PROBE_OPTION
from ..model.dit import GloriaDiT
from ..shapes import TEMPORAL_STRIDE, LatentSize
from .euler import euler_flow
from .guidance import guided_velocity
from .plan import PREFIX_LATENTS, Chunk
from .schedule import flow_sigmas, timestep_of

Branch = tuple[int, Tensor, Tensor | None]


@dataclass(frozen=True)
class Conditions:
    """What the film shows. All latents are in the model's normalised space.

    Args:
        text_BLD: embedding of the prompt, and of the negative prompt.
        anchors: clean latents [1, C, 1, h, w], with (kind, label) of each in `anchor_slots`.
        audio_FLC: wav2vec2 hidden states of the whole film, one set per video frame.
        start_BCTHW: the start image's latent; for bases with image channels followed by the latents of gray frames,
            the last of which is repeated to the length of a chunk.
        clip_BLD: CLIP image tokens (Wan2.1-I2V).
    """

    text_BLD: Tensor
    negative_text_BLD: Tensor
    anchors: Sequence[Tensor] = ()
    anchor_slots: Sequence[tuple[str, str]] = ()
    audio_FLC: Tensor | None = None
    start_BCTHW: Tensor | None = None
    clip_BLD: Tensor | None = None


@dataclass(frozen=True)
class SampleSettings:
    """How the film is sampled; steps, cfg and prefix are the paper's."""

    seed: int = 0
    steps: int = 30
    cfg: float = 3.5
    shift: float = 5.0
    chunk_latents: int = 31
    prefix_latents: int = PREFIX_LATENTS


def check_conditions(model: GloriaDiT, conditions: Conditions, size: LatentSize) -> None:
    """Refuse what does not fit the model, before the first step."""
    config = model.config
    if size.channels != config.out_dim:
        raise PlanError(f"The film has {size.channels} latent channels, the model {config.out_dim}: use its VAE.")
    if len(conditions.anchors) != len(conditions.anchor_slots):
        raise AnchorError(f"Got {len(conditions.anchors)} anchors and {len(conditions.anchor_slots)} slots, one each.")
    start = conditions.start_BCTHW
    if config.takes_image_channels and start is None:
        raise PlanError("This base makes video from an image: give a start image.")
    expected = (1, size.channels, size.height, size.width)
    if start is not None and (*start.shape[:2], *start.shape[3:]) != expected:
        raise PlanError(f"The start latent has shape {tuple(start.shape)}, the film needs (1, C, T, H, W) of {size}.")


@torch.inference_mode()
def denoise_chunk(
    model: GloriaDiT,
    conditions: Conditions,
    size: LatentSize,
    settings: SampleSettings,
    chunk: Chunk,
    seed: int,
    prefix_BCTHW: Tensor | None,
    probe: AttentionProbe | None = None,
) -> Tensor:
    """Clean latents [1, C, length, H, W] of one chunk, float32 on the CPU; a probe looks on and changes nothing."""
    device, dtype = model.patch_embedding.weight.device, model.head.head.weight.dtype
    # Drawn on the CPU: the same seed gives the same film on every device.
    noise = torch.randn(
        (1, size.channels, chunk.length, size.height, size.width), generator=torch.Generator().manual_seed(seed)
    ).to(device)
    image, known_T = _known_latents(conditions, noise, prefix_BCTHW, chunk)
    in_place_T = known_T & (not model.config.takes_image_channels)
    held = in_place_T.view(1, 1, -1, 1, 1)
    channels = _image_channels(image, known_T) if model.config.takes_image_channels else None
    clip = None if conditions.clip_BLD is None else conditions.clip_BLD.to(device, dtype)
    anchors = [anchor.to(device, dtype) for anchor in conditions.anchors]

    def velocity(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((1, chunk.length), timestep_of(sigma), device=device).masked_fill(in_place_T, 0.0)
        # One timestep for all frames is what bases without per-frame timesteps were trained with.
        timestep = timestep if in_place_T.any() else timestep[:, 0]
        inputs = (x if channels is None else torch.cat([x, channels], dim=1)).to(dtype)
        watched = {} if probe is None else {PROBE_OPTION: probe, "sigmas": torch.tensor([sigma])}

        def predict(branch: Branch) -> Tensor:
            index, text, audio = branch
            options = {**watched, "cond_or_uncond": [index]}
            flow = model(inputs, timestep, text, clip, anchors, conditions.anchor_slots, audio, options)
            return flow.float()

        return guided_velocity(predict, *_branches(conditions, chunk, device, dtype), settings.cfg).masked_fill(held, 0)

    start = torch.where(held, image, noise)
    return euler_flow(velocity, start, flow_sigmas(settings.steps, settings.shift)).cpu()


def _branches(
    conditions: Conditions, chunk: Chunk, device: torch.device, dtype: torch.dtype
) -> tuple[Branch, Branch]:
    """(0 or 1, text, speech windows) with and without what CFG strengthens; anchors are in both (paper sec. 4.3)."""
    text, negative = (text.to(device, dtype) for text in (conditions.text_BLD, conditions.negative_text_BLD))
    if conditions.audio_FLC is None:
        return (0, text, None), (1, negative, None)
    windows = frame_windows(conditions.audio_FLC, chunk.start, chunk.length)[None].to(device, dtype)
    return (0, text, windows), (1, negative, null_audio(windows))


def _known_latents(conditions: Conditions, noise: Tensor, prefix: Tensor | None, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Image latents of the chunk's size, and which of its latents [T] are given: the prefix, or the start image."""
    image = torch.zeros_like(noise)
    known_T = torch.zeros(chunk.length, dtype=torch.bool, device=noise.device)
    if conditions.start_BCTHW is not None:
        start = conditions.start_BCTHW.to(noise)[:, :, : chunk.length]
        image[:, :, : start.shape[2]] = start
        image[:, :, start.shape[2] :] = start[:, :, -1:]
        known_T[:1] = prefix is None and chunk.start == 0
    if prefix is not None:
        image[:, :, : chunk.prefix] = prefix.to(noise)
        known_T[: chunk.prefix] = True
    return image, known_T


def _image_channels(image: Tensor, known_T: Tensor) -> Tensor:
    """Wan's I2V input behind the noisy latent: a mask with one channel per video frame of a latent, then the image."""
    mask = known_T.to(image).view(1, 1, -1, 1, 1).expand(1, TEMPORAL_STRIDE, -1, *image.shape[3:])
    return torch.cat([mask, image], dim=1)
