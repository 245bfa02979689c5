"""The demo model's files in ComfyUI's own classes, against transformers and diffusers on the same files.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_demo_encoders.py
"""

import shutil

import comfy.latent_formats
import comfy.sd
import comfy.utils
import numpy as np
import pytest
import torch
from comfy_extras.nodes_audio_encoder import AudioEncoderEncode

import nodes
from gloria_pack.gloria_core.demo.audio_encoder import load_audio_encoder, speech_features, train_audio_encoder
from gloria_pack.gloria_core.demo.files import DIT_NAME, DemoFiles
from gloria_pack.gloria_core.demo.latent_scale import WAN_MEAN, WAN_STD, normalized, scale_latents
from gloria_pack.gloria_core.demo.sizes import TINY
from gloria_pack.gloria_core.demo.text_encoder import load_text_encoder, train_text_encoder
from gloria_pack.gloria_core.demo.train import train_demo
from gloria_pack.gloria_core.demo.wan_vae import WanVae, reset_parameters
from gloria_pack.gloria_core.durable_files import write_safetensors
from gloria_pack.gloria_core.errors import CheckpointError
from gloria_pack.gloria_core.toyworld.speech import make_speech
from gloria_pack.nodes.bridge.demo_encoders import load_demo_audio_encoder, load_demo_clip
from gloria_pack.nodes.encode_audio import GloriaEncodeAudio
from gloria_pack.nodes.load_demo_encoders import GloriaLoadDemoEncoders

SHORT = "the character turns to the left, feels happy then sad, speaking"
LONG = ", then ".join([SHORT] * 4)
HALF, BF16 = 2e-3, 2**-8


@pytest.fixture(scope="module")
def models(base_directory):
    folder = base_directory / "models"
    text = folder / "text_encoders" / "gloria_demo_text_encoder.safetensors"
    audio = folder / "audio_encoders" / "gloria_demo_audio_encoder.safetensors"
    train_text_encoder(TINY, text)
    train_audio_encoder(TINY, audio)
    return text, audio


@pytest.fixture(scope="module")
def loaded(models):
    output = GloriaLoadDemoEncoders.execute(models[0].name, models[1].name)
    return output.args


@pytest.mark.parametrize("prompt", ["", SHORT, LONG], ids=["empty", "short", "long"])
def test_clip_text_encode_gives_what_training_saw(models, loaded, prompt):
    (conditioning,) = nodes.CLIPTextEncode().encode(loaded[0], prompt)
    expected_LD = load_text_encoder(models[0])(prompt)
    ours_LD = conditioning[0][0][0]
    assert ours_LD.shape == expected_LD.shape
    assert torch.allclose(ours_LD, expected_LD, atol=HALF * expected_LD.abs().max().item())


def test_order_and_unknown_words_reach_the_model(loaded, caplog):
    first, second = (
        nodes.CLIPTextEncode().encode(loaded[0], f"feels {words}")[0][0][0] for words in ("happy sad", "sad happy")
    )
    assert not torch.allclose(first, second, atol=1e-3)
    with caplog.at_level("WARNING"):
        nodes.CLIPTextEncode().encode(loaded[0], "the character juggles, happy")
    assert "juggles" in caplog.text
    assert "surprise" in caplog.text, "the words it knows"


def test_weights_in_prompts_and_clones_work(loaded):
    plain, strong = (
        nodes.CLIPTextEncode().encode(loaded[0].clone(), prompt)[0][0][0] for prompt in ("happy", "(happy:1.5)")
    )
    assert plain.shape == strong.shape
    assert not torch.equal(plain, strong)


def test_gloria_audio_gives_what_training_saw(models, loaded):
    samples_N = make_speech(3, 5.0)
    audio = {"waveform": torch.from_numpy(samples_N)[None, None], "sample_rate": 16000}
    features = GloriaEncodeAudio.execute(loaded[1], audio, 8.0, normalize_loudness=False).args[0]
    expected_FLC = speech_features(load_audio_encoder(models[1]), samples_N, 8.0)
    assert features.features_FLC.shape == expected_FLC.shape == (40, 2, 16)
    scale = expected_FLC.abs().max().item()
    assert torch.allclose(features.features_FLC.float(), expected_FLC.float(), atol=2 * BF16 * scale)


