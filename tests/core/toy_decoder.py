"""A real Wan VAE of diffusers at toy width as a streaming decoder, and latents for it."""

import torch

from gloria_core.media.decode_latents import DiffusersWanDecoder


def toy_vae(is_2_2: bool = False, width: int = 4):
    """Random weights that keep activations near 1, so that a wrong cache shows in the picture."""
    from diffusers import AutoencoderKLWan

    options = {"z_dim": 16}
    if is_2_2:
        options = {
            "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
            "scale_factor_spatial": 16, "decoder_base_dim": width,
        }  # fmt: skip
        options |= {"latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=width, **options).eval().requires_grad_(False)
    for name, value in vae.decoder.named_parameters():
        if value.ndim > 1 and "gamma" not in name:
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
    return vae


def toy_decoder(is_2_2: bool = False, width: int = 4) -> DiffusersWanDecoder:
    return DiffusersWanDecoder(toy_vae(is_2_2, width))


class LongMemoryDecoder:
    """Fast stand-in with the memory of Wan's VAE: a frame depends on exactly the last 38 latents, fed in pairs."""

    channels = 16
    group_latents = 2
    fingerprint = "long memory"

    def reset(self):
        self.history = [torch.zeros(2, 2) for _ in range(38)]
        self.is_first = True

    def push(self, latents_BCTHW):
        frames = []
        for latent_HW in latents_BCTHW[0, 0].unbind(0):
            self.history = [*self.history[1:], latent_HW]
            weights = torch.linspace(-1, 1, 38).view(-1, 1, 1)
            level_HW = torch.sin((torch.stack(self.history) * weights).sum(0)).mul(0.5).add(0.5)
            frame_HWC = level_HW.repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None].expand(-1, -1, 3)
            frames += [frame_HWC] if self.is_first else [frame_HWC.roll(shift, 0) for shift in range(4)]
            self.is_first = False
        return torch.stack(frames)


def random_latents(num_latents: int, channels: int = 16, height: int = 4, width: int = 6) -> torch.Tensor:
    """Not 2x4: there torch CPU kernels of 1x1x1 convolutions depend on the length, and the last bit differs."""
    return torch.randn(1, channels, num_latents, height, width, generator=torch.Generator().manual_seed(num_latents))
