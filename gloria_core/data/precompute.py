"""A manifest and encoders enter, a cache on disk leaves: latents, text, speech and anchors, each computed once.

A second call computes what is missing or damaged. Keys are hashes of contents, so another video, caption, size or
encoder makes other entries, and what stayed the same is used again.

Legend: C latent channels, T latent frames, H W pixels or latent cells, L text tokens, D width.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..conditioning.anchors import MAX_SIDE, MIN_SIDE, Anchor, AnchorSizes, fit_anchor
from ..durable_files import file_sha256
from ..errors import DatasetError, GloriaError
from ..media.read_audio import SAMPLE_RATE, Speech, read_audio
from ..shapes import LatentSize, latent_frames_for, pixel_frames_for, pixel_multiple
from .buckets import bucket_size
from .cache import CacheStore
from .cache_index import CachedAnchor, CachedClip, CachedSource, CacheIndex, write_index
from .manifest import SILENT, Manifest, ManifestAnchor, ManifestClip, ManifestSource, inside
from .read_clip import (
    CLOCK_SECONDS,
    VideoInfo,
    box_size,
    check_sound,
    image_size,
    probe_video,
    read_clip,
    read_image,
    read_picture,
)

OnProgress = Callable[[int, int, str], None]
# The VAE looks back 29 latents: behind an image, gray is steady from here on.
_START_VIDEO_LATENTS = 30
_GRAY = 0.5
# Goes into every key: raise it when the same file and encoder would give another entry.
_RECIPE = 1
# A sound track may end this much before the pictures; behind more than that, silence is added.
_TOLERATED_SILENCE_SECONDS = 0.1
_MAX_SHOWN_PROBLEMS = 10


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
        DatasetError: Files that cannot be read or do not have what the manifest says (all are looked at first), an
            encoder of another kind of model, a disk that is too small, or a second build in the same folder.
    """
    store = CacheStore(folder)
    builder = _Builder(manifest, dataset, store, encoders, settings or CacheSettings())
    with store.building():
        index, tasks = builder.plan()
        store.require_free_bytes(sum(task.num_bytes for task in tasks))
        for done, task in enumerate(tasks):
            if on_progress is not None:
                on_progress(done, len(tasks), f"{task.kind} of {task.made_from}")
            store.put(task.key, task.make(), task.kind, task.made_from)
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
        self._heard: tuple[tuple[Path, float, float], Tensor] | None = None
        self._digests: dict[Path, str] = {}

    def plan(self) -> tuple[CacheIndex, list[_Task]]:
        """The index, without the shapes that only encoding tells, and the tasks that are not yet done."""
        empty = self._text("")
        sources: list[CachedSource] = []
        clips: list[CachedClip] = []
        problems: list[str] = []
        for source in self._manifest.sources:
            try:
                self._plan_source(source, sources, clips)
            except GloriaError as error:
                problems.append(str(error))
        if problems:
            more = len(problems) - _MAX_SHOWN_PROBLEMS
            shown = problems[:_MAX_SHOWN_PROBLEMS] + ([f"And {more} more."] if more > 0 else [])
            raise DatasetError("\n".join(shown))
        index = CacheIndex(
            fps=self._manifest.fps, latent_channels=self._encoders.latent_channels, empty_text=empty,
            encoders=dict(self._encoders.fingerprints), audio_shape=None, sources=tuple(sources), clips=tuple(clips),
        )  # fmt: skip
        return index, [task for task in self._tasks.values() if not self.store.has(task.key)]

    def _plan_source(self, source: ManifestSource, sources: list[CachedSource], clips: list[CachedClip]) -> None:
        video = inside(self._dataset, source.video)
        info = probe_video(video)
        self._check_source(source, info)
        digest = self._digest(video)
        size = bucket_size(info.height, info.width, self._settings.size, pixel_multiple(self._encoders.latent_channels))
        sources.append(CachedSource(id=source.id, anchors=self._anchors(source, video, digest, size)))
        for idx, clip in enumerate(source.clips):
            clips.append(self._clip(source, idx, clip, video, digest, size, info))

    def _check_source(self, source: ManifestSource, info: VideoInfo) -> None:
        _check_clips(source, info, self._manifest.fps)
        for anchor in source.anchors:
            image = None if anchor.image is None else inside(self._dataset, anchor.image)
            _check_anchor(source, anchor, info, image)
        if source.audio not in (None, SILENT):
            check_sound(inside(self._dataset, source.audio))

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
        fps, num_latents = self._manifest.fps, latent_frames_for(clip.frames)
        parts, num_bytes = (digest, clip.start, clip.frames, fps, *size), num_latents * self._latent_bytes(size)

        def frames(count: int) -> Tensor:
            return read_clip(video, clip.start, count, fps, height, width)

        def latents() -> dict[str, Tensor]:
            return {"latents": self._latents(frames(clip.frames), name)}

        def start_video() -> dict[str, Tensor]:
            length = pixel_frames_for(min(num_latents, _START_VIDEO_LATENTS))
            video_THWC = torch.full((length, height, width, 3), _GRAY)
            video_THWC[0] = frames(1)[0]
            return {"latents": self._latents(video_THWC, name)}

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
        own_track = source.audio is None
        path = video if own_track else inside(self._dataset, source.audio or "")
        # Sound and pictures of one file share its clock; a file of its own starts with the first picture.
        span = (info.start if own_track else 0.0, info.seconds)

        def make() -> dict[str, Tensor]:
            features_FLC = self._features(path, *span)
            first = round(clip.start * self._manifest.fps)
            frames = torch.arange(first, first + clip.frames).clamp(max=len(features_FLC) - 1)
            return {"audio": features_FLC[frames]}

        parts = (self._digest(path), *span, clip.start, clip.frames, self._manifest.fps)
        return self._task("audio", "audio", parts, name, make, clip.frames * 25 * 1024 * 2)

    def _features(self, path: Path, start: float, seconds: float) -> Tensor:
        """Speech features of a whole file: a clip's sound is heard in its context. One file is held at a time."""
        assert self._encoders.encode_speech is not None
        if self._heard is None or self._heard[0] != (path, start, seconds):
            self._heard = None  # hours of sound are gigabytes of features
            speech = align_speech(read_audio(path), start, seconds)
            self._heard = (path, start, seconds), self._encoders.encode_speech(speech, self._manifest.fps)
        return self._heard[1]

    def _latents(self, video_THWC: Tensor, name: str) -> Tensor:
        latents_CTHW = self._encoders.encode_video(video_THWC)
        expected = LatentSize.from_pixels(self._encoders.latent_channels, *video_THWC.shape[:3])
        if tuple(latents_CTHW.shape) != expected:
            raise DatasetError(
                f"The VAE made latents of shape {list(latents_CTHW.shape)} of '{name}', expected {list(expected)}: it "
                "is no Wan video VAE, or does not encode the whole clip. Use the VAE of the base."
            )
        return latents_CTHW.half()

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
            return {"latent": self._latents(fitted[None], name)}

        origin = self._digest(image) if image is not None else f"{digest}@{anchor.time}"
        parts = (origin, anchor.box, anchor.kind, sizes)
        name = f"{source.id} {anchor.label}" + ("" if anchor.time is None else f" at {anchor.time} s")
        key = self._task("anchor", "vae", parts, name, make, self._latent_bytes(size))
        return CachedAnchor(kind=anchor.kind, label=anchor.label, time=anchor.time, key=key, latent_size=(0, 0))

    def _task(
        self, kind: str, role: str, parts: tuple[object, ...], name: str, make: Callable[[], dict[str, Tensor]],
        num_bytes: int,
    ) -> str:  # fmt: skip
        text = repr((_RECIPE, kind, self._encoders.fingerprints[role], *parts))
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
        return LatentSize.from_pixels(self._encoders.latent_channels, 1, *size).num_bytes_fp32 // 2