def test_the_stock_encode_node_takes_it(loaded):
    audio = {"waveform": torch.from_numpy(make_speech(3, 2.0))[None, None], "sample_rate": 16000}
    output = AudioEncoderEncode.execute(loaded[1], audio).args[0]
    assert output["encoded_audio"].shape == (1, 99, 16)
    assert len(output["encoded_audio_all_layers"]) == 2


def test_other_files_are_refused_by_name(models):
    with pytest.raises(CheckpointError, match="no text encoder of the Gloria demo model"):
        load_demo_clip(models[1])
    with pytest.raises(CheckpointError, match="no audio encoder of the Gloria demo model"):
        load_demo_audio_encoder(models[0])


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory):
    """A VAE with every part of it at work, its latents scaled by made-up statistics."""
    vae = WanVae(4)
    reset_parameters(vae, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    scale_latents(vae, torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_safetensors(path, vae.state_dict(), {"format": "pt"})
    return vae.eval(), path


@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_stock_vae_loader_encodes_and_decodes_as_training_does(vae_file, num_frames):
    ours, path = vae_file
    stock = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    stock.throw_exception_if_invalid()
    pixels_THWC = torch.from_numpy(np.random.default_rng(0).random((num_frames, 32, 48, 3), dtype=np.float32))
    latents_BCTHW = stock.encode(pixels_THWC)
    video_BCTHW = pixels_THWC.movedim(-1, 0)[None] * 2 - 1
    with torch.no_grad():
        expected_BCTHW, _ = ours.encode(video_BCTHW)
        decoded_BCTHW = ours.decode(expected_BCTHW)
    assert latents_BCTHW.shape == (1, 16, (num_frames - 1) // 4 + 1, 4, 6)
    assert torch.allclose(latents_BCTHW, expected_BCTHW, atol=1e-4 * expected_BCTHW.abs().max().item())
    frames_THWC = stock.decode(expected_BCTHW)[0]
    expected_THWC = ((decoded_BCTHW[0].movedim(0, -1) + 1) / 2).clamp(0, 1)
    assert torch.allclose(frames_THWC, expected_THWC, atol=1e-4)


def test_the_scale_is_the_one_that_samplers_take_off():
    stock = comfy.latent_formats.Wan21()
    assert torch.equal(stock.latents_mean.flatten(), torch.tensor(WAN_MEAN))
    assert torch.equal(stock.latents_std.flatten(), torch.tensor(WAN_STD))
    latents = torch.randn(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(stock.process_in(latents), normalized(latents), atol=1e-6)


def test_the_exported_files_make_a_video_through_stock_nodes(base_directory, tmp_path):
    assert train_demo(TINY, tmp_path)
    shutil.copytree(DemoFiles(tmp_path).export, base_directory / "models", dirs_exist_ok=True)
    (model,) = nodes.UNETLoader().load_unet(DIT_NAME, "default")
    (vae,) = nodes.VAELoader().load_vae("gloria_demo_vae.safetensors")
    clip, audio_encoder = GloriaLoadDemoEncoders.execute(
        "gloria_demo_text_encoder.safetensors", "gloria_demo_audio_encoder.safetensors"
    ).args
    assert model.model.gloria_config.gloria.fps == TINY.world.fps
    speech = {"waveform": torch.from_numpy(make_speech(3, 1.125))[None, None], "sample_rate": 16000}
    features = GloriaEncodeAudio.execute(audio_encoder, speech, 8.0, normalize_loudness=True).args[0]
    (positive,), (negative,) = (nodes.CLIPTextEncode().encode(clip, prompt) for prompt in (SHORT, ""))
    hearing = [[positive[0][0], {**positive[0][1], "gloria_audio": features.features_FLC}]]
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    films = []
    for condition in (hearing, positive):
        (sampled,) = nodes.common_ksampler(model, 0, 2, 2.0, "euler", "simple", condition, negative, latent)
        films.append(sampled["samples"])
    frames = nodes.VAEDecode().decode(vae, {"samples": films[0]})[0]
    assert frames.shape == (9, 64, 64, 3)
    assert torch.isfinite(frames).all()
    assert not torch.equal(films[0], films[1]), "two steps of training open the audio branch a little"
