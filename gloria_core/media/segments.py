"""A film as short closed files: where each segment starts, and which of them are complete on disk."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..durable_files import commit_json, file_sha256, read_json
from ..shapes import pixel_frames_for

# About five seconds at 24 fps: what a crash can cost.
SEGMENT_LATENTS = 30
RECORD_VERSION = 1


class Segment(NamedTuple):
    """Half-open spans of latents and of pixel frames that go into one file."""

    index: int
    first_latent: int
    stop_latent: int
    first_frame: int
    stop_frame: int

    @property
    def num_frames(self) -> int:
        """Pixel frames in the file."""
        return self.stop_frame - self.first_frame

    @property
    def file_name(self) -> str:
        """Name of the finished file."""
        return f"seg_{self.index:05d}.mp4"


def plan_segments(num_latents: int, pixel_frames: int, segment_latents: int = SEGMENT_LATENTS) -> list[Segment]:
    """Segments that cover `pixel_frames` once.

    The first one takes latent 0 on top, so that borders never split one of the decoder's pairs of latents.
    """
    stops = [*range(1 + segment_latents, num_latents, segment_latents), num_latents]
    segments: list[Segment] = []
    first_latent = first_frame = 0
    for stop in stops:
        stop_frame = min(pixel_frames_for(stop), pixel_frames)
        if stop_frame > first_frame:
            segments.append(Segment(len(segments), first_latent, stop, first_frame, stop_frame))
        first_latent, first_frame = stop, stop_frame
    return segments


def contiguous_runs(segments: Iterable[Segment]) -> list[list[Segment]]:
    """Neighbours grouped together: each run is decoded in one go."""
    runs: list[list[Segment]] = []
    for segment in segments:
        if runs and runs[-1][-1].index + 1 == segment.index:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def write_record(folder: Path, segment: Segment, film_key: str) -> None:
    """Declare a finished segment complete; written last, so a file without a record does not count."""
    path = folder / segment.file_name
    commit_json(path.with_suffix(".json"), _claims(segment, film_key) | {"sha256": file_sha256(path)})


def is_complete(folder: Path, segment: Segment, film_key: str) -> bool:
    """Whether the segment's file and record are there, belong to this film and agree to the byte."""
    path = folder / segment.file_name
    record = read_json(path.with_suffix(".json"))
    digest = file_sha256(path)
    return digest is not None and record == _claims(segment, film_key) | {"sha256": digest}


def _claims(segment: Segment, film_key: str) -> dict[str, int | str]:
    return {"version": RECORD_VERSION, "film": film_key, "frames": segment.num_frames}
