"""What the trainer takes per forward pass: tensors of samples that share all shapes, and how each was drawn.

Legend: B samples, C latent channels, T latent frames, H W latent height and width, L text tokens, D width,
N audio windows (one per latent frame), W frames per window, S image tokens.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.anchor_tokens import Slot


@dataclass(frozen=True, kw_only=True)
class SampleDraw:
    """What was left to chance for one sample; a pure function of seed, stage, step and place in the batch."""

    clip_idx: int
    """Place in `CacheIndex.clips`."""
    num_latents: int
    """Length of the window."""
    first_latent: int
    """0: a first chunk; 1 or more: cut mid-stream, with a prefix."""
    num_known: int
    """Latent frames given clean at the window's start: 0, 1 (start image) or the prefix."""
    anchors: tuple[int, ...]
    """Places in the source's list of anchors: global first, then viewpoints, then expressions."""
    drop_text: bool
    drop_audio: bool
    noise_seed: int
    sigma: float
    """Noise level, 0 data to 1 noise."""


@dataclass(frozen=True, kw_only=True)
class StepDraw:
    """All samples of one optimizer step, the same for every number of processes."""

    step: int
    stage_idx: int
    batch_type: str
    """`none`, `global`, `viewpoint`, `expression` or `both`: which kinds of anchors its samples have."""
    samples: tuple[SampleDraw, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one forward pass, on the CPU, in the types they are stored in."""

    latents_BCTHW: Tensor
    known_BT: Tensor
    """Bool: latent frames that are given clean."""
    image_BCTHW: Tensor | None
    """Content of the image channels behind the given frames; None for bases without them."""
    text_BLD: Tensor
    audio_BNWLC: Tensor | None
    """Zeros for samples with dropped or absent speech; None when the stage has no speech."""
    clip_BSD: Tensor | None
    anchors: tuple[Tensor, ...]
    """Clean latents [B, C, 1, h, w]."""
    anchor_slots: tuple[tuple[Slot, ...], ...]
    """For each anchor the (kind, label) of every sample."""
    draws: tuple[SampleDraw, ...]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        names = ("latents_BCTHW", "known_BT", "image_BCTHW", "text_BLD", "audio_BNWLC", "clip_BSD")
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: None if x is None else x.to(device, non_blocking=True) for name, x in tensors.items()}
        return replace(self, anchors=tuple(x.to(device, non_blocking=True) for x in self.anchors), **moved)
