"""Validation clips that a run left as latents enter; videos beside them, rough pictures and a strip of frames leave."""

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.latent_formats
import latent_preview
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from ...gloria_core.media.encode_video import frame_rate
from ...gloria_core.media.write_video import FilmSettings, write_film
from ...gloria_core.shapes import TEMPORAL_STRIDE
from ...gloria_core.training.run_folder import SAMPLES
from .vae import open_decoder

_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}
_STRIP_FRAMES = 6
_STRIP_HEIGHT = 192
_CRF = 17
_CLIP = re.compile(r"step_(\d{6,9})_(clip\d{1,3}|rollout)", re.ASCII)
_MAX_ROUGH_FRAMES = 60
_ROUGH_QUALITY = 85


def sample_videos(run: Path) -> list[Path]:
    """Clips that are decoded already, the newest last."""
    return sorted((run / SAMPLES).glob("*.mp4"))


def decode_new_samples(run: Path, vae: Any, fps: float = 24.0) -> None:
    """Decode the newest step's clips, unless they are; those of a night without a viewer stay as they are."""
    files = sorted((run / SAMPLES).glob("step_*.safetensors"))
    for file in (file for file in files if _step_of(file) == _step_of(files[-1])):
        video = file.with_suffix(".mp4")
        if video.exists():
            continue
        latents_BCTHW = load_file(file)["latents"][None]
        raw_BCTHW = _FORMATS[latents_BCTHW.shape[1]]().process_out(latents_BCTHW)
        write_film(video, open_decoder(vae, raw_BCTHW), raw_BCTHW, FilmSettings(frame_rate(fps), _CRF))


def clip_steps(run: Path, max_steps: int) -> list[dict[str, Any]]:
    """The newest steps that have clips, in order: `step`, and in `clips` whether each clip is decoded, by its name."""
    steps: dict[int, dict[str, bool]] = {}
    for file in sorted((run / SAMPLES).glob("step_*"), key=lambda file: file.name):
        match = _CLIP.fullmatch(file.stem)
        if match and file.suffix in (".safetensors", ".mp4"):
            clips = steps.setdefault(int(match[1]), {})
            clips[match[2]] = clips.get(match[2], False) or file.suffix == ".mp4"
    return [{"step": step, "clips": clips} for step, clips in sorted(steps.items())][-max_steps:]


def is_clip_name(name: str) -> bool:
    """Whether a clip may have this name, without a suffix."""
    return _CLIP.fullmatch(name) is not None


def rough_clip(latents_file: Path) -> bytes:
    """A WebP film of a clip that no VAE has decoded yet, with the colors that latents have by themselves."""
    status = latents_file.stat()
    return _rough_clip(latents_file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _rough_clip(latents_file: Path, _modified_ns: int, _num_bytes: int) -> bytes:
    with safe_open(latents_file, "pt") as file:
        latents_CTHW, fps = file.get_tensor("latents").float(), float(file.metadata()["fps"])
    space = _FORMATS[latents_CTHW.shape[0]]()
    previewer = latent_preview.Latent2RGBPreviewer(
        space.latent_rgb_factors, space.latent_rgb_factors_bias, space.latent_rgb_factors_reshape
    )
    num_latents = latents_CTHW.shape[1]
    # Of a long roll-out only some, evenly spread.
    places = np.linspace(0, num_latents - 1, min(num_latents, _MAX_ROUGH_FRAMES)).round().astype(int)
    pictures = [previewer.decode_latent_to_preview(latents_CTHW[None, :, [place]]) for place in places]
    packed = io.BytesIO()
    pictures[0].save(
        packed, "WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=_ROUGH_QUALITY,
        duration=round(1000 * TEMPORAL_STRIDE / fps),
    )  # fmt: skip
    return packed.getvalue()


def _step_of(file: Path) -> str:
    return file.name.rpartition("_")[0]


def video_strip(video: Path) -> Image.Image:
    """Evenly spread frames of a clip, side by side."""
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        width = max(1, round(stream.width * _STRIP_HEIGHT / stream.height))
        # Small ones are kept only: a roll-out may have thousands of frames.
        frames = [frame.reformat(width, _STRIP_HEIGHT, "rgb24").to_image() for frame in container.decode(stream)]
    strip = Image.new("RGB", (width * _STRIP_FRAMES, _STRIP_HEIGHT))
    for idx in range(_STRIP_FRAMES):
        strip.paste(frames[round(idx * (len(frames) - 1) / (_STRIP_FRAMES - 1))], (idx * width, 0))
    return strip


def image_tensor(image: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI's IMAGE [1, H, W, 3]."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)[None]
