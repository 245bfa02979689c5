"""Gloria's DiT: Wan's transformer, with anchors as extra tokens and speech as extra cross-attention (paper fig. 3).

State-dict keys are Wan's. Additions have their own prefixes, `audio_proj.` and `blocks.N.audio_attn.`.
Without anchors and speech it computes exactly what Wan computes.

Legend: B batch, C channels, T latent frames, S tokens, V video tokens, D model width, L text tokens.
"""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AudioError
from ..shapes import PATCH_SIZE, TokenGrid
from .anchor_tokens import Slot, embed_anchors, pad_to_patches
from .attention import PROBE_OPTION, Kernels
from .audio_branch import AudioCrossAttention, AudioProjection
from .blocks import BlockInputs, GloriaBlock, Modulation, per_frame, shift_and_scale
from .presets import DiTConfig
from .rope import rope_table, video_axes
from .stock_patches import run_block_with_patches

CLEAN_TIMESTEP = 0.0


def timestep_features(timesteps: Tensor, width: int) -> Tensor:
    """Wan's sinusoidal features [len, width] of flat timesteps in 0..1000."""
    half = width // 2
    timesteps = timesteps.float()
    frequencies = torch.pow(10000, -torch.arange(half).to(timesteps).div(half))
    angles = torch.outer(timesteps, frequencies)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def _joined(tables: Sequence[Tensor]) -> Tensor:
    """RoPE tables one behind the other; those that all samples share are repeated only if others differ by sample."""
    batch = max(len(table) for table in tables)
    return torch.cat([table.expand(batch, *table.shape[1:]) for table in tables], dim=1)


class Head(nn.Module):
    """Final adaLN and projection from tokens to patches."""

    def __init__(self, config: DiTConfig, operations: ModuleType, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.norm = operations.LayerNorm(config.dim, config.eps, elementwise_affine=False, **factory)
        self.head = operations.Linear(config.dim, math.prod(PATCH_SIZE) * config.out_dim, **factory)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim, **factory))

    def forward(self, x_BVD: Tensor, time_BFD: Tensor) -> Tensor:
        """Video tokens -> patches [B, V, prod(patch) * C]."""
        own = self.modulation.to(device=x_BVD.device, dtype=x_BVD.dtype)
        parameters = tuple(own[:, idx] + time_BFD for idx in range(2))
        return self.head(per_frame(shift_and_scale, (self.norm(x_BVD),), parameters))


