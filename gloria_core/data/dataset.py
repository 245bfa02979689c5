"""Draws and a cache enter, batches leave: windows cut where the draw says, samples of equal shape stacked.

Legend: B samples, C latent channels, T latent frames, H W latent height and width, N audio windows, W frames per
window, L wav2vec2 layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning.audio import frame_windows
from .batch import Batch, SampleDraw, Slot
from .cache import CacheStore
from .cache_index import CachedClip, CacheIndex


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample, not yet stacked."""

    latents_CTHW: Tensor
    image_CTHW: Tensor | None
    text_LD: Tensor
    audio_NWLC: Tensor | None
    clip_SD: Tensor | None
    anchors: tuple[Tensor, ...]
    slots: tuple[Slot, ...]
    draw: SampleDraw

    @property
    def layout(self) -> tuple[object, ...]:
        """Equal for samples that one forward pass can take together."""
        tensors = (self.latents_CTHW, self.image_CTHW, self.text_LD, self.audio_NWLC, self.clip_SD, *self.anchors)
        return tuple(None if tensor is None else tuple(tensor.shape) for tensor in tensors)


def load_samples(
    store: CacheStore, index: CacheIndex, draws: Sequence[SampleDraw], *, image_channels: bool, audio: bool
) -> list[Batch]:
    """Batches of the drawn samples, one for each layout, in order of first appearance.

    Args:
        image_channels: whether the base takes the given frames through image channels.
        audio: whether the stage has speech; clips without sound then get zeros, as dropped speech does.

    Raises:
        DatasetError: A missing or damaged entry, named.
    """
    groups: dict[tuple[object, ...], list[Sample]] = {}
    for draw in draws:
        sample = load_sample(store, index, draw, image_channels=image_channels, audio=audio)
        groups.setdefault(sample.layout, []).append(sample)
    return [_stack(samples) for samples in groups.values()]


def load_sample(
    store: CacheStore, index: CacheIndex, draw: SampleDraw, *, image_channels: bool, audio: bool
) -> Sample:
    """The tensors of one draw, in the types they are stored in."""
    clip = index.clips[draw.clip_idx]
    anchors = [index.source_of(clip).anchors[idx] for idx in draw.anchors]
    span = slice(draw.first_latent, draw.first_latent + draw.num_latents)
    latents_CTHW = store.load(clip.latents)["latents"][:, span]
    return Sample(
        latents_CTHW=latents_CTHW,
        image_CTHW=_image(store, clip, draw, latents_CTHW) if image_channels else None,
        text_LD=store.load(index.empty_text if draw.drop_text else clip.text)["text"],
        audio_NWLC=_audio(store, index, clip, draw) if audio else None,
        clip_SD=None if clip.clip_vision is None else store.load(clip.clip_vision)["clip_vision"],
        anchors=tuple(store.load(anchor.key)["latent"] for anchor in anchors),
        slots=tuple((anchor.kind, anchor.label) for anchor in anchors),
        draw=draw,
    )


def _image(store: CacheStore, clip: CachedClip, draw: SampleDraw, latents_CTHW: Tensor) -> Tensor:
    """What sampling puts behind the given frames: the start image's video of gray, the prefix in its first latents."""
    assert clip.start_video is not None, "checked when the model was loaded"
    start_CTHW = store.load(clip.start_video)["latents"][:, : draw.num_latents]
    missing = draw.num_latents - start_CTHW.shape[1]
    image_CTHW = torch.cat([start_CTHW, start_CTHW[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    if draw.first_latent > 0:
        image_CTHW[:, : draw.num_known] = latents_CTHW[:, : draw.num_known]
    return image_CTHW


def _audio(store: CacheStore, index: CacheIndex, clip: CachedClip, draw: SampleDraw) -> Tensor:
    if clip.audio is None or draw.drop_audio:
        assert index.audio_shape is not None, "checked by the draw plan"
        return torch.zeros(draw.num_latents, 4, *index.audio_shape, dtype=torch.bfloat16)
    return frame_windows(store.load(clip.audio)["audio"], draw.first_latent, draw.num_latents).to(torch.bfloat16)


def _stack(samples: Sequence[Sample]) -> Batch:
    first = samples[0]
    known_BT = torch.stack([torch.arange(s.draw.num_latents) < s.draw.num_known for s in samples])

    def stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
        return None if tensors[0] is None else torch.stack([tensor for tensor in tensors if tensor is not None])

    return Batch(
        latents_BCTHW=torch.stack([s.latents_CTHW for s in samples]),
        known_BT=known_BT,
        image_BCTHW=stacked([s.image_CTHW for s in samples]),
        text_BLD=torch.stack([s.text_LD for s in samples]),
        audio_BNWLC=stacked([s.audio_NWLC for s in samples]),
        clip_BSD=stacked([s.clip_SD for s in samples]),
        anchors=tuple(torch.stack([s.anchors[idx] for s in samples]) for idx in range(len(first.anchors))),
        anchor_slots=tuple(tuple(s.slots[idx] for s in samples) for idx in range(len(first.anchors))),
        draws=tuple(s.draw for s in samples),
    )