def align_speech(speech: Speech, start: float, seconds: float) -> Speech:
    """The sound from the first picture on; silence where it starts after it or ends before the last.

    Args:
        start: when the first picture is shown, in seconds of the sound.
        seconds: how long the pictures are shown.
    """
    shift = round(start * SAMPLE_RATE)
    waveform_N = speech.waveform_N[shift:] if shift > 0 else pad(speech.waveform_N, (-shift, 0))
    missing = round(seconds * SAMPLE_RATE) - len(waveform_N)
    if missing > _TOLERATED_SILENCE_SECONDS * SAMPLE_RATE:
        waveform_N = pad(waveform_N, (0, missing))
    if len(waveform_N) == len(speech.waveform_N):
        return speech
    return Speech(waveform_N, Fraction(len(waveform_N), SAMPLE_RATE))


def _check_clips(source: ManifestSource, info: VideoInfo, fps: float) -> None:
    for clip in source.clips:
        last = clip.start + (clip.frames - 1) / fps
        if last > info.seconds - CLOCK_SECONDS:
            raise DatasetError(
                f"The source '{source.id}' has a clip of {clip.frames} frames from {clip.start:.2f} s, up to "
                f"{last + 1 / fps:.2f} s, but '{source.video}' lasts {info.seconds:.2f} s. Shorten the clip."
            )


def _check_anchor(source: ManifestSource, anchor: ManifestAnchor, info: VideoInfo, image: Path | None) -> None:
    if anchor.time is not None and anchor.time > info.seconds - CLOCK_SECONDS:
        raise DatasetError(
            f"The source '{source.id}' has an anchor '{anchor.label}' at {anchor.time} s, but '{source.video}' "
            f"lasts {info.seconds:.2f} s. Choose an earlier moment."
        )
    name, size = (source.video, (info.height, info.width)) if image is None else (image.name, image_size(image))
    height, width = box_size(anchor.box, size, name)
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        raise DatasetError(
            f"The anchor '{anchor.label}' of the source '{source.id}' has {width}x{height} pixels of '{name}', "
            f"expected {MIN_SIDE} to {MAX_SIDE} on each side."
        )