class ImageProjection(nn.Module):
    """CLIP image tokens -> context tokens (Wan2.1-I2V)."""

    def __init__(self, config: DiTConfig, operations: ModuleType, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.proj = nn.Sequential(
            operations.LayerNorm(config.image_dim, **factory),
            operations.Linear(config.image_dim, config.image_dim, **factory),
            nn.GELU(),
            operations.Linear(config.image_dim, config.dim, **factory),
            operations.LayerNorm(config.dim, **factory),
        )
        self.emb_pos = None
        if config.image_position_tokens is not None:
            self.emb_pos = nn.Parameter(torch.empty(1, config.image_position_tokens, config.image_dim, **factory))

    def forward(self, clip_BSC: Tensor) -> Tensor:
        """Projects CLIP's penultimate hidden states."""
        if self.emb_pos is not None:
            positions = self.emb_pos[:, : clip_BSC.shape[1]].to(clip_BSC)
            clip_BSC = clip_BSC[:, : self.emb_pos.shape[1]] + positions
        return self.proj(clip_BSC)


class GloriaDiT(nn.Module):
    """The denoiser u(x_t, c, t) of eq. 2, in Wan's sign: it predicts noise - data."""

    def __init__(
        self,
        config: DiTConfig,
        kernels: Kernels | None = None,
        operations: ModuleType = nn,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        kernels = kernels or Kernels()
        self.config = config
        self.dtype = dtype
        # float32, as in Wan: the only layer that sees raw latents.
        self.patch_embedding = operations.Conv3d(
            config.in_dim, config.dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE, device=device, dtype=torch.float32
        )
        self.text_embedding = nn.Sequential(
            operations.Linear(config.text_dim, config.dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.dim, config.dim, **factory),
        )
        self.time_embedding = nn.Sequential(
            operations.Linear(config.freq_dim, config.dim, **factory),
            nn.SiLU(),
            operations.Linear(config.dim, config.dim, **factory),
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(config.dim, config.dim * 6, **factory))
        self.blocks = nn.ModuleList(
            GloriaBlock(config, idx in config.gloria.audio_blocks, kernels, operations, device, dtype)
            for idx in range(config.num_layers)
        )
        self.head = Head(config, operations, device, dtype)
        self.img_emb = ImageProjection(config, operations, device, dtype) if config.model_type == "i2v" else None
        self.audio_proj = AudioProjection(config, operations, device, dtype) if config.gloria.has_audio else None

    def reset_gloria_parameters(self) -> None:
        """Fresh additions: the exact no-op that training starts from (paper sec. 4.4, stage I)."""
        for module in self.modules():
            if isinstance(module, (AudioProjection, AudioCrossAttention)):
                for layer in module.children():
                    layer.reset_parameters()
                module.reset_parameters()

    def forward(
        self,
        x_BCTHW: Tensor,
        timestep: Tensor,
        context_BLD: Tensor,
        clip_fea: Tensor | None = None,
        anchors: Sequence[Tensor] = (),
        anchor_slots: Sequence[Slot | Sequence[Slot]] = (),
        audio_windows: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Velocity of the video latent.

        Args:
            x_BCTHW: Noisy video latent with all `in_dim` channels.
            timestep: [B], or [B, T] with one timestep per latent frame; 0 (clean) to 1000 (noise).
            context_BLD: Text embeddings of width `text_dim`.
            clip_fea: CLIP image tokens [B, tokens, image_dim]; I2V models only.
            anchors: Clean anchor latents [B, out_dim, 1, h, w] in the model's space.
            anchor_slots: Kind and label of each anchor, for the whole batch or one for every sample.
            audio_windows: wav2vec hidden states [B, T, 4, layers, channels], one window per latent frame.
            transformer_options: ComfyUI's patches and options, or None.

        Returns:
            noise - data, [B, out_dim, T, H, W].
        """
        options = dict(transformer_options or {})
        size = x_BCTHW.shape
        x = pad_to_patches(x_BCTHW)
        patches = self.patch_embedding(x.float()).to(x.dtype)
        grid = TokenGrid(*patches.shape[2:])
        options["grid_sizes"] = patches.shape[2:]
        tokens = [patches.flatten(2).transpose(1, 2)]
        tables = [rope_table(video_axes(grid, x.device, options.get("rope_options")), self.config.head_dim)]
        anchor_tokens, anchor_tables = embed_anchors(anchors, anchor_slots, self.patch_embedding, self.config)
        x = torch.cat(tokens + anchor_tokens, dim=1) if anchor_tokens else tokens[0]
        if PROBE_OPTION in options:
            options[PROBE_OPTION] = options[PROBE_OPTION].of_pass(grid, anchor_slots, anchor_tokens, options)

        time_BFD = self._embed_time(timestep, x.dtype)
        modulation = Modulation(
            video_BF6D=self._project_time(time_BFD),
            anchors_B16D=self._clean_modulation(len(x), x) if anchor_tokens else None,
            num_video=grid.count,
        )
        context, num_image_tokens = self._embed_context(context_BLD, clip_fea)
        inputs = BlockInputs(
            modulation=modulation,
            rope=_joined(tables + anchor_tables),
            context_BTD=context,
            num_image_tokens=num_image_tokens,
            audio_BNWE=self._project_audio(audio_windows, grid),
            transformer_options=options,
        )
        options |= {"total_blocks": len(self.blocks), "block_type": "double"}
        for block_idx, block in enumerate(self.blocks):
            options["block_index"] = block_idx
            x = run_block_with_patches(block, x, inputs, x_BCTHW, time_BFD)
        patches = self.head(x[:, : grid.count], time_BFD)
        return self._unpatchify(patches, grid)[..., : size[2], : size[3], : size[4]]

    def _embed_context(self, context_BLD: Tensor, clip_fea: Tensor | None) -> tuple[Tensor, int]:
        """Image tokens (I2V models with CLIP vision only) followed by text tokens, and the number of the former."""
        text = self.text_embedding(context_BLD)
        if clip_fea is None or self.img_emb is None:
            return text, 0
        image = self.img_emb(clip_fea)
        return torch.cat([image, text], dim=1), image.shape[1]

    def _embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        features = timestep_features(timestep.flatten(), self.config.freq_dim).to(dtype)
        return self.time_embedding(features).reshape(timestep.shape[0], -1, self.config.dim)

    def _project_time(self, time_BFD: Tensor) -> Tensor:
        return self.time_projection(time_BFD).unflatten(2, (6, self.config.dim))

    def _clean_modulation(self, batch: int, like: Tensor) -> Tensor:
        """Modulation of anchors: they are data, so their timestep is the clean one at every step."""
        clean = torch.full((1,), CLEAN_TIMESTEP, device=like.device)
        return self._project_time(self._embed_time(clean, like.dtype)).expand(batch, -1, -1, -1)

    def _project_audio(self, windows: Tensor | None, grid: TokenGrid) -> Tensor | None:
        if windows is None:
            return None
        if self.audio_proj is None:
            raise AudioError(
                "This model has no audio branch, so speech cannot move the lips. Load Gloria weights with an audio "
                "branch, or leave the audio input of Gloria Conditioning empty (connect only the frame count)."
            )
        expected = (grid.frames, self.config.gloria.audio_layers, self.config.gloria.audio_channels)
        arrived = (windows.shape[1], *windows.shape[3:])
        if arrived != expected:
            raise AudioError(
                f"Audio features do not fit the model: got (windows, layers, channels) = {arrived}, expected "
                f"{expected}. Use the wav2vec2 encoder that the Gloria weights were trained with."
            )
        return self.audio_proj(windows)

    def _unpatchify(self, patches_BVP: Tensor, grid: TokenGrid) -> Tensor:
        batch = len(patches_BVP)
        x = patches_BVP.view(batch, *grid, *PATCH_SIZE, self.config.out_dim)
        # [B, f, h, w, pf, ph, pw, C] -> [B, C, f, pf, h, ph, w, pw]
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(batch, self.config.out_dim, *(n * p for n, p in zip(grid, PATCH_SIZE, strict=True)))
