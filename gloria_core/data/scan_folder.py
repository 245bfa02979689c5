"""A plain folder of videos enters, a manifest leaves; the same folder always gives the same one.

    anna/interview.mp4   anna/interview.txt          a video and its caption
    anna/anchors/front.png   anna/anchors/happy_2.jpg   labelled images for all videos of that folder

Each folder with videos is one character. Clips are cut one behind the other; global candidates are spread evenly.
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..conditioning.anchors import LABELS
from ..errors import DatasetError
from ..shapes import TEMPORAL_STRIDE
from .manifest import MAX_GLOBAL_CANDIDATES, Manifest, ManifestAnchor, ManifestClip, ManifestSource, inside
from .read_clip import probe_video

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
ANCHORS_FOLDER = "anchors"
# The paper's 5 s and 16 frames more, so that a 5 s window can also be cut mid-stream.
DEFAULT_CLIP_FRAMES = 137
MIN_CLIP_FRAMES = 17
# Containers round the end of a video: what is this close to a whole frame is one.
_CLOCK_FRAMES = 0.05
_LABEL = re.compile(r"[a-z]+")
_KIND_OF_LABEL = {label: kind for kind, labels in LABELS.items() for label in labels}


@dataclass(frozen=True)
class ScanOptions:
    """How clips are cut.

    Args:
        clip_frames: 4n + 1.
        hold_out_every: every so many clips one is kept for validation, from twice as many clips on; 0: none.
    """

    fps: float = 24.0
    clip_frames: int = DEFAULT_CLIP_FRAMES
    hold_out_every: int = 10


def scan_folder(folder: Path, options: ScanOptions | None = None) -> Manifest:
    """Describe the videos of `folder` and of its subfolders.

    Raises:
        DatasetError: No videos, one that cannot be read, or anchor images whose names start with no label.
    """
    options = options or ScanOptions()
    if options.clip_frames < MIN_CLIP_FRAMES or (options.clip_frames - 1) % TEMPORAL_STRIDE:
        raise DatasetError(f"Clips of {options.clip_frames} frames: expected 4n + 1, at least {MIN_CLIP_FRAMES}.")
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Check the path.")
    videos = sorted(path for path in folder.rglob("*") if _is_video(folder, path))
    if not videos:
        raise DatasetError(
            f"There are no videos in {folder} ({', '.join(sorted(VIDEO_SUFFIXES))}). Put at least one there."
        )
    sources, problems = [], []
    for video in videos:
        try:
            source = _source(folder, video, options)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if source is None:
            logger.warning("'%s' is shorter than %d frames and is left out", video.name, MIN_CLIP_FRAMES)
        else:
            sources.append(source)
    if problems:
        raise DatasetError("\n".join(dict.fromkeys(problems)))
    if not sources:
        raise DatasetError(f"Every video in {folder} is shorter than {MIN_CLIP_FRAMES} frames at {options.fps} fps.")
    return _hold_out(Manifest(fps=options.fps, sources=tuple(sources)), options.hold_out_every)


def _is_video(folder: Path, path: Path) -> bool:
    """Hidden files and folders are other programs' (`._anna.mp4` holds no video)."""
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not is_hidden and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _source(folder: Path, video: Path, options: ScanOptions) -> ManifestSource | None:
    name = video.relative_to(folder).as_posix()
    seconds = probe_video(inside(folder, name)).seconds
    clips = _clips(seconds, options)
    if not clips:
        return None
    return ManifestSource(
        id=name,
        video=name,
        caption=_caption(video.with_suffix(".txt")),
        clips=clips,
        anchors=_global_candidates(seconds) + _anchor_images(folder, video.parent / ANCHORS_FOLDER),
    )


def _caption(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The caption '{path.name}' cannot be read ({error}). Save it as UTF-8 text.") from error


def _clips(seconds: float, options: ScanOptions) -> tuple[ManifestClip, ...]:
    """Stretches one behind the other; the last one ends with the video and may overlap the one before."""
    total = int(seconds * options.fps + _CLOCK_FRAMES)
    length = min(options.clip_frames, (total - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
    if length < MIN_CLIP_FRAMES:
        return ()
    starts = list(range(0, total - length + 1, length))
    if total - (starts[-1] + length) >= length // 4:
        starts.append(total - length)
    return tuple(ManifestClip(start=start / options.fps, frames=length) for start in starts)


def _global_candidates(seconds: float) -> tuple[ManifestAnchor, ...]:
    times = [(idx + 0.5) * seconds / MAX_GLOBAL_CANDIDATES for idx in range(MAX_GLOBAL_CANDIDATES)]
    return tuple(ManifestAnchor(kind="global", label="global", time=round(time, 3)) for time in times)


def _anchor_images(folder: Path, images: Path) -> tuple[ManifestAnchor, ...]:
    anchors = []
    for path in sorted(images.glob("*")) if images.is_dir() else []:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        match = _LABEL.match(path.stem.lower())
        kind = _KIND_OF_LABEL.get(match[0]) if match else None
        if kind is None or match is None:
            raise DatasetError(
                f"The anchor image '{path.relative_to(folder)}' does not start with a label. Name it after what it "
                f"shows: {', '.join(_KIND_OF_LABEL)}; for example happy_2.png."
            )
        if kind != "global":
            anchors.append(ManifestAnchor(kind=kind, label=match[0], image=path.relative_to(folder).as_posix()))
    return tuple(anchors)


def _hold_out(manifest: Manifest, every: int) -> Manifest:
    """Every so many clips the next one is held out that shares no picture with another clip."""
    total = sum(len(source.clips) for source in manifest.sources)
    if not every or total < 2 * every:
        return manifest
    waiting, sources = 0, []
    for source in manifest.sources:
        clips = []
        for clip in source.clips:
            waiting += 1
            overlaps = any(_overlap(clip, other, manifest.fps) for other in source.clips if other is not clip)
            is_held_out = waiting >= every and not overlaps
            waiting = 0 if is_held_out else waiting
            clips.append(replace(clip, split="validation") if is_held_out else clip)
        sources.append(replace(source, clips=tuple(clips)))
    return replace(manifest, sources=tuple(sources))


def _overlap(clip: ManifestClip, other: ManifestClip, fps: float) -> bool:
    first, second = sorted((clip, other), key=lambda each: each.start)
    return round((second.start - first.start) * fps) < first.frames
