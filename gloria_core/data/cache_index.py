"""A dataset cache as one JSON file: `cache.json` enters, checked records of sources, clips and anchors leave.

The tensors are beside it, one safetensors file per entry, named by the key that the records here refer to.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..durable_files import commit_json, read_json
from ..errors import DatasetError
from ..strict import parse

CACHE_SCHEMA = 1
INDEX_NAME = "cache.json"


@dataclass(frozen=True, kw_only=True)
class CachedAnchor:
    """One candidate anchor of a source."""

    kind: Literal["global", "viewpoint", "expression"]
    label: str
    time: float | None
    """Seconds from the start of the source video; None for an image from elsewhere, which is outside of every clip."""
    key: str
    """Entry with `latent` [C, 1, h, w]."""
    latent_size: tuple[int, int]
    """h and w of the latent."""


@dataclass(frozen=True, kw_only=True)
class CachedSource:
    """One source video: what its clips may take anchors from (superset anchoring, sec. 4.1)."""

    id: str
    anchors: tuple[CachedAnchor, ...]


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """One stretch of a source, encoded as one continuous stream from its first frame on.

    Latents [0, n) are a first chunk; [g, g + n) with g >= 1 are cut mid-stream, as a continuation is at inference.
    """

    id: str
    source: str
    start: float
    """Seconds from the start of the source video."""
    height: int
    width: int
    num_latents: int
    latents: str
    """Entry with `latents` [C, T, h, w] in the model's normalised space, float16."""
    start_video: str | None
    """Entry with `latents` [C, T', h, w] of the first frame followed by gray (T' up to 30); for bases with image
    channels."""
    text: str
    """Entry with `text` [L, D]."""
    audio: str | None
    """Entry with `audio` [F, layers, channels], one set per pixel frame of the clip; None for a clip without sound."""
    clip_vision: str | None
    """Entry with `clip_vision` [S, D] of the first frame (Wan2.1-I2V)."""
    split: Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """The whole cache."""

    schema: int = CACHE_SCHEMA
    fps: float
    latent_channels: int
    empty_text: str
    """Entry of the empty prompt, which stands for a dropped one."""
    encoders: dict[str, str]
    """Fingerprint of each encoder by role (`vae`, `text`, `audio`, `clip_vision`)."""
    audio_shape: tuple[int, int] | None
    """Layers and channels of the audio entries."""
    sources: tuple[CachedSource, ...]
    clips: tuple[CachedClip, ...]

    def __post_init__(self) -> None:
        if self.schema != CACHE_SCHEMA:
            raise DatasetError(f"schema is {self.schema}, this version reads {CACHE_SCHEMA}. Build the cache again.")
        known = {source.id for source in self.sources}
        lost = sorted({clip.source for clip in self.clips} - known)
        if lost:
            raise DatasetError(f"clips name the sources {', '.join(lost)}, which are not listed.")

    def source_of(self, clip: CachedClip) -> CachedSource:
        """The source that a clip was cut from."""
        return next(source for source in self.sources if source.id == clip.source)

    def keys(self) -> Iterator[str]:
        """Every entry the cache refers to; some more than once."""
        yield self.empty_text
        for source in self.sources:
            yield from (anchor.key for anchor in source.anchors)
        for clip in self.clips:
            yield from (
                key
                for key in (clip.latents, clip.start_video, clip.text, clip.audio, clip.clip_vision)
                if key is not None
            )


def read_index(folder: Path) -> CacheIndex:
    """The index of a cache folder.

    Raises:
        DatasetError: Absent, torn, or with fields that do not fit, each named.
    """
    content: dict[str, Any] | None = read_json(folder / INDEX_NAME)
    if content is None:
        raise DatasetError(f"{folder} has no readable {INDEX_NAME}: build the dataset cache first (or again).")
    return parse(CacheIndex, content, f"{folder / INDEX_NAME}", DatasetError)


def write_index(folder: Path, index: CacheIndex) -> None:
    """Commit the index, which makes the entries it names a cache."""
    commit_json(folder / INDEX_NAME, asdict(index))
