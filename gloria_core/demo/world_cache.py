"""The toy world and the demo's encoders enter, a dataset cache that the shipped trainer reads leaves; no video files.

One source at a time: its video is rendered, encoded and forgotten. A source whose record is written is done, so a
second call goes on where one was cut. Keys hold everything that an entry depends on.

Legend: B pictures, C latent channels, T frames, H W pixels or latent cells, F video frames.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditioning.anchors import Anchor
from ..data.cache import CacheStore
from ..data.cache_index import CachedAnchor, CachedClip, CachedSource, CacheIndex, write_index
from ..durable_files import commit_json, file_sha256, read_json
from ..errors import DatasetError
from ..shapes import pixel_frames_for, spatial_stride
from ..strict import parse
from ..toy_weights import VAE_CHANNELS
from ..toyworld.character import held_out_character, training_character
from ..toyworld.source import Source, make_source
from .anchor_candidates import Candidate, anchor_candidates
from .audio_encoder import load_audio_encoder, speech_features
from .files import BASE, PICTURES, WINDOWS, DemoFiles
from .latent_scale import normalized
from .sizes import DemoSizes, WorldSizes
from .text_encoder import load_text_encoder
from .wan_vae import WanVae

logger = logging.getLogger(__name__)

_RECIPE = 1
_STREAM = 101
_RECORDS = "sources"
# Videos of held-out characters have other rooms and programs too.
_HELD_OUT_SEED = 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What one finished source gives to the index."""

    source: CachedSource
    clips: tuple[CachedClip, ...]
    audio_shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DemoEncoders:
    """The demo's encoders as functions, and what identifies their files."""

    pictures: Callable[[Tensor], Tensor]
    """[B, T, H, W, 3] of 0 to 1 -> normalised latents [B, C, t, h, w], float16."""
    text: Callable[[str], Tensor]
    speech: Callable[[np.ndarray], Tensor]
    fingerprints: dict[str, str]


