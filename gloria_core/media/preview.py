"""Frames of one chunk and its piece of the sound enter, a small MP4 that a browser plays at once leaves.

Tensor suffixes: T time, H height, W width, C channels.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..durable_files import publish_file
from .encode_video import VideoEncoder, VideoFormat, disk_errors
from .mux_film import AudioTrack, audio_samples_for, mux_film

MAX_SIDE = 512
_CRF = 23
_FRAMES_AT_ONCE = 16


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Even height and width with a long side of at most `MAX_SIDE`, at the shape of the film."""
    scale = min(1.0, MAX_SIDE / max(height, width))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def sound_of_frames(track: AudioTrack, first_frame: int, stop_frame: int, rate: Fraction) -> AudioTrack | None:
    """The sound of these frames of the film, or None behind its end."""
    first, stop = (audio_samples_for(frame, rate, track.sample_rate) for frame in (first_frame, stop_frame))
    piece_CN = track.waveform_CN[:, first:stop]
    return replace(track, waveform_CN=piece_CN) if piece_CN.shape[1] else None


def write_preview(
    path: Path, pieces: Iterator[Tensor], size: tuple[int, int], rate: Fraction, sound: AudioTrack | None
) -> int:
    """Write frames_THWC (0 to 1, any size) as a film of `size`; nothing but a whole file ever has this name.

    Returns:
        The number of frames.
    """
    height, width = size
    video_format = VideoFormat(width, height, rate, _CRF)
    silent, joined = (path.with_name(f"{path.stem}.{part}.tmp.mp4") for part in ("silent", "joined"))
    with disk_errors(path, video_format.estimated_bytes(round(10 * rate))):
        try:
            with VideoEncoder(silent, video_format) as encoder:
                for frames_THWC in pieces:
                    for part_THWC in frames_THWC.split(_FRAMES_AT_ONCE):
                        encoder.write(_resize(part_THWC, size))
            mux_film([(silent, encoder.num_frames)], joined, rate, sound, {}, lambda: None)
            publish_file(joined, path)
        finally:
            silent.unlink(missing_ok=True)
            joined.unlink(missing_ok=True)
    return encoder.num_frames


def _resize(frames_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    if frames_THWC.shape[1:3] == size:
        return frames_THWC
    frames_TCHW = frames_THWC[..., :3].movedim(-1, 1).float()
    resized_TCHW = torch.nn.functional.interpolate(frames_TCHW, size, mode="bilinear", antialias=True)
    return resized_TCHW.movedim(1, -1)
