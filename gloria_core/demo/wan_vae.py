"""A video enters, latents leave, and back: Wan 2.1's video VAE at any width, as one pass over the whole clip.

The public implementations walk through a clip in chunks and carry a cache, which long videos need and training does
not. Causal convolutions over the whole clip give the same numbers; what the cache does to the first frame is spelled
out in `Downsample` and `Upsample`. Modules carry the names of the public file, so `state_dict` is that file.

Each convolution computes in the type of its input; weights stay float32.

Legend: B clips, C channels, T frames, H W rows and columns, Q positions of one frame.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, interpolate, pad, scaled_dot_product_attention, silu

from ..toy_weights import VAE_CHANNELS, VAE_MULTIPLIERS, VAE_RESIDUAL_BLOCKS, VAE_TEMPORAL_DOWNSAMPLE

_COLORS = 3
_SMALLEST = 1e-24
_FIRST_LOG_VARIANCE = -5.0


class CausalConv(nn.Conv3d):
    """A convolution that sees the present frame and those before it."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(num_in, num_out, kernel)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        weight, bias = self.weight.to(x_BCTHW.dtype), self.bias.to(x_BCTHW.dtype)
        before, side = self.kernel_size[0] - 1, self.kernel_size[1] // 2
        if x_BCTHW.shape[2] == 1:
            # Before an image there is nothing: two thirds of the kernel would meet zeros.
            return conv3d(x_BCTHW, weight[:, :, -1:], bias, padding=(0, side, side))
        return conv3d(pad(x_BCTHW, (side, side, side, side, before, 0)), weight, bias)


class FrameConv(nn.Conv2d):
    """A convolution over each frame alone."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return conv2d(x_BCHW, self.weight.to(x_BCHW.dtype), self.bias.to(x_BCHW.dtype), self.stride, self.padding)


class RmsNorm(nn.Module):
    """Every pixel's channels brought to the same length."""

    def __init__(self, channels: int, num_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * num_dims))

    def forward(self, x: Tensor) -> Tensor:
        # torch's own `normalize` is several times slower over channels on a CPU.
        length = x.square().mean(dim=1, keepdim=True, dtype=torch.float32).clamp_min(_SMALLEST).rsqrt()
        return x * length.to(x.dtype) * self.gamma.to(x.dtype)


class Residual(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        # Numbered as in the public file; 1 and 4 are activations, 5 is a dropout.
        self.residual = nn.ModuleDict(
            {
                "0": RmsNorm(num_in, 3),
                "2": CausalConv(num_in, num_out, (3, 3, 3)),
                "3": RmsNorm(num_out, 3),
                "6": CausalConv(num_out, num_out, (3, 3, 3)),
            }
        )
        self.shortcut = CausalConv(num_in, num_out, (1, 1, 1)) if num_in != num_out else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        parts = self.residual
        inner_BCTHW = parts["2"](silu(parts["0"](x_BCTHW)))
        return self.shortcut(x_BCTHW) + parts["6"](silu(parts["3"](inner_BCTHW)))


class FrameAttention(nn.Module):
    """One head of attention among the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RmsNorm(channels, 2)
        self.to_qkv = FrameConv(channels, 3 * channels, 1)
        self.proj = FrameConv(channels, channels, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames_BCHW = _frames(x_BCTHW)
        query, key, value = (
            part.flatten(2).transpose(1, 2) for part in self.to_qkv(self.norm(frames_BCHW)).chunk(3, dim=1)
        )
        mixed_BQC = scaled_dot_product_attention(query, key, value)
        mixed_BCHW = mixed_BQC.transpose(1, 2).reshape(frames_BCHW.shape)
        return x_BCTHW + _clip(self.proj(mixed_BCHW), x_BCTHW.shape[2])


class Downsample(nn.Module):
    """Half the height and width, and with `in_time` every two frames after the first become one."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": FrameConv(channels, channels, 3, stride=2)})
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if in_time else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        num_frames = x_BCTHW.shape[2]
        x_BCTHW = _clip(self.resample["1"](pad(_frames(x_BCTHW), (0, 1, 0, 1))), num_frames)
        if self.time_conv is None or num_frames == 1:
            return x_BCTHW
        weight, bias = (each.to(x_BCTHW.dtype) for each in (self.time_conv.weight, self.time_conv.bias))
        later_BCTHW = conv3d(x_BCTHW, weight, bias, stride=self.time_conv.stride)
        return torch.cat([x_BCTHW[:, :, :1], later_BCTHW], dim=2)


class Upsample(nn.Module):
    """Twice the height and width and half the channels, and with `in_time` two frames for each one after the first."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": FrameConv(channels, channels // 2, 3, padding=1)})
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if in_time else None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.time_conv is not None and x_BCTHW.shape[2] > 1:
            # The convolution starts behind the first frame, as if nothing had been before.
            doubled_BCTHW = self.time_conv(x_BCTHW[:, :, 1:])
            first, second = doubled_BCTHW.chunk(2, dim=1)
            later_BCTHW = torch.stack([first, second], dim=3).flatten(2, 3)
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], later_BCTHW], dim=2)
        larger_BCHW = interpolate(_frames(x_BCTHW), scale_factor=2.0, mode="nearest")
        return _clip(self.resample["1"](larger_BCHW), x_BCTHW.shape[2])


class Head(nn.Module):
    """The last convolution of either half."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.head = nn.ModuleDict({"0": RmsNorm(num_in, 3), "2": CausalConv(num_in, num_out, (3, 3, 3))})

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.head["2"](silu(self.head["0"](x_BCTHW)))