def build_world_cache(sizes: DemoSizes, files: DemoFiles, dataset: str, device: torch.device) -> CacheIndex:
    """Bring every entry of one of the `DATASETS` to disk, then the index."""
    sizes, folder = _sizes_of(sizes, dataset), files.cache(dataset)
    encoders = load_demo_encoders(sizes.world, files, device)
    # The base has no anchors.
    builder = _Builder(sizes, encoders, CacheStore(folder), _clip_latents(sizes, dataset), dataset != BASE)
    world = sizes.world
    with builder.store.building():
        (folder / _RECORDS).mkdir(exist_ok=True)
        empty = builder.put_text("")
        total, records = world.num_sources + world.num_held_out, []
        for done in range(total):
            is_held_out = done >= world.num_sources
            records.append(builder.source(done - world.num_sources if is_held_out else done, is_held_out))
            if (done + 1) % max(1, total // 20) == 0:
                logger.info("%s: %d of %d videos", folder.name, done + 1, total)
        index = CacheIndex(
            fps=world.fps, latent_channels=VAE_CHANNELS, empty_text=empty, encoders=encoders.fingerprints,
            audio_shape=records[0].audio_shape, sources=tuple(record.source for record in records),
            clips=tuple(clip for record in records for clip in record.clips),
        )  # fmt: skip
        write_index(folder, index)
    return index


def load_demo_encoders(world: WorldSizes, files: DemoFiles, device: torch.device) -> DemoEncoders:
    """The three encoders from their files."""
    vae = load_vae(files.vae, device)
    hear, read = load_audio_encoder(files.audio_encoder), load_text_encoder(files.text_encoder)

    @torch.inference_mode()
    def encode_pictures(pictures_BTHWC: Tensor) -> Tensor:
        video_BCTHW = (pictures_BTHWC.movedim(-1, 1) * 2 - 1).to(device).bfloat16()
        return normalized(vae.encode(video_BCTHW)[0].float()).cpu().half()

    fingerprints = {
        role: file_sha256(path) or "" for role, path in zip(("vae", "text", "audio"), files.encoders, strict=True)
    }
    return DemoEncoders(
        pictures=encode_pictures,
        text=read,
        speech=lambda samples_N: speech_features(hear, samples_N, world.fps),
        fingerprints=fingerprints,
    )


def load_vae(path: Path, device: torch.device) -> WanVae:
    """The autoencoder of a file."""
    from safetensors.torch import load_file

    weights = load_file(path)
    vae = WanVae(weights["decoder.head.0.gamma"].shape[0])
    vae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return vae.eval().requires_grad_(False).to(device)


class _Builder:
    """Entries of one source after the other."""

    def __init__(
        self, sizes: DemoSizes, encoders: DemoEncoders, store: CacheStore, clip_latents: int, with_anchors: bool
    ) -> None:
        self.store = store
        self._sizes = sizes
        self._encoders = encoders
        self._clip_latents = clip_latents
        self._with_anchors = with_anchors
        world = asdict(sizes.world) | {"num_sources": 0, "num_held_out": 0}
        self._recipe = (_RECIPE, sizes.seed, world, clip_latents, with_anchors)

    def source(self, number: int, is_held_out: bool) -> _Record:
        """The record of a source whose entries are all on disk."""
        name = f"{'held_out' if is_held_out else 'train'}_{number:05d}"
        key = self._key("source", ("vae", "text", "audio"), name)
        path = self.store.folder / _RECORDS / f"{key}.json"
        content = read_json(path)
        if content is not None:
            record = parse(_Record, content, str(path), DatasetError)
            if all(self.store.has(entry) for entry in _entries(record)):
                return record
        record = self._make(name, number, is_held_out)
        commit_json(path, asdict(record))
        return record

    def put_text(self, prompt: str) -> str:
        """The entry of a prompt."""
        key = self._key("text", ("text",), prompt)
        if not self.store.has(key):
            self._put(key, "text", prompt or "the empty prompt", text=self._encoders.text(prompt).bfloat16())
        return key

    def _make(self, name: str, number: int, is_held_out: bool) -> _Record:
        sizes, world = self._sizes, self._sizes.world
        character = held_out_character(number) if is_held_out else training_character(number)
        seed = sizes.seed * 100_003 + number + (_HELD_OUT_SEED if is_held_out else 0)
        source = make_source(character, seed, world.fps, world.seconds, world.side, world.side)
        rng = np.random.default_rng((_STREAM, seed))
        features_FLC = self._encoders.speech(source.sound(0, source.num_frames))
        clips = self._clips(name, source, rng, features_FLC, "validation" if is_held_out else "train")
        anchors = self._anchors(name, anchor_candidates(source, rng)) if self._with_anchors else ()
        shape = (features_FLC.shape[1], features_FLC.shape[2])
        return _Record(source=CachedSource(id=name, anchors=anchors), clips=clips, audio_shape=shape)

    def _clips(
        self, name: str, source: Source, rng: np.random.Generator, features_FLC: Tensor, split: Any
    ) -> tuple[CachedClip, ...]:
        """As many stretches as fit, one behind the other from a random frame on, each encoded from its own start."""
        world, num_frames = self._sizes.world, pixel_frames_for(self._clip_latents)
        num_clips = source.num_frames // num_frames
        if num_clips == 0:
            raise DatasetError(f"Clips of {num_frames} frames do not fit into videos of {source.num_frames} frames.")
        offset = int(rng.integers(source.num_frames - num_clips * num_frames + 1))
        firsts = [offset + idx * num_frames for idx in range(num_clips)]
        video_THWC = source.frames(offset, num_clips * num_frames)
        latents_BCTHW = self._encoders.pictures(video_THWC.unflatten(0, (num_clips, num_frames)))
        clips = []
        for idx, first in enumerate(firsts):
            made_from = f"{name} clip {idx}"
            clips.append(CachedClip(
                id=f"{name}/{idx}", source=name, start=first / world.fps, height=world.side, width=world.side,
                num_latents=self._clip_latents,
                latents=self._put(self._key("clip", ("vae",), name, idx), "clip", made_from,
                                  latents=latents_BCTHW[idx]),
                start_video=None, text=self.put_text(source.prompt(first, num_frames)),
                audio=self._put(self._key("audio", ("audio",), name, idx), "audio", made_from,
                                audio=features_FLC[first : first + num_frames]),
                clip_vision=None, split=split,
            ))  # fmt: skip
        return tuple(clips)

    def _anchors(self, name: str, candidates: list[Candidate]) -> tuple[CachedAnchor, ...]:
        """Pictures of one size are encoded together."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for idx, candidate in enumerate(candidates):
            by_size.setdefault(tuple(candidate.anchor.image_HWC.shape[:2]), []).append(idx)
        latents: dict[int, Tensor] = {}
        for chosen in by_size.values():
            pictures_BTHWC = torch.stack([candidates[idx].anchor.image_HWC for idx in chosen])[:, None]
            latents |= dict(zip(chosen, self._encoders.pictures(pictures_BTHWC), strict=True))
        return tuple(
            self._anchor(name, idx, candidate.anchor, candidate.time, latents[idx])
            for idx, candidate in enumerate(candidates)
        )

    def _anchor(self, name: str, idx: int, anchor: Anchor, time: float | None, latent_C1HW: Tensor) -> CachedAnchor:
        key = self._key("anchor", ("vae",), name, idx)
        self._put(key, "anchor", f"{name} {anchor.label}", latent=latent_C1HW)
        stride = spatial_stride(VAE_CHANNELS)
        height, width = (side // stride for side in anchor.image_HWC.shape[:2])
        return CachedAnchor(
            kind=anchor.kind, label=anchor.label, time=time, key=key, latent_size=(height, width)
        )

    def _put(self, key: str, kind: str, made_from: str, **tensors: Tensor) -> str:
        self.store.put(key, {name: tensor.contiguous() for name, tensor in tensors.items()}, kind, made_from)
        return key

    def _key(self, kind: str, roles: tuple[str, ...], *parts: object) -> str:
        fingerprints = tuple(self._encoders.fingerprints[role] for role in roles)
        recipe = () if kind == "text" else self._recipe
        text = repr((kind, recipe, fingerprints, *parts))
        return f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def _entries(record: _Record) -> list[str]:
    keys = [anchor.key for anchor in record.source.anchors]
    for clip in record.clips:
        keys += [key for key in (clip.latents, clip.text, clip.audio) if key is not None]
    return keys


def _clip_latents(sizes: DemoSizes, dataset: str) -> int:
    """Length of the clips that each video is cut into: windows cut mid-stream take one latent more."""
    return _window_latents(sizes, dataset) + int(dataset == WINDOWS)


def frames_of_window(sizes: DemoSizes, dataset: str) -> int:
    """Pixel frames of the windows that are trained on."""
    return pixel_frames_for(_window_latents(sizes, dataset))


def _window_latents(sizes: DemoSizes, dataset: str) -> int:
    return {BASE: sizes.stages.base_latents, WINDOWS: sizes.world.window_latents, PICTURES: 1}[dataset]


def _sizes_of(sizes: DemoSizes, dataset: str) -> DemoSizes:
    """Pictures are taken a second apart, from more videos."""
    if dataset != PICTURES:
        return sizes
    return replace(sizes, world=replace(sizes.world, fps=1.0, num_sources=sizes.stages.picture_videos))
