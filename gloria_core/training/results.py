"""A trained model enters, files that stock loaders read leave: a LoRA, Gloria weights, or the whole model.

    <name>_step000500_lora.safetensors     Load LoRA (ComfyUI's Wan keys)
    <name>_step000500_gloria.safetensors   Load Gloria Model, beside the base it was trained on
    <name>_step000500_merged.safetensors   Load Diffusion Model or Load Gloria Model, alone
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..durable_files import write_safetensors
from ..model.checkpoint import SETTINGS_KEY, is_addition, settings_to_tensor
from ..model.dit import GloriaDiT
from .config import TrainConfig
from .lora import lora_tensors
from .sharding import whole


def write_results(
    model: GloriaDiT,
    config: TrainConfig,
    folder: Path,
    step: int,
    averages: Mapping[str, Tensor] | None = None,
    write: bool = True,
) -> dict[str, Path]:
    """Files by role (`lora` and `gloria`, or `merged`), each written whole; a second call replaces equal files only.

    Args:
        averages: moving averages by parameter name, written in place of the weights.
        write: False in all processes but one: collecting sharded weights takes all of them.
    """
    dtype = model.head.head.weight.dtype
    present = dict(model.named_parameters())
    # Streamed blocks hold nothing between passes; a LoRA's files need none of their weights.
    wanted = present if config.method == "full" else {n: p for n, p in present.items() if is_addition(n)}
    source = {**wanted, **(averages or {})}
    weights = {name: whole(x).to(torch.float32 if "patch_embedding" in name else dtype) for name, x in source.items()}
    stem = f"{config.name}_step{step:06d}"
    settings = {SETTINGS_KEY: settings_to_tensor(model.config.gloria)}
    metadata = _metadata(config, model, step, is_average=averages is not None)
    contents: dict[str, dict[str, Tensor]] = {}
    if config.method == "full":
        contents["merged"] = {_plain(name): tensor for name, tensor in weights.items()} | settings
    else:
        adapters = lora_tensors(model, None if averages is None else weights)
        if adapters:
            contents["lora"] = adapters
        contents["gloria"] = {_plain(name): x for name, x in weights.items() if is_addition(name)} | settings
    paths = {}
    for role, tensors in contents.items():
        paths[role] = folder / f"{stem}_{role}.safetensors"
        if write:
            write_safetensors(paths[role], {key: x.detach().cpu() for key, x in tensors.items()}, metadata)
    return paths


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")


def _metadata(config: TrainConfig, model: GloriaDiT, step: int, is_average: bool) -> dict[str, str]:
    """What other tools show about the file, and everything needed to train it again."""
    metadata = {
        "format": "pt",
        "gloria": model.config.gloria.to_json(),
        "gloria_training": json.dumps({key: value for key, value in config.to_dict().items() if key != "output"}),
        "modelspec.title": config.name,
        "modelspec.architecture": "wan-video",
        "ss_base_model": Path(config.base).name,
        "ss_steps": str(step),
        "ss_is_average": str(is_average),
    }
    if config.method == "lora":
        metadata |= {"ss_network_dim": str(config.lora.rank), "ss_network_alpha": str(config.lora.alpha)}
    return metadata
