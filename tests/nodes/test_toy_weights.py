"""Toy weights in ComfyUI's stock loaders.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_toy_weights.py
"""

from dataclasses import replace
from pathlib import Path

import comfy.audio_encoders.audio_encoders
import comfy.ldm.wan.vae
import comfy.sd
import comfy.utils
import pytest
import torch

from gloria_pack.gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_pack.gloria_core.toy_weights import (
    random_state_dict,
    vae_shapes,
    write_toy_audio_encoder,
    write_toy_dit,
    write_toy_text_encoder,
    write_toy_vae,
)


def _varies(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all()) and tensor.detach().float().std().item() > 1e-2


@pytest.mark.parametrize("width", [16, 32])
def test_vae_has_exactly_the_keys_and_shapes_of_comfyuis_class(width: int):
    model = comfy.ldm.wan.vae.WanVAE(
        dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    )
    result = model.load_state_dict(random_state_dict(dict(vae_shapes(width)), 0, torch.float32), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys


def test_vae_encodes_and_decodes_through_the_stock_loader(tmp_path: Path):
    write_toy_vae(tmp_path / "vae.safetensors")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(tmp_path / "vae.safetensors")))
    image = torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    latent = vae.encode(image)
    assert latent.shape == (1, 16, 2, 4, 4)
    assert _varies(latent)
    decoded = vae.decode(latent)
    assert decoded.shape == (1, 5, 32, 32, 3)
    assert _varies(decoded)


def test_text_encoder_reads_prompts_as_a_wan_type(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_toy_text_encoder(tmp_path / "text.safetensors")
    clip = comfy.sd.load_clip([str(tmp_path / "text.safetensors")], clip_type=comfy.sd.CLIPType.WAN)
    assert not [record for record in caplog.records if "missing" in record.getMessage()]
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in ("a woman", "a dog")]
    assert encoded[0].shape == (1, 77, TOY_T2V.text_dim)
    assert _varies(encoded[0])
    assert not torch.equal(*encoded)


def test_audio_encoder_hears_through_the_stock_loader(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_toy_audio_encoder(tmp_path / "audio.safetensors")
    weights = comfy.utils.load_torch_file(str(tmp_path / "audio.safetensors"))
    encoder = comfy.audio_encoders.audio_encoders.load_audio_encoder_from_sd(weights)
    assert not [record for record in caplog.records if "audio encoder" in record.getMessage()]
    sound = torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    layers = encoder.encode_audio(sound, 16000)["encoded_audio_all_layers"]
    assert [tuple(layer.shape) for layer in layers] == [(1, 49, 768)] * 13
    assert all(_varies(layer) for layer in layers)


@pytest.mark.parametrize(("config", "channels"), [(TOY_T2V, 16), (TOY_I2V, 16), (TOY_TI2V, 48)])
def test_stock_loader_takes_a_toy_base_for_the_wan_model_it_imitates(tmp_path: Path, config, channels: int):
    # ComfyUI's own Wan model takes no other text width than umt5-xxl's; ours reads the width from the file.
    write_toy_dit(tmp_path / "dit.safetensors", replace(config, text_dim=4096))
    model = comfy.sd.load_diffusion_model(str(tmp_path / "dit.safetensors"))
    assert model.model.model_config.unet_config["image_model"] == "wan2.1"
    assert model.model.latent_format.latent_channels == channels
    assert model.model.diffusion_model.dim == config.dim
