"""Latents of any length in, one MP4 out: decode, encode in segments, join with the sound, publish.

A killed run leaves complete segments behind; the next run with the same inputs decodes only what is missing,
and its frames equal those of a run that was never interrupted.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from ..durable_files import publish_file
from ..errors import MediaError
from ..shapes import pixel_frames_for, spatial_stride
from .decode_latents import StreamingDecoder, check_latents, digest_latents, stream_frames
from .encode_video import VideoEncoder, VideoFormat, check_encoder, check_free_space, disk_errors
from .mux_film import AudioTrack, mux_film
from .segments import (
    SEGMENT_LATENTS,
    Segment,
    contiguous_runs,
    is_complete,
    plan_segments,
    write_record,
)

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FilmSettings:
    """How a film is written: exact frame rate, x264 quality (0 best, 51 smallest), latents per segment."""

    rate: Fraction = Fraction(24)
    crf: int = 17
    segment_latents: int = SEGMENT_LATENTS


def write_film(
    path: Path,
    decoder: StreamingDecoder,
    latents_BCTHW: Tensor,
    settings: FilmSettings,
    pixel_frames: int | None = None,
    audio: AudioTrack | None = None,
    metadata: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Decode all latents to `path` and return it; memory does not depend on the length.

    Args:
        pixel_frames: frames to keep; None keeps all that the latents decode to.
        audio: cut, or padded with silence, to the exact length of the picture.
        on_progress: called with (frames done, frames in all) between pieces; what it raises stops the run cleanly.
    """
    report = on_progress or _ignore_progress
    check_encoder()
    check_latents(latents_BCTHW, decoder.channels)
    total = _frames_to_keep(latents_BCTHW.shape[2], pixel_frames)
    stride = spatial_stride(decoder.channels)
    height, width = (side * stride for side in latents_BCTHW.shape[3:])
    video_format = VideoFormat(width, height, settings.rate, settings.crf)
    segments = plan_segments(latents_BCTHW.shape[2], total, settings.segment_latents)
    # The group size decides which kernels see which shapes, so it belongs to the film's identity.
    film_key = _film_key(decoder, digest_latents(latents_BCTHW), settings, total)
    parts = path.parent / f"gloria-{film_key[:16]}.parts"
    # Segments and the joined film exist side by side for a moment.
    needed = 2 * video_format.estimated_bytes(total)
    with disk_errors(path, needed):
        parts.mkdir(parents=True, exist_ok=True)
        with _locked(parts):
            missing = [segment for segment in segments if not is_complete(parts, segment, film_key)]
            check_free_space(parts, needed * len(missing) // len(segments))
            done = total - sum(segment.num_frames for segment in missing)
            if done:
                log.info("Found %d of %d frames of %s in %s.", done, total, path.name, parts)
            report(done, total)
            for run in contiguous_runs(missing):
                for segment in _write_run(run, parts, decoder, latents_BCTHW, video_format, done, total, report):
                    write_record(parts, segment, film_key)
                    done += segment.num_frames
            joined = parts / "film.tmp.mp4"
            files = [(parts / segment.file_name, segment.num_frames) for segment in segments]
            mux_film(files, joined, settings.rate, audio, metadata or {}, lambda: report(total, total))
            publish_file(joined, path)
    shutil.rmtree(parts)
    return path


def _ignore_progress(_done: int, _total: int) -> None:
    pass


def _frames_to_keep(num_latents: int, pixel_frames: int | None) -> int:
    available = pixel_frames_for(num_latents)
    if pixel_frames is None:
        return available
    if not 1 <= pixel_frames <= available:
        raise MediaError(f"{num_latents} latents decode to {available} frames, cannot keep {pixel_frames} of them.")
    return pixel_frames


def _film_key(decoder: StreamingDecoder, latents_digest: str, settings: FilmSettings, total: int) -> str:
    """SHA-256 of all that decides the frames on disk; segments of another key are never reused."""
    import av

    identity = {
        "latents": latents_digest,
        "decoder": decoder.fingerprint,
        "group_latents": decoder.group_latents,
        "rate": str(settings.rate),
        "crf": settings.crf,
        "segment_latents": settings.segment_latents,
        "frames": total,
        "av": av.__version__,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _locked(parts: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(str(parts / "lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise MediaError(f"Another process is writing this film in {parts}. Wait for it, or stop it.") from error
    try:
        yield
    finally:
        lock.release()


def _write_run(
    run: Sequence[Segment],
    parts: Path,
    decoder: StreamingDecoder,
    latents_BCTHW: Tensor,
    video_format: VideoFormat,
    done: int,
    total: int,
    on_progress: Progress,
) -> Iterator[Segment]:
    """Decode neighbouring segments in one go and yield each when its file is complete."""
    pieces = stream_frames(decoder, latents_BCTHW, run[0].first_latent, run[-1].stop_latent)
    left_over: Tensor | None = None
    for segment in run:
        temporary = parts / f"seg_{segment.index:05d}.tmp.mp4"
        try:
            with VideoEncoder(temporary, video_format) as encoder:
                while encoder.num_frames < segment.num_frames:
                    frames_THWC = next(pieces) if left_over is None else left_over
                    room = segment.num_frames - encoder.num_frames
                    encoder.write(frames_THWC[:room])
                    left_over = frames_THWC[room:] if frames_THWC.shape[0] > room else None
                    on_progress(done + encoder.num_frames, total)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        publish_file(temporary, parts / segment.file_name)
        done += segment.num_frames
        yield segment
