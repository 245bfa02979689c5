"""Sizes enter, a Wan DiT that has learned nothing yet leaves: the base of training from scratch."""

from pathlib import Path

import torch

from ..durable_files import write_safetensors
from ..model.checkpoint import expected_shapes, is_addition
from ..model.presets import DiTConfig
from ..toy_weights import random_state_dict
from .sizes import DemoSizes

# The last layer of each branch of a block, and of the model.
_OUTPUTS = (".self_attn.o.weight", ".cross_attn.o.weight", ".ffn.2.weight", "head.head.weight")
# The modulation starts the same at every noise level.
_CONSTANT = ("time_projection.1.weight",)
# Rows of a block's modulation: shift, scale and gate of attention, then of the feed-forward layer.
_GATES = (2, 5)


def dit_config(sizes: DemoSizes) -> DiTConfig:
    """The demo model as any Wan text-to-video base."""
    dit = sizes.dit
    return DiTConfig(
        dim=dit.width,
        ffn_dim=dit.ffn_width,
        num_heads=dit.num_heads,
        num_layers=dit.num_layers,
        text_dim=sizes.encoders.text_width,
    )


def write_fresh_dit(sizes: DemoSizes, path: Path) -> None:
    """Every branch adds exactly nothing at first and is fully open: deep models start fast from there."""
    shapes = {name: shape for name, shape in expected_shapes(dit_config(sizes)).items() if not is_addition(name)}
    weights = random_state_dict(shapes, sizes.seed, torch.float32)
    for name, weight in weights.items():
        if name.endswith((*_OUTPUTS, *_CONSTANT, ".bias", ".modulation")):
            weight.zero_()
        if name.startswith("blocks.") and name.endswith(".modulation"):
            weight[:, list(_GATES)] = 1.0
    write_safetensors(path, weights, {"format": "pt", "modelspec.title": "gloria demo, untrained"})
