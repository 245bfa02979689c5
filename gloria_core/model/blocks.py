"""One block of the DiT: self-attention over video and anchors, cross-attention to text, image and speech, FFN.

Legend: B batch, S all tokens (V of the video, then A of the anchors), T text and image tokens, F frames
with a timestep of their own (1 if they share one), D model width, N heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .attention import PROBE_OPTION, Kernels
from .audio_branch import AudioCrossAttention
from .presets import AnchorAttention, DiTConfig


@dataclass(frozen=True)
class Modulation:
    """adaLN parameters per segment: the video has its own timestep(s), anchors the clean one."""

    video_BF6D: Tensor
    anchors_B16D: Tensor | None
    num_video: int
    """Number of video tokens V, which come first."""


@dataclass(frozen=True)
class BlockInputs:
    """What is the same for all blocks of one forward pass."""

    modulation: Modulation
    rope: Tensor
    context_BTD: Tensor
    num_image_tokens: int
    """CLIP tokens at the start of the context."""
    audio_BNWE: Tensor | None
    transformer_options: Mapping[str, Any]


def per_frame(
    function: Callable[..., Tensor], tokens_BVD: tuple[Tensor, ...], parameters_BFD: tuple[Tensor, ...]
) -> Tensor:
    """`function(*tokens, *parameters)` with each frame's own parameters, which are never copied per token."""
    num_frames = parameters_BFD[0].shape[1]
    if num_frames == 1:
        return function(*tokens_BVD, *parameters_BFD)
    by_frame = (tokens.unflatten(1, (num_frames, -1)) for tokens in tokens_BVD)
    return function(*by_frame, *(parameter[:, :, None] for parameter in parameters_BFD)).flatten(1, 2)


def shift_and_scale(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x, y, gate)


def with_video(x_BSD: Tensor, video_BVD: Tensor) -> Tensor:
    """`x` with its video tokens replaced."""
    num_video = video_BVD.shape[1]
    return video_BVD if x_BSD.shape[1] == num_video else torch.cat([video_BVD, x_BSD[:, num_video:]], dim=1)


class SelfAttention(nn.Module):
    """Full self-attention with RoPE over video and anchor tokens (paper sec. 4.1)."""

    def __init__(
        self, config: DiTConfig, kernels: Kernels, operations: ModuleType, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.num_heads = config.num_heads
        self.anchor_attention: AnchorAttention = config.gloria.anchor_attention
        self.kernels = kernels
        self.q = operations.Linear(config.dim, config.dim, **factory)
        self.k = operations.Linear(config.dim, config.dim, **factory)
        self.v = operations.Linear(config.dim, config.dim, **factory)
        self.o = operations.Linear(config.dim, config.dim, **factory)
        self.norm_q = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)
        self.norm_k = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)

    def forward(self, x_BSD: Tensor, rope: Tensor, num_video: int, transformer_options: Mapping[str, Any]) -> Tensor:
        """Attends over all tokens; with `one_way`, anchors see anchors only."""
        rotate = self.kernels.apply_rope
        q = rotate(self.norm_q(self.q(x_BSD)).unflatten(-1, (self.num_heads, -1)), rope)
        k = rotate(self.norm_k(self.k(x_BSD)).unflatten(-1, (self.num_heads, -1)), rope)
        flat_q, flat_k, v = q.flatten(-2), k.flatten(-2), self.v(x_BSD)
        has_anchors = x_BSD.shape[1] > num_video
        probe = transformer_options.get(PROBE_OPTION)
        if probe is not None:
            probe.look(transformer_options["block_index"], flat_q[:, :num_video], flat_k, self.num_heads)

        def attend(q_BSD: Tensor, k_BSD: Tensor, v_BSD: Tensor) -> Tensor:
            return self.kernels.attention(
                q_BSD, k_BSD, v_BSD, heads=self.num_heads, transformer_options=transformer_options
            )

        if has_anchors and self.anchor_attention == "one_way":
            # Two unmasked calls equal one masked call and keep the fast kernels.
            video = attend(flat_q[:, :num_video], flat_k, v)
            anchors = attend(flat_q[:, num_video:], flat_k[:, num_video:], v[:, num_video:])
            out = torch.cat([video, anchors], dim=1)
        else:
            out = attend(flat_q, flat_k, v)
        for patch in transformer_options.get("patches", {}).get("attn1_patch", ()):
            # Stock patches index tokens by the video's grid: they must not see the anchors.
            seen = patch({"x": out[:, :num_video], "q": q[:, :num_video], "k": k[:, :num_video],
                          "transformer_options": transformer_options})
            out = with_video(out, seen)
        return self.o(out)


