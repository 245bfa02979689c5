"""The whole-clip autoencoder against diffusers' chunked one. Run: pytest tests/core/demo/test_wan_vae.py"""

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from gloria_core.demo.latent_scale import WAN_MEAN, WAN_STD, measure_latents, normalized, scale_latents
from gloria_core.demo.sizes import TINY
from gloria_core.demo.wan_vae import WanVae, reset_parameters
from gloria_core.toy_weights import vae_shapes

WIDTH = 4


def make_vae(spread=0.1):
    vae = WanVae(WIDTH)
    reset_parameters(vae, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return vae.eval().requires_grad_(False)


def random_video(num_frames, batch=2):
    generator = torch.Generator().manual_seed(num_frames)
    return torch.rand(batch, 3, num_frames, 32, 16, generator=generator) * 2 - 1


def test_names_and_shapes_are_the_public_files():
    assert {name: tuple(x.shape) for name, x in WanVae(WIDTH).state_dict().items()} == dict(vae_shapes(WIDTH))


@pytest.mark.parametrize("num_frames", [1, 5, 9, 17])
def test_one_pass_equals_the_cached_passes(num_frames):
    ours = make_vae()
    theirs = AutoencoderKLWan(base_dim=WIDTH).eval()
    theirs.load_state_dict(convert_wan_vae_to_diffusers(dict(ours.state_dict())))
    video = random_video(num_frames)
    mean, log_variance = ours.encode(video)
    with torch.no_grad():
        posterior = theirs.encode(video).latent_dist
        decoded = theirs.decode(mean, return_dict=False)[0]
    assert mean.std() > 0.1, "a test on vanishing latents would prove nothing"
    assert torch.allclose(mean, posterior.mean, atol=1e-5)
    assert torch.allclose(log_variance, posterior.logvar, atol=1e-5)
    assert torch.allclose(ours.decode(mean).clamp(-1, 1), decoded.clamp(-1, 1), atol=1e-5)


def test_later_frames_do_not_change_earlier_latents():
    vae, video = make_vae(), random_video(9)
    changed = video.clone()
    changed[:, :, 5:] = 0
    assert torch.allclose(vae.encode(video)[0][:, :, :2], vae.encode(changed)[0][:, :, :2], atol=1e-6)
    assert not torch.allclose(vae.encode(video)[0][:, :, 2], vae.encode(changed)[0][:, :, 2], atol=1e-3)


def test_training_starts_where_a_still_clip_is_its_image_repeated():
    vae = make_vae(spread=0.0)
    image = random_video(1)
    latents = vae.encode(image.expand(-1, -1, 9, -1, -1))[0]
    assert torch.allclose(latents, vae.encode(image)[0].expand_as(latents), atol=1e-6)
    decoded = vae.decode(latents)
    assert torch.allclose(decoded, vae.decode(latents[:, :, :1]).expand_as(decoded), atol=1e-6)


def test_scaling_moves_latents_and_leaves_pictures():
    plain, scaled = make_vae(), make_vae()
    mean_C, std_C = torch.linspace(-2, 2, 16), torch.linspace(0.2, 3, 16)
    scale_latents(scaled, mean_C, std_C)
    video = random_video(5)
    (before, before_log), (after, after_log) = plain.encode(video), scaled.encode(video)
    shape = (1, -1, 1, 1, 1)
    assert torch.allclose(normalized(after), (before - mean_C.view(shape)) / std_C.view(shape), atol=1e-4)
    factor = (torch.tensor(WAN_STD) / std_C).view(shape)
    assert torch.allclose((after_log - before_log).exp(), (factor**2).expand_as(after_log), rtol=1e-3)
    assert torch.allclose(scaled.decode(after), plain.decode(before), atol=1e-4)


def test_what_a_diffusion_model_sees_has_mean_zero_and_deviation_one():
    vae, device = make_vae(), torch.device("cpu")
    scale_latents(vae, *measure_latents(vae, TINY.world, 0, device))
    mean_C, std_C = measure_latents(vae, TINY.world, 0, device)
    # bfloat16 activations keep three digits.
    assert torch.allclose((mean_C - torch.tensor(WAN_MEAN)) / torch.tensor(WAN_STD), torch.zeros(16), atol=0.03)
    assert torch.allclose(std_C / torch.tensor(WAN_STD), torch.ones(16), atol=0.03)
