"""Trained parts enter, the demo model's four files leave, in the folders and formats that ComfyUI's loaders read."""

import logging
import shutil
from pathlib import Path

import torch

from ..durable_files import publish_file, write_safetensors
from ..model.checkpoint import SETTINGS_KEY, read_safetensors
from .files import DemoFiles, ModelFiles

logger = logging.getLogger(__name__)


def export_models(files: DemoFiles, merged: Path, target: Path) -> ModelFiles:
    """What was written.

    Args:
        merged: the trainer's result, the whole model in one file.
        target: gets the model folders.
    """
    exported = ModelFiles(target)
    weights = {
        name: tensor if name == SETTINGS_KEY else tensor.to(torch.bfloat16)
        for name, tensor in read_safetensors(merged).items()
    }
    write_safetensors(exported.dit, weights, {"format": "pt", "modelspec.title": "gloria demo"})
    for source, place in zip(files.encoders, exported.encoders, strict=True):
        _copy(source, place)
    places = (exported.dit, *exported.encoders)
    total = sum(path.stat().st_size for path in places)
    logger.info("exported %d files, %.1f MB: %s", len(places), total / 1e6, target)
    return exported


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    publish_file(partial, target)