class CrossAttention(nn.Module):
    """Cross-attention to the text and, in I2V models, in parallel to the CLIP tokens of the image."""

    def __init__(
        self, config: DiTConfig, kernels: Kernels, operations: ModuleType, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.num_heads = config.num_heads
        self.kernels = kernels
        self.q = operations.Linear(config.dim, config.dim, **factory)
        self.k = operations.Linear(config.dim, config.dim, **factory)
        self.v = operations.Linear(config.dim, config.dim, **factory)
        self.o = operations.Linear(config.dim, config.dim, **factory)
        self.norm_q = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)
        self.norm_k = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)
        self.has_image = config.model_type == "i2v"
        if self.has_image:
            self.k_img = operations.Linear(config.dim, config.dim, **factory)
            self.v_img = operations.Linear(config.dim, config.dim, **factory)
            self.norm_k_img = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)

    def forward(self, q_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        """Attends from ready queries `norm_q(q(x))`, which the audio branch shares."""
        image, text = inputs.context_BTD.tensor_split([inputs.num_image_tokens], dim=1)
        options = {"heads": self.num_heads, "transformer_options": inputs.transformer_options}
        k, v = self.norm_k(self.k(text)), self.v(text)
        if not self.has_image or inputs.num_image_tokens == 0:
            return self.o(self.kernels.attention(q_BSD, k, v, **options))
        k_img, v_img = self.norm_k_img(self.k_img(image)), self.v_img(image)
        from_image = self.kernels.attention(q_BSD, k_img, v_img, **options)
        return self.o(self.kernels.attention(q_BSD, k, v, **options) + from_image)


class GloriaBlock(nn.Module):
    """Wan's block over video and anchor tokens, with an audio branch if `has_audio`."""

    def __init__(
        self,
        config: DiTConfig,
        has_audio: bool,
        kernels: Kernels,
        operations: ModuleType,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.norm1 = operations.LayerNorm(config.dim, config.eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(config, kernels, operations, device, dtype)
        self.norm3 = operations.LayerNorm(config.dim, config.eps, elementwise_affine=True, **factory)
        self.cross_attn = CrossAttention(config, kernels, operations, device, dtype)
        self.norm2 = operations.LayerNorm(config.dim, config.eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(config.dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_dim, config.dim, **factory),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim, **factory))
        self.audio_attn = AudioCrossAttention(config, kernels, operations, device, dtype) if has_audio else None

    def forward(self, x_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        """One residual update of all tokens."""
        x, y = self.inner(x_BSD, inputs)
        return self._by_segment(add_gated, (x, y), inputs.modulation, 5)

    def inner(self, x_BSD: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor]:
        """Everything but the last addition: the tokens, and what the feed-forward layer is about to add to them.

        Apart, because a frozen block's backward pass reads neither: recomputing this part ends before the last layer.
        """
        num_video = inputs.modulation.num_video
        x = x_BSD.contiguous()
        y = self._by_segment(shift_and_scale, (self.norm1(x),), inputs.modulation, 0, 1)
        y = self.self_attn(y, inputs.rope, num_video, inputs.transformer_options)
        x = self._by_segment(add_gated, (x, y), inputs.modulation, 2)

        q = self.cross_attn.norm_q(self.cross_attn.q(self.norm3(x)))
        x = x + self.cross_attn(q, inputs)
        if self.audio_attn is not None and inputs.audio_BNWE is not None:
            heard = self.audio_attn(q[:, :num_video], inputs.audio_BNWE, inputs.transformer_options)
            x = with_video(x, x[:, :num_video] + heard)
        for patch in inputs.transformer_options.get("patches", {}).get("attn2_patch", ()):
            video = patch({"x": x[:, :num_video], "transformer_options": inputs.transformer_options})
            x = with_video(x, video)

        return x, self.ffn(self._by_segment(shift_and_scale, (self.norm2(x),), inputs.modulation, 3, 4))

    def _by_segment(
        self, function: Callable[..., Tensor], tokens_BSD: tuple[Tensor, ...], modulation: Modulation, *indices: int
    ) -> Tensor:
        """Applies adaLN parameters: the video's own timestep(s) to video tokens, the clean one to anchors."""
        first = tokens_BSD[0]
        own = self.modulation.to(device=first.device, dtype=first.dtype)
        video = tuple(own[:, idx] + modulation.video_BF6D[:, :, idx] for idx in indices)
        if modulation.anchors_B16D is None:
            return per_frame(function, tokens_BSD, video)
        anchors = tuple(own[:, idx] + modulation.anchors_B16D[:, :, idx] for idx in indices)
        parts = [tokens.tensor_split([modulation.num_video], dim=1) for tokens in tokens_BSD]
        video_tokens, anchor_tokens = zip(*parts, strict=True)
        return torch.cat(
            [per_frame(function, video_tokens, video), per_frame(function, anchor_tokens, anchors)], dim=1
        )
