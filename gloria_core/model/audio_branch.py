"""Speech enters the DiT: a learned projection of wav2vec features and windowed cross-attention (paper sec. 4.2).

Legend: B batch, N latent frames (one audio window each), W frames per window, L wav2vec layers,
C wav2vec width, E projected width, S tokens of one latent frame, D model width.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..shapes import TEMPORAL_STRIDE
from .attention import Kernels
from .presets import DiTConfig


class AudioProjection(nn.Module):
    """wav2vec hidden states -> F'_a: one learned feature per video frame, in windows of one latent frame.

    The paper says "wav2vec and a learnable projection layer". Ours is a learned mixture of the hidden
    states, a norm and a linear layer, plus a learned position inside the window: attention over four
    keys is blind to their order, and a mouth that opens is not a mouth that closes.
    """

    def __init__(self, config: DiTConfig, operations: ModuleType, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        settings = config.gloria
        factory = {"device": device, "dtype": dtype}
        self.layer_mix = nn.Parameter(torch.empty(settings.audio_layers, **factory))
        self.norm = operations.LayerNorm(settings.audio_channels, eps=config.eps, **factory)
        self.proj = operations.Linear(settings.audio_channels, settings.audio_dim, **factory)
        self.window_position = nn.Parameter(torch.empty(TEMPORAL_STRIDE, settings.audio_dim, **factory))

    def reset_parameters(self) -> None:
        """Start as the plain mean of all hidden states, without positions."""
        nn.init.zeros_(self.layer_mix)
        nn.init.zeros_(self.window_position)

    def forward(self, windows_BNWLC: Tensor) -> Tensor:
        """Projects windows of hidden states to [B, N, W, E]."""
        weights = self.layer_mix.to(windows_BNWLC).softmax(0)
        mixed = (windows_BNWLC * weights[:, None]).sum(dim=3)
        return self.proj(self.norm(mixed)) + self.window_position.to(windows_BNWLC)


class AudioCrossAttention(nn.Module):
    """Local cross-attention of one latent frame's tokens to that frame's audio window.

    It shares the query of the text cross-attention and has its own key, value and output projections.
    The value projection starts at zero (paper sec. 4.4) and so does the output's bias: a fresh branch
    adds exactly nothing.
    """

    def __init__(
        self, config: DiTConfig, kernels: Kernels, operations: ModuleType, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.num_heads = config.num_heads
        self.kernels = kernels
        self.k = operations.Linear(config.gloria.audio_dim, config.dim, **factory)
        self.v = operations.Linear(config.gloria.audio_dim, config.dim, **factory)
        self.o = operations.Linear(config.dim, config.dim, **factory)
        self.norm_k = operations.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)

    def reset_parameters(self) -> None:
        """The paper's zero start."""
        for parameter in (self.v.weight, self.v.bias, self.o.bias):
            nn.init.zeros_(parameter)

    def forward(self, q_BSD: Tensor, audio_BNWE: Tensor, transformer_options: Mapping[str, Any]) -> Tensor:
        """Attends from all video tokens (N latent frames of equal size) to their own frame's window."""
        batch, num_windows = audio_BNWE.shape[:2]
        keys = self.norm_k(self.k(audio_BNWE)).flatten(0, 1)
        values = self.v(audio_BNWE).flatten(0, 1)
        queries = q_BSD.unflatten(1, (num_windows, -1)).flatten(0, 1)
        out = self.kernels.attention(
            queries, keys, values, heads=self.num_heads, transformer_options=transformer_options
        )
        return self.o(out.unflatten(0, (batch, num_windows)).flatten(1, 2))
