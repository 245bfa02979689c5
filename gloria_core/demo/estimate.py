"""Sizes and a device enter, how long each part of the training will take here leaves: a few steps are measured.

Legend: B samples, C channels, T frames, H W cells, L text tokens, D width, N windows, W frames per window.
"""

import logging
import time
from collections.abc import Callable

import torch

from ..model.dit import GloriaDiT
from ..shapes import spatial_stride
from ..toy_weights import VAE_CHANNELS
from ..toyworld.anchors import DEFAULT_CROPS
from .pictures import training_batch
from .scratch import dit_config
from .sizes import DemoSizes
from .train_vae import vae_loss
from .wan_vae import WanVae, reset_parameters

logger = logging.getLogger(__name__)

_MEASURED_BATCH = 4
# Pictures of a source in the two datasets beside its frames: its anchors.
_ANCHORS_PER_SOURCE = 30


def log_estimate(sizes: DemoSizes, device: torch.device) -> dict[str, float]:
    """Hours by part; the encoders take minutes and are left out."""
    hours = {"vae": _vae_seconds(sizes, device) / 3600, "caches": _cache_seconds(sizes, device) / 3600}
    steps, window = sizes.stages, sizes.world.window_latents
    base = _dit_sample_seconds(sizes, device, steps.base_latents, with_anchors=False)
    picture = _dit_sample_seconds(sizes, device, 1, with_anchors=True)
    clip = _dit_sample_seconds(sizes, device, window, with_anchors=True)
    hours["base"] = steps.base * steps.batch * base / 3600
    hours["pictures"] = steps.pictures * steps.pictures_batch * picture / 3600
    num_window_steps = steps.audio + steps.global_anchor + steps.identity + steps.both
    hours["windows"] = num_window_steps * steps.batch * clip / 3600
    shown = ", ".join(f"{name} {value:.2f}" for name, value in hours.items())
    logger.info(
        "estimated hours at the speed of this moment on %s (%d threads): %s; %.1f in all",
        device.type, torch.get_num_threads(), shown, sum(hours.values()),
    )  # fmt: skip
    return hours


def _vae_seconds(sizes: DemoSizes, device: torch.device) -> float:
    vae = WanVae(sizes.vae.width)
    reset_parameters(vae, 0)
    vae.to(device)
    total = 0.0
    for phase in sizes.vae.phases:
        batch = min(_MEASURED_BATCH, phase.batch)

        def step(num_frames: int = phase.num_frames, batch: int = batch) -> None:
            video_BCTHW = training_batch(sizes.world, 0, 0, num_frames, batch, device)
            vae_loss(vae, video_BCTHW)[0].backward()

        total += phase.steps * _seconds(step, device) * phase.batch / batch
    return total


def _cache_seconds(sizes: DemoSizes, device: torch.device) -> float:
    """Encoding every frame of every source twice, its anchors, and the sources of the pictures."""
    world = sizes.world
    vae = WanVae(sizes.vae.width).to(device)
    video_BCTHW = training_batch(world, 0, 0, 17, 1, device)

    @torch.inference_mode()
    def encode() -> None:
        vae.encode(video_BCTHW.bfloat16())

    frames = world.num_sources * (2 * world.seconds * world.fps + _ANCHORS_PER_SOURCE)
    frames += sizes.stages.picture_videos * (world.seconds + _ANCHORS_PER_SOURCE)
    return frames * _seconds(encode, device) / 17


def _dit_sample_seconds(sizes: DemoSizes, device: torch.device, num_latents: int, with_anchors: bool) -> float:
    """Forward and backward pass of a sample within a batch."""
    config = dit_config(sizes)
    if with_anchors:
        config = config.with_audio(sizes.encoders.audio_layers + 1, sizes.encoders.audio_width)
    model = GloriaDiT(config, dtype=torch.bfloat16, device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.01, 0.01)
    batch, cells = min(_MEASURED_BATCH, sizes.stages.batch), sizes.world.side // spatial_stride(VAE_CHANNELS)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, device=device, dtype=torch.bfloat16)

    anchors, slots = [], []
    if with_anchors:
        for kind, (height, width) in (("viewpoint", DEFAULT_CROPS.viewpoint), ("expression", DEFAULT_CROPS.expression)):
            for label in ("front", "back") if kind == "viewpoint" else ("happy", "sad"):
                anchors.append(random(VAE_CHANNELS, 1, height // 8, width // 8))
                slots.append((kind, label))
    audio = config.gloria.audio_layers, config.gloria.audio_channels
    inputs = {
        "x_BCTHW": random(VAE_CHANNELS, num_latents, cells, cells),
        "timestep": torch.full((batch,), 500.0, device=device),
        "context_BLD": random(sizes.text_tokens, config.text_dim),
        "anchors": anchors,
        "anchor_slots": [(slot,) * batch for slot in slots],
        "audio_windows": random(num_latents, 4, *audio) if with_anchors else None,
    }

    def step() -> None:
        model(**inputs).float().square().mean().backward()

    return _seconds(step, device) / batch


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """The faster of two runs after one to warm up."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