class Encoder(Head):
    """Pixels to twice the latent channels."""

    def __init__(self, width: int) -> None:
        widths = [width * multiplier for multiplier in VAE_MULTIPLIERS]
        super().__init__(widths[-1], 2 * VAE_CHANNELS)
        self.conv1 = CausalConv(_COLORS, width, (3, 3, 3))
        steps: list[nn.Module] = []
        num_in = width
        for stage, num_out in enumerate(widths):
            for _ in range(VAE_RESIDUAL_BLOCKS):
                steps.append(Residual(num_in, num_out))
                num_in = num_out
            if stage < len(widths) - 1:
                steps.append(Downsample(num_out, VAE_TEMPORAL_DOWNSAMPLE[stage]))
        self.downsamples = nn.Sequential(*steps)
        self.middle = _middle(widths[-1])

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return super().forward(self.middle(self.downsamples(self.conv1(video_BCTHW))))


class Decoder(Head):
    """Latents to pixels."""

    def __init__(self, width: int) -> None:
        widths = [width * multiplier for multiplier in VAE_MULTIPLIERS[::-1]]
        super().__init__(width, _COLORS)
        self.conv1 = CausalConv(VAE_CHANNELS, widths[0], (3, 3, 3))
        self.middle = _middle(widths[0])
        steps: list[nn.Module] = []
        num_in = widths[0]
        for stage, num_out in enumerate(widths):
            for _ in range(VAE_RESIDUAL_BLOCKS + 1):
                steps.append(Residual(num_in, num_out))
                num_in = num_out
            if stage < len(widths) - 1:
                steps.append(Upsample(num_out, VAE_TEMPORAL_DOWNSAMPLE[::-1][stage]))
                num_in = num_out // 2
        self.upsamples = nn.Sequential(*steps)

    def forward(self, latents_BCTHW: Tensor) -> Tensor:
        return super().forward(self.upsamples(self.middle(self.conv1(latents_BCTHW))))


class WanVae(nn.Module):
    """The whole autoencoder; its narrowest layer has `width` channels (96 in the public file)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.conv1 = CausalConv(2 * VAE_CHANNELS, 2 * VAE_CHANNELS, (1, 1, 1))
        self.conv2 = CausalConv(VAE_CHANNELS, VAE_CHANNELS, (1, 1, 1))
        self.decoder = Decoder(width)

    def encode(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents of 4n + 1 frames of -1 to 1."""
        mean_BCTHW, log_variance_BCTHW = self.conv1(self.encoder(video_BCTHW)).chunk(2, dim=1)
        return mean_BCTHW, log_variance_BCTHW

    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Frames of about -1 to 1."""
        return self.decoder(self.conv2(latents_BCTHW))


def reset_parameters(vae: WanVae, seed: int) -> None:
    """The start of training: a plain picture pyramid that repeats frames, to which every block adds nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv3d | nn.Conv2d):
                _reset_convolution(module, generator)
        for module in vae.modules():
            if isinstance(module, Residual):
                module.residual["6"].weight.zero_()
            elif isinstance(module, FrameAttention):
                module.proj.weight.zero_()
            elif isinstance(module, Downsample) and module.time_conv is not None:
                _repeat_present(module.time_conv, taps=(1, 2))
            elif isinstance(module, Upsample) and module.time_conv is not None:
                _repeat_present(module.time_conv, taps=(2,))
        # As much noise as signal would hide the pictures from the decoder.
        vae.conv1.weight[VAE_CHANNELS:] = 0
        vae.conv1.bias[VAE_CHANNELS:] = _FIRST_LOG_VARIANCE


def _reset_convolution(conv: nn.Conv3d | nn.Conv2d, generator: torch.Generator) -> None:
    """Normal weights on the present frame's taps alone: a clip starts as its images do."""
    conv.bias.zero_()
    conv.weight.zero_()
    present = conv.weight[:, :, -1] if conv.weight.ndim == 5 else conv.weight
    fan_in = math.prod(present.shape[1:])
    present.copy_(torch.randn(present.shape, generator=generator) / math.sqrt(fan_in))


def _repeat_present(conv: nn.Conv3d, taps: tuple[int, ...]) -> None:
    num_out, num_in = conv.weight.shape[:2]
    conv.weight.zero_()
    for tap in taps:
        conv.weight[:, :, tap, 0, 0] = torch.eye(num_in).repeat(num_out // num_in, 1) / len(taps)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels, channels), FrameAttention(channels), Residual(channels, channels))


def _frames(x_BCTHW: Tensor) -> Tensor:
    """Every frame an image of its own."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def _clip(x_BCHW: Tensor, num_frames: int) -> Tensor:
    return x_BCHW.unflatten(0, (-1, num_frames)).transpose(1, 2)
