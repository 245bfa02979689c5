"""A manifest and encoders enter, a cache on disk leaves: latents, text, speech and anchors, each computed once.

A second call computes what is missing or damaged. Keys are hashes of contents, so another video, caption, size or
encoder makes other entries, and what stayed the same is used again.

Legend: C latent channels, T latent frames, H W pixels or latent cells, L text tokens, D width.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..conditioning.anchors import Anchor, AnchorSizes, fit_anchor
from ..durable_files import file_sha256, require_free_bytes
from ..errors import DatasetError
from ..media.read_audio import Speech, read_audio
from ..shapes import latent_frames_for, pixel_frames_for, pixel_multiple, spatial_stride
from .buckets import bucket_size
from .cache import CacheStore
from .cache_index import CachedAnchor, CachedClip, CachedSource, CacheIndex, write_index
from .manifest import SILENT, Manifest, ManifestAnchor, ManifestClip, ManifestSource, inside
from .read_clip import VideoInfo, probe_video, read_clip, read_image, read_picture

OnProgress = Callable[[int, int, str], None]
# The VAE looks back 29 latents: behind an image, gray is steady from here on.
_START_VIDEO_LATENTS = 30
_GRAY = 0.5


@dataclass(frozen=True)
class Encoders:
    """The encoders of one base, whoever wrote them.

    Args:
        encode_video: [T, H, W, 3] of 0 to 1 -> latents [C, t, h, w] in the model's normalised space, one continuous
            causal encode from the first frame on.
        encode_text: prompt -> [L, D].
        encode_speech: (speech, frames per second) -> features [F, layers, channels], or None for a silent dataset.
        encode_clip_vision: image [H, W, 3] -> [S, D] (Wan2.1-I2V), or None.
        fingerprints: what identifies each encoder's weights, by role.
    """

    latent_channels: int
    encode_video: Callable[[Tensor], Tensor]
    encode_text: Callable[[str], Tensor]
    fingerprints: Mapping[str, str]
    encode_speech: Callable[[Speech, float], Tensor] | None = None
    encode_clip_vision: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class CacheSettings:
    """How pictures are sized.

    Args:
        size: see `buckets.bucket_size`; one bucket per source, so that its global anchors fit all of its clips.
        image_channels: also encode each clip's first frame followed by gray, for bases with image channels.
    """

    size: str = "480p"
    image_channels: bool = False
    viewpoint_max_area: int = 512 * 512
    expression_max_area: int = 256 * 256


@dataclass(frozen=True)
class _Task:
    """One entry to be made."""

    key: str
    kind: str
    made_from: str
    make: Callable[[], dict[str, Tensor]]
    num_bytes: int


def build_cache(
    manifest: Manifest,
    dataset: Path,
    folder: Path,
    encoders: Encoders,
    settings: CacheSettings | None = None,
    on_progress: OnProgress | None = None,
) -> CacheIndex:
    """Bring every entry of the cache `folder` to disk, then its index.

    Args:
        dataset: folder that the manifest's files are in.
        on_progress: called with (done, total, what) before each entry; what it raises ends the build, which a later
            call goes on with.

    Raises:
        DatasetError: A file cannot be read or does not have what the manifest says; all are looked at first.
    """
    builder = _Builder(manifest, dataset, CacheStore(folder), encoders, settings or CacheSettings())
    index, tasks = builder.plan()
    folder.mkdir(parents=True, exist_ok=True)
    require_free_bytes(folder, sum(task.num_bytes for task in tasks), "this dataset cache")
    for done, task in enumerate(tasks):
        if on_progress is not None:
            on_progress(done, len(tasks), f"{task.kind} of {task.made_from}")
        builder.store.put(task.key, task.make(), task.kind, task.made_from)
    if on_progress is not None:
        on_progress(len(tasks), len(tasks), "done")
    index = builder.with_shapes(index)
    write_index(folder, index)
    return index


class _Builder:
    """One build: which entries there are, which are missing, and how each is made."""

    def __init__(
        self, manifest: Manifest, dataset: Path, store: CacheStore, encoders: Encoders, settings: CacheSettings
    ) -> None:
        self.store = store
        self._manifest = manifest
        self._dataset = dataset
        self._encoders = encoders
        self._settings = settings
        self._tasks: dict[str, _Task] = {}
        self._speech: dict[str, Tensor] = {}
        self._digests: dict[Path, str] = {}

    def plan(self) -> tuple[CacheIndex, list[_Task]]:
        """The index, without the shapes that only encoding tells, and the tasks that are not yet done."""
        empty = self._text("")
        sources, clips = [], []
        for source in self._manifest.sources:
            video = inside(self._dataset, source.video)
            info = probe_video(video)
            _check_times(source, info, self._manifest.fps)
            digest = self._digest(video)
            multiple = pixel_multiple(self._encoders.latent_channels)
            size = bucket_size(info.height, info.width, self._settings.size, multiple)
            sources.append(CachedSource(id=source.id, anchors=self._anchors(source, video, digest, size)))
            for idx, clip in enumerate(source.clips):
                clips.append(self._clip(source, idx, clip, video, digest, size, info))
        index = CacheIndex(
            fps=self._manifest.fps, latent_channels=self._encoders.latent_channels, empty_text=empty,
            encoders=dict(self._encoders.fingerprints), audio_shape=None, sources=tuple(sources), clips=tuple(clips),
        )  # fmt: skip
        return index, [task for task in self._tasks.values() if not self.store.has(task.key)]

    def with_shapes(self, index: CacheIndex) -> CacheIndex:
        """The index with what only the encoded entries tell."""
        sources = tuple(
            replace(source, anchors=tuple(replace(a, latent_size=self._latent_size(a.key)) for a in source.anchors))
            for source in index.sources
        )
        heard = next((clip.audio for clip in index.clips if clip.audio is not None), None)
        audio_shape = None if heard is None else tuple(self.store.load(heard)["audio"].shape[1:])
        return replace(index, sources=sources, audio_shape=audio_shape)

    def _latent_size(self, key: str) -> tuple[int, int]:
        height, width = self.store.load(key)["latent"].shape[2:]
        return height, width

    def _clip(
        self, source: ManifestSource, idx: int, clip: ManifestClip, video: Path, digest: str, size: tuple[int, int],
        info: VideoInfo,
    ) -> CachedClip:  # fmt: skip
        name, (height, width) = f"{source.id} clip {idx}", size
        fps, parts = self._manifest.fps, (digest, clip.start, clip.frames, *size)
        num_latents = latent_frames_for(clip.frames)
        num_bytes = num_latents * self._latent_bytes(size)

        def frames(count: int) -> Tensor:
            return read_clip(video, clip.start, count, fps, height, width)

        def latents() -> dict[str, Tensor]:
            return {"latents": self._encoders.encode_video(frames(clip.frames)).half()}

        def start_video() -> dict[str, Tensor]:
            length = pixel_frames_for(min(num_latents, _START_VIDEO_LATENTS))
            video_THWC = torch.full((length, height, width, 3), _GRAY)
            video_THWC[0] = frames(1)[0]
            return {"latents": self._encoders.encode_video(video_THWC).half()}

        def clip_vision() -> dict[str, Tensor]:
            assert self._encoders.encode_clip_vision is not None
            return {"clip_vision": self._encoders.encode_clip_vision(frames(1)[0]).half()}

        sees = self._encoders.encode_clip_vision is not None
        return CachedClip(
            id=f"{source.id}/{idx}", source=source.id, start=clip.start, height=height, width=width,
            num_latents=num_latents, latents=self._task("clip", "vae", parts, name, latents, num_bytes),
            start_video=self._task("start", "vae", parts, name, start_video, num_bytes)
            if self._settings.image_channels else None,
            text=self._text(source.caption if clip.caption is None else clip.caption),
            audio=self._audio(source, clip, video, info, name),
            clip_vision=self._task("vision", "clip_vision", parts, name, clip_vision, 1 << 20) if sees else None,
            split=clip.split or source.split,
        )  # fmt: skip

    def _text(self, prompt: str) -> str:
        def make() -> dict[str, Tensor]:
            return {"text": self._encoders.encode_text(prompt).to(torch.bfloat16)}

        return self._task("text", "text", (prompt,), prompt[:60] or "the empty prompt", make, 1 << 22)

    def _audio(
        self, source: ManifestSource, clip: ManifestClip, video: Path, info: VideoInfo, name: str
    ) -> str | None:
        is_silent = source.audio == SILENT or (source.audio is None and not info.has_audio)
        if self._encoders.encode_speech is None or is_silent:
            return None
        path = video if source.audio is None else inside(self._dataset, source.audio)

        def make() -> dict[str, Tensor]:
            features_FLC = self._features(path)
            first = round(clip.start * self._manifest.fps)
            frames = torch.arange(first, first + clip.frames).clamp(max=len(features_FLC) - 1)
            return {"audio": features_FLC[frames]}

        parts = (self._digest(path), clip.start, clip.frames, self._manifest.fps)
        return self._task("audio", "audio", parts, name, make, clip.frames * 25 * 1024 * 2)

    def _features(self, path: Path) -> Tensor:
        """Speech features of a whole file: a clip's sound is heard in its context. One file is held at a time."""
        if str(path) not in self._speech:
            assert self._encoders.encode_speech is not None
            self._speech = {str(path): self._encoders.encode_speech(read_audio(path), self._manifest.fps)}
        return self._speech[str(path)]

    def _anchors(
        self, source: ManifestSource, video: Path, digest: str, size: tuple[int, int]
    ) -> tuple[CachedAnchor, ...]:
        return tuple(self._anchor(source, anchor, video, digest, size) for anchor in source.anchors)

    def _anchor(
        self, source: ManifestSource, anchor: ManifestAnchor, video: Path, digest: str, size: tuple[int, int]
    ) -> CachedAnchor:
        sizes = AnchorSizes(*size, self._settings.viewpoint_max_area, self._settings.expression_max_area)
        image = None if anchor.image is None else inside(self._dataset, anchor.image)

        def make() -> dict[str, Tensor]:
            if image is not None:
                picture = read_image(image, anchor.box)
            else:
                picture = read_picture(video, anchor.time or 0.0, anchor.box)
            fitted = fit_anchor(Anchor(anchor.kind, anchor.label, picture), sizes, self._encoders.latent_channels)
            return {"latent": self._encoders.encode_video(fitted[None]).half()}

        origin = self._digest(image) if image is not None else f"{digest}@{anchor.time}"
        parts = (origin, anchor.box, anchor.kind, sizes)
        name = f"{source.id} {anchor.label}" + ("" if anchor.time is None else f" at {anchor.time} s")
        key = self._task("anchor", "vae", parts, name, make, self._latent_bytes(size))
        return CachedAnchor(kind=anchor.kind, label=anchor.label, time=anchor.time, key=key, latent_size=(0, 0))

    def _task(
        self, kind: str, role: str, parts: tuple[object, ...], name: str, make: Callable[[], dict[str, Tensor]],
        num_bytes: int,
    ) -> str:  # fmt: skip
        text = repr((kind, self._encoders.fingerprints[role], *parts))
        key = f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
        self._tasks.setdefault(key, _Task(key, kind, name, make, num_bytes))
        return key

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            digest = file_sha256(path)
            if digest is None:
                raise DatasetError(f"'{path}' cannot be read.")
            self._digests[path] = digest
        return self._digests[path]

    def _latent_bytes(self, size: tuple[int, int]) -> int:
        stride = spatial_stride(self._encoders.latent_channels)
        return self._encoders.latent_channels * (size[0] // stride) * (size[1] // stride) * 2


def _check_times(source: ManifestSource, info: VideoInfo, fps: float) -> None:
    for clip in source.clips:
        end = clip.start + clip.frames / fps
        if end > info.seconds + 1 / fps:
            raise DatasetError(
                f"The source '{source.id}' has a clip from {clip.start:.2f} to {end:.2f} s, but '{source.video}' lasts "
                f"{info.seconds:.2f} s. Shorten the clip."
            )
    for anchor in source.anchors:
        if anchor.time is not None and anchor.time > info.seconds:
            raise DatasetError(
                f"The source '{source.id}' has an anchor '{anchor.label}' at {anchor.time} s, but '{source.video}' "
                f"lasts {info.seconds:.2f} s."
            )
