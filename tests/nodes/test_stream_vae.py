"""The streaming decoder equals ComfyUI's `vae.decode`. Run: COMFYUI_PATH=... pytest tests/nodes/test_stream_vae.py"""

import comfy.ldm.wan.vae2_2
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

from gloria_pack.gloria_core.errors import MediaError
from gloria_pack.gloria_core.media.decode_latents import stream_frames
from gloria_pack.gloria_core.toy_weights import write_toy_vae
from gloria_pack.nodes.bridge.vae import open_decoder

LONG = 43
WIDTH = 4


def random_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep activations near 1, so that a wrong cache shows."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in module.state_dict().items():
        if value.ndim > 1 and "gamma" not in name:
            scale = value[0].numel() ** -0.5
            weights[name] = torch.randn(value.shape, generator=generator) * scale
        else:
            weights[name] = torch.ones(value.shape) if "gamma" in name else torch.full(value.shape, 0.1)
    return weights


@pytest.fixture(scope="module")
def wan_2_1(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "toy.safetensors"
    write_toy_vae(path, WIDTH)
    return comfy.sd.VAE(sd=load_file(path))


@pytest.fixture(scope="module")
def wan_2_2():
    """ComfyUI's own loading of a 48-channel file; only the width, which it does not read from the file, is smaller."""
    stock = comfy.ldm.wan.vae2_2.WanVAE

    def narrow(**config):
        return stock(**{**config, "dim": WIDTH, "dec_dim": WIDTH})

    small = narrow(z_dim=48, temperal_downsample=[False, True, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.ldm.wan.vae2_2, "WanVAE", narrow)
        return comfy.sd.VAE(sd=random_weights(small))


@pytest.fixture(params=["wan_2_1", "wan_2_2"])
def vae(request):
    return request.getfixturevalue(request.param)


def random_latents(vae, num_latents, height=4, width=6):
    generator = torch.Generator().manual_seed(num_latents)
    return torch.randn(1, vae.latent_channels, num_latents, height, width, generator=generator)


@pytest.mark.parametrize("num_latents", [1, 2, 3, 4, 5, 9])
def test_streamed_frames_equal_vae_decode_bit_for_bit(vae, num_latents):
    latents = random_latents(vae, num_latents)
    streamed = torch.cat(list(stream_frames(open_decoder(vae, latents), latents)))
    expected = vae.decode(latents)[0]
    assert expected.std() > 0.05
    assert streamed.dtype == expected.dtype
    assert torch.equal(streamed, expected)


def test_restart_with_warm_up_equals_the_unbroken_decode_bit_for_bit(vae):
    latents = random_latents(vae, LONG, 2, 2)
    decoder = open_decoder(vae, latents)
    unbroken = torch.cat(list(stream_frames(decoder, latents)))
    for first in (1, 39, 40, LONG - 1):
        restarted = torch.cat(list(stream_frames(decoder, latents, first_latent=first)))
        assert torch.equal(restarted, unbroken[1 + (first - 1) * 4 :])


def test_short_warm_up_is_not_exact(vae):
    latents = random_latents(vae, 11, 2, 2)
    decoder = open_decoder(vae, latents)
    unbroken = torch.cat(list(stream_frames(decoder, latents)))
    restarted = torch.cat(list(stream_frames(decoder, latents, first_latent=9, warm_up=4)))
    assert not torch.equal(restarted, unbroken[1 + 8 * 4 :])


def test_stopping_early_gives_the_same_first_frames(vae):
    latents = random_latents(vae, 8)
    decoder = open_decoder(vae, latents)
    unbroken = torch.cat(list(stream_frames(decoder, latents)))
    for stop in (1, 2, 3, 6):
        part = torch.cat(list(stream_frames(decoder, latents, stop_latent=stop)))
        assert torch.equal(part, unbroken[: 1 + (stop - 1) * 4])


def test_bfloat16_vae_streams_bit_for_bit(tmp_path):
    write_toy_vae(tmp_path / "toy.safetensors", WIDTH)
    vae = comfy.sd.VAE(sd=load_file(tmp_path / "toy.safetensors"), dtype=torch.bfloat16)
    latents = random_latents(vae, 3, 2, 2)
    assert torch.equal(torch.cat(list(stream_frames(open_decoder(vae, latents), latents))), vae.decode(latents)[0])


def test_other_weights_have_another_fingerprint(wan_2_1, tmp_path):
    write_toy_vae(tmp_path / "other.safetensors", WIDTH, seed=1)
    other = comfy.sd.VAE(sd=load_file(tmp_path / "other.safetensors"))
    latents = random_latents(wan_2_1, 1)
    first = open_decoder(wan_2_1, latents).fingerprint
    assert first == open_decoder(wan_2_1, latents).fingerprint
    assert first != open_decoder(other, latents).fingerprint


def test_wrong_channels_name_the_vae_to_load(wan_2_1, wan_2_2):
    with pytest.raises(MediaError, match=r"has 48 channels, this VAE decodes 16.*Wan 2.2 VAE"):
        open_decoder(wan_2_1, random_latents(wan_2_2, 2))


def test_batch_of_two_and_image_latents_are_refused(wan_2_1):
    with pytest.raises(MediaError, match="Got 2 videos"):
        open_decoder(wan_2_1, torch.zeros(2, 16, 2, 2, 2))
    with pytest.raises(MediaError, match="Expected a video latent"):
        open_decoder(wan_2_1, torch.zeros(1, 16, 2, 2))


def test_vae_of_another_family_is_refused_by_name():
    taesd = comfy.sd.VAE(sd=comfy.sd.comfy.taesd.taesd.TAESD(latent_channels=4).state_dict())
    with pytest.raises(MediaError, match=r"TAESD.*Wan 2.1 VAE"):
        open_decoder(taesd, torch.zeros(1, 4, 2, 2, 2))
