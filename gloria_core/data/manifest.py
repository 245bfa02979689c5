"""`dataset.json` enters, a checked description of videos, clips and candidate anchors leaves (docs/training.md).

Everything is named by path inside the dataset's folder and by seconds, so a person can write and mend the file.
"""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ..conditioning.anchors import LABELS
from ..durable_files import commit_json, read_json
from ..errors import DatasetError, JournalError
from ..shapes import TEMPORAL_STRIDE
from ..strict import parse

MANIFEST_SCHEMA = 1
MANIFEST_NAME = "dataset.json"
MAX_GLOBAL_CANDIDATES = 10  # supplement 1.1
SILENT = "none"
Split = Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class ManifestClip:
    """One stretch of a source that samples are cut from."""

    start: float
    """Seconds from the start of the video."""
    frames: int
    """Length at the dataset's frame rate, 4n + 1."""
    caption: str | None = None
    """None: the source's."""
    split: Split | None = None
    """None: the source's."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf or self.frames < 1 or (self.frames - 1) % TEMPORAL_STRIDE:
            raise DatasetError(
                f"a clip starts at {self.start} s and has {self.frames} frames; expected a start from 0 and 4n + 1 "
                "frames, for example 137."
            )


@dataclass(frozen=True, kw_only=True)
class ManifestAnchor:
    """One candidate anchor: a moment of the video, or an image file."""

    kind: Literal["global", "viewpoint", "expression"]
    label: str
    time: float | None = None
    """Seconds from the start of the video."""
    image: str | None = None
    """Image file in the dataset folder."""
    box: tuple[int, int, int, int] | None = None
    """Crop of the frame or image: left, top, width, height in pixels."""

    def __post_init__(self) -> None:
        if self.label not in LABELS[self.kind]:
            raise DatasetError(f"a {self.kind} anchor has the label '{self.label}', expected {LABELS[self.kind]}.")
        if (self.time is None) == (self.image is None):
            raise DatasetError(f"the anchor '{self.label}' needs either time or image, not both and not neither.")
        if self.time is not None and not 0 <= self.time < math.inf:
            raise DatasetError(f"the anchor '{self.label}' is at {self.time} s, expected 0 or later.")
        if self.box is not None and (min(self.box[:2]) < 0 or min(self.box[2:]) < 1):
            raise DatasetError(f"the anchor '{self.label}' has the box {list(self.box)}, expected [x, y, w, h].")


@dataclass(frozen=True, kw_only=True)
class ManifestSource:
    """One video of one character."""

    id: str
    video: str
    audio: str | None = None
    """Sound file; None: the video's own track if it has one; "none": silent."""
    caption: str = ""
    split: Split = "train"
    clips: tuple[ManifestClip, ...]
    anchors: tuple[ManifestAnchor, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not self.clips:
            raise DatasetError(f"the source '{self.id}' of video '{self.video}' needs an id and at least one clip.")
        num_global = sum(anchor.kind == "global" for anchor in self.anchors)
        if num_global > MAX_GLOBAL_CANDIDATES:
            raise DatasetError(
                f"the source '{self.id}' has {num_global} global candidates, at most {MAX_GLOBAL_CANDIDATES} are used."
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole dataset."""

    schema: int = MANIFEST_SCHEMA
    fps: float = 24.0
    sources: tuple[ManifestSource, ...]

    def __post_init__(self) -> None:
        if self.schema != MANIFEST_SCHEMA:
            raise DatasetError(f"schema is {self.schema}, this version reads {MANIFEST_SCHEMA}.")
        if not 1 <= self.fps <= 120:
            raise DatasetError(f"fps is {self.fps}, expected 1 to 120 (Wan and Gloria: 24).")
        ids = [source.id for source in self.sources]
        if not ids or len(set(ids)) != len(ids):
            raise DatasetError("expected at least one source, and every id once.")


def read_manifest(folder: Path) -> Manifest:
    """The dataset described by `folder`/dataset.json, every file it names checked to be there.

    Raises:
        DatasetError: Naming the file and the field.
    """
    path = folder / MANIFEST_NAME
    content = read_json(path)
    if content is None:
        raise DatasetError(f"{path} is missing or not a JSON object. docs/training.md shows a complete one.")
    manifest = parse(Manifest, content, str(path), DatasetError)
    for source in manifest.sources:
        files = [source.video, source.audio, *(anchor.image for anchor in source.anchors)]
        for file in files:
            if file is not None and (file != SILENT or file != source.audio):
                inside(folder, file)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/dataset.json.

    Raises:
        DatasetError: The folder cannot be written.
    """
    try:
        commit_json(folder / MANIFEST_NAME, asdict(manifest))
    except JournalError as error:
        raise DatasetError(f"{folder / MANIFEST_NAME} could not be written: {error}") from error


def inside(folder: Path, file: str) -> Path:
    """The path of a file that a manifest names.

    Raises:
        DatasetError: It is not there, or leads out of the dataset's folder (links included).
    """
    if not file or "\0" in file:
        raise DatasetError(f"{file!r} is no file name.")
    real, root = os.path.realpath(folder / PurePosixPath(file)), os.path.realpath(folder)
    if not real.startswith(root + os.sep):
        raise DatasetError(f"'{file}' leads out of the dataset's folder {folder}. Put the file inside it.")
    if not Path(real).is_file():
        raise DatasetError(f"'{file}' is not in the dataset's folder {folder}.")
    return Path(real)
