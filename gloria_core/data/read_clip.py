"""A video file and a moment enter, frames at the dataset's own rate leave, cropped to their bucket.

Frame k of a clip is the picture that the video shows at `start + k / fps`, whatever the file's own rate, constant or
not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..conditioning.anchors import resize_to_cover
from ..errors import DatasetError

# Time stamps are rounded to the container's clock, up to 1 ms in Matroska.
_CLOCK_SECONDS = 2e-3
MAX_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class VideoInfo:
    """What a file promises."""

    seconds: float
    height: int
    width: int
    has_audio: bool


def probe_video(path: Path) -> VideoInfo:
    """Length and size of a video, by its packets rather than by its header.

    Raises:
        DatasetError: Not a video, damaged, or too large.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        end = 0.0
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * stream.time_base))
        start = float((stream.start_time or 0) * stream.time_base)
        height, width = stream.height, stream.width
        if height * width > MAX_PIXELS:
            raise DatasetError(f"'{path.name}' has {width}x{height} pixels, at most {MAX_PIXELS} are read.")
        first = next(container_frames(path, 0.0), None)
        if first is None or end <= start:
            raise DatasetError(f"'{path.name}' has no readable picture.")
        upright = first[1]
        return VideoInfo(end - start, upright.shape[0], upright.shape[1], bool(container.streams.audio))


def read_clip(path: Path, start: float, num_frames: int, fps: float, height: int, width: int) -> Tensor:
    """Frames [T, H, W, 3], float32, 0 to 1.

    Raises:
        DatasetError: The video ends before the clip does.
    """
    frames: list[Tensor] = []
    shown: Tensor | None = None
    for time, picture in container_frames(path, start):
        # Everything up to this picture's time shows the one before.
        while shown is not None and len(frames) < num_frames and start + len(frames) / fps < time - _CLOCK_SECONDS:
            frames.append(shown)
        if len(frames) == num_frames:
            break
        shown = resize_to_cover(picture.float() / 255, height, width)
    missing = num_frames - len(frames)
    # The last picture is shown for its own duration; a clip may not go on for longer.
    if shown is None or missing > 2 + fps / 10:
        raise DatasetError(
            f"'{path.name}' ends {missing / fps:.2f} s before the clip of {num_frames} frames from {start:.2f} s does. "
            "Shorten the clip."
        )
    return torch.stack(frames + [shown] * missing)


def read_picture(path: Path, time: float, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """The picture [H, W, 3] shown at `time`, float32, 0 to 1, cropped to `box` (left, top, width, height)."""
    shown = None
    for shown_from, picture in container_frames(path, time):
        if shown is not None and shown_from > time + _CLOCK_SECONDS:
            break
        shown = picture
    if shown is None:
        raise DatasetError(f"'{path.name}' shows nothing at {time:.2f} s.")
    return crop(shown.float() / 255, box, path.name)


def read_image(path: Path, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """An image file as [H, W, 3], float32, 0 to 1, upright.

    Raises:
        DatasetError: Not an image, or too large.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"'{path.name}' has {image.width}x{image.height} pixels: scale it down first.")
            upright = ImageOps.exif_transpose(image).convert("RGB")
            pixels = torch.from_numpy(np.asarray(upright).copy())
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"'{path.name}' is not a readable image: {error}.") from error
    return crop(pixels.float() / 255, box, path.name)


def crop(image_HWC: Tensor, box: tuple[int, int, int, int] | None, name: str) -> Tensor:
    """The part of an image inside `box`."""
    if box is None:
        return image_HWC
    left, top, width, height = box
    part = image_HWC[top : top + height, left : left + width]
    if part.shape[:2] != (height, width):
        raise DatasetError(
            f"The box {list(box)} reaches out of '{name}' ({image_HWC.shape[1]}x{image_HWC.shape[0]} pixels)."
        )
    return part


def container_frames(path: Path, start: float) -> Iterator[tuple[float, Tensor]]:
    """(seconds, uint8 picture [H, W, 3]) from the picture shown at `start` on, or from a little before it."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        origin = stream.start_time or 0
        if start > 0:
            container.seek(origin + int(start / stream.time_base), stream=stream, backward=True)
        held: tuple[float, Any] | None = None
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            time = float((frame.pts - origin) * stream.time_base)
            if time <= start + _CLOCK_SECONDS:
                held = (time, frame)  # not converted: between the key frame and the start nothing is shown
                continue
            if held is not None:
                yield held[0], _picture(held[1])
                held = None
            yield time, _picture(frame)
        if held is not None:
            yield held[0], _picture(held[1])


def _picture(frame: Any) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return torch.rot90(pixels, turns) if turns else pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"'{path.name}' has no video track.")
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise DatasetError(f"'{path.name}' is not a readable video ({error}). Convert it again.") from error
