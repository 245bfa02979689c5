"""Toy weights read by our own loaders. Run: python -m pytest tests/core/test_toy_weights.py"""

from pathlib import Path

import pytest
import torch

from gloria_core.model.checkpoint import load_dit, read_safetensors
from gloria_core.model.presets import PRESETS, TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_core.toy_weights import (
    random_state_dict,
    vae_shapes,
    write_toy_audio_encoder,
    write_toy_dit,
    write_toy_gloria,
)


@pytest.mark.parametrize("name", ["toy-t2v", "toy-i2v", "toy-ti2v"])
def test_toy_base_gives_finite_varied_output(tmp_path: Path, name: str):
    config = PRESETS[name]
    write_toy_dit(tmp_path / "base.safetensors", config)
    model = load_dit(tmp_path / "base.safetensors")
    x = torch.randn(1, config.in_dim, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        velocity = model(x, torch.tensor([500.0]), torch.zeros(1, 8, config.text_dim))
    assert velocity.shape == (1, config.out_dim, 3, 8, 8)
    assert velocity.isfinite().all()
    assert 0.1 < velocity.std() < 10


@pytest.mark.parametrize("base_config", [TOY_T2V, TOY_I2V, TOY_TI2V])
def test_one_gloria_file_fits_every_toy_base(tmp_path: Path, base_config):
    write_toy_dit(tmp_path / "base.safetensors", base_config)
    write_toy_gloria(tmp_path / "gloria.safetensors", TOY_T2V.with_audio())
    model = load_dit(tmp_path / "base.safetensors", tmp_path / "gloria.safetensors")
    assert model.config.gloria.audio_blocks == (0, 2)


def test_toy_gloria_weights_can_be_heard(tmp_path: Path):
    write_toy_dit(tmp_path / "base.safetensors")
    write_toy_gloria(tmp_path / "gloria.safetensors", TOY_T2V.with_audio())
    model = load_dit(tmp_path / "base.safetensors", tmp_path / "gloria.safetensors")
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 16, 2, 8, 8, generator=generator), torch.zeros(1, 8, 768)
    windows = torch.randn(1, 2, 4, 13, 768, generator=generator)
    with torch.inference_mode():
        silent = model(x, torch.tensor([500.0]), context, audio_windows=torch.zeros_like(windows))
        spoken = model(x, torch.tensor([500.0]), context, audio_windows=windows)
    assert (silent - spoken).abs().max() > 1e-3


def test_equal_seeds_give_equal_files_and_other_seeds_do_not(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_toy_dit(tmp_path / f"{name}.safetensors", seed=seed)
    files = {name: (tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]


def test_vae_of_public_width_has_the_public_number_of_parameters():
    # The public wan_2.1_vae.safetensors holds 126,892,531 parameters.
    tensors = dict(vae_shapes(96))
    assert sum(torch.Size(shape).numel() for shape in tensors.values()) == 126_892_531


def test_tensors_do_not_depend_on_their_order():
    forward = random_state_dict({"a.weight": (2, 3), "b.weight": (2, 3)}, 0, torch.float32)
    backward = random_state_dict({"b.weight": (2, 3), "a.weight": (2, 3)}, 0, torch.float32)
    assert all(torch.equal(forward[name], backward[name]) for name in forward)
    assert not torch.equal(forward["a.weight"], forward["b.weight"])


def test_audio_encoder_has_the_key_names_of_public_files(tmp_path: Path):
    write_toy_audio_encoder(tmp_path / "wav2vec2.safetensors")
    tensors = read_safetensors(tmp_path / "wav2vec2.safetensors")
    assert tensors["encoder.layer_norm.bias"].shape == (768,)
    assert "encoder.pos_conv_embed.conv.parametrizations.weight.original0" in tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())
