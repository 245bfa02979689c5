"""Validation clips that a run left as latents enter, videos beside them and a strip of frames leave."""

from pathlib import Path
from typing import Any

import comfy.latent_formats
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ...gloria_core.media.encode_video import frame_rate
from ...gloria_core.media.write_video import FilmSettings, write_film
from ...gloria_core.training.run_folder import SAMPLES
from .vae import open_decoder

_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}
_STRIP_FRAMES = 6
_STRIP_HEIGHT = 192
_CRF = 17


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
