"""Trained parts enter, the demo model's four files leave, in the folders and formats that ComfyUI's loaders read."""

import logging
import shutil
from pathlib import Path

import torch

from ..durable_files import publish_file, write_safetensors
from ..model.checkpoint import SETTINGS_KEY, read_safetensors
from .files import DemoFiles

logger = logging.getLogger(__name__)

DIT_NAME = "gloria_demo_dit.safetensors"


def export_models(files: DemoFiles, merged: Path, target: Path) -> dict[str, Path]:
    """Paths by model folder.

    Args:
        merged: the trainer's result, the whole model in one file.
        target: gets the model folders.
    """
    places = {
        "diffusion_models": target / "diffusion_models" / DIT_NAME,
        "vae": target / "vae" / files.vae.name,
        "text_encoders": target / "text_encoders" / files.text_encoder.name,
        "audio_encoders": target / "audio_encoders" / files.audio_encoder.name,
    }
    weights = {
        name: tensor if name == SETTINGS_KEY else tensor.to(torch.bfloat16)
        for name, tensor in read_safetensors(merged).items()
    }
    write_safetensors(places["diffusion_models"], weights, {"format": "pt", "modelspec.title": "gloria demo"})
    for folder, source in zip(("vae", "text_encoders", "audio_encoders"), files.encoders, strict=True):
        _copy(source, places[folder])
    total = sum(path.stat().st_size for path in places.values())
    logger.info("exported %d files, %.1f MB: %s", len(places), total / 1e6, target)
    return places


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    publish_file(partial, target)
