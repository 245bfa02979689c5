"""A video file and a moment enter, frames at the dataset's own rate leave, cropped to their bucket.

Frame k of a clip is the picture that the video shows at `start + k / fps`, whatever the file's own rate, constant or
not. Times count from the video's first picture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..conditioning.anchors import resize_to_cover
from ..errors import DatasetError

# Time stamps are rounded to the container's clock, up to 1 ms in Matroska.
CLOCK_SECONDS = 2e-3
MAX_PIXELS = 8192 * 8192
# How far before a moment the search starts where a container's index leads behind it.
_SEEK_BACK_SECONDS = 10.0
# A header may count the end of a last packet that nobody wrote; more than this is a cut file.
_TOLERATED_LOSS_SECONDS = 0.5
# More than 8 bits per channel, of which the conversion to 8 would keep the wrong ones.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds."""

    seconds: float
    height: int
    """Upright, as the width."""
    width: int
    has_audio: bool
    start: float = 0.0
    """The first picture's time on the file's own clock, which its sound shares."""


class _Shown(NamedTuple):
    """A decoded frame and when it is shown."""

    time: float
    end: float
    frame: Any


def probe_video(path: Path) -> VideoInfo:
    """Length and size of a video, by its packets rather than by its header.

    Raises:
        DatasetError: Not a video, damaged, cut off, or too large.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        if stream.height * stream.width > MAX_PIXELS:
            raise DatasetError(f"'{path.name}' has {stream.width}x{stream.height} pixels, at most {MAX_PIXELS}.")
        start = _origin_seconds(stream)
        ends = {each.index: start for each in container.streams}
        for packet in container.demux():
            if packet.pts is not None and packet.stream.type in ("video", "audio"):
                duration = packet.duration * packet.time_base if packet.duration else _picture_seconds(packet.stream)
                end = float(packet.pts * packet.time_base + duration)
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
        _check_whole(path, container, ends)
        seconds, has_audio = ends[stream.index] - start, bool(container.streams.audio)
    first = next(_frames_from(path, 0.0), None)
    if first is None or seconds <= 0:
        raise DatasetError(f"'{path.name}' has no readable picture. Convert it again.")
    height, width = _picture(first.frame).shape[:2]
    return VideoInfo(seconds, height, width, has_audio, start)


def check_sound(path: Path) -> None:
    """Refuse a file that is named as a source's sound and holds none."""
    import av

    try:
        with av.open(str(path)) as container:
            if container.streams.audio:
                return
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{path.name}' is not a readable sound file ({error}). Convert it again.") from error
    raise DatasetError(f"'{path.name}' has no sound. Name another file, or write \"none\" for a silent video.")


def read_clip(path: Path, start: float, num_frames: int, fps: float, height: int, width: int) -> Tensor:
    """Frames [T, H, W, 3], float32, 0 to 1; beside them only one picture of the video is in memory.

    Raises:
        DatasetError: The video ends before the clip does, or cannot be decoded.
    """
    clip_THWC = torch.empty(num_frames, height, width, 3)
    last: Tensor | None = None
    for idx, picture in enumerate(pictures_at(path, [start + idx / fps for idx in range(num_frames)])):
        if picture is last:
            clip_THWC[idx] = clip_THWC[idx - 1]
            continue
        clip_THWC[idx] = resize_to_cover(picture.float() / 255, height, width)
        last = picture
    return clip_THWC


def read_picture(path: Path, time: float, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """The picture [H, W, 3] shown at `time`, float32, 0 to 1, cropped to `box` (left, top, width, height)."""
    (picture,) = pictures_at(path, [time])
    return crop(picture.float() / 255, box, path.name)


def pictures_at(path: Path, times: Sequence[float]) -> Iterator[Tensor]:
    """The uint8 picture [H, W, 3] shown at each of the rising `times`: the very same tensor while nothing changes.

    Raises:
        DatasetError: The video ends before the last time.
    """
    done, end = 0, 0.0
    shown: Any = None
    picture: Tensor | None = None
    for time, next_end, frame in _frames_from(path, times[0]):
        # Everything up to this picture's time shows the one before.
        while shown is not None and times[done] < time - CLOCK_SECONDS:
            picture = _picture(shown) if picture is None else picture
            yield picture
            done += 1
            if done == len(times):
                return
        shown, picture, end = frame, None, next_end
    # The last picture is shown for its own duration.
    while shown is not None and done < len(times) and times[done] < end - CLOCK_SECONDS:
        picture = _picture(shown) if picture is None else picture
        yield picture
        done += 1
    if done < len(times):
        raise DatasetError(
            f"'{path.name}' ends at {end:.2f} s and shows nothing at {times[done]:.2f} s. Shorten the clip, or convert "
            "the video again."
        )


def read_image(path: Path, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """An image file as [H, W, 3], or [H, W, 4] with transparency, float32, 0 to 1, upright.

    Raises:
        DatasetError: Not an image, too large, or more than 8 bits per channel.
    """
    import numpy as np

    with _opened_image(path) as image:
        has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        pixels = torch.from_numpy(np.asarray(image.convert("RGBA" if has_alpha else "RGB")).copy())
    return crop(pixels.float() / 255, box, path.name)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, upright; the errors of `read_image`, damage inside the picture excepted."""
    with _opened_image(path) as image:
        return image.height, image.width


def crop(image_HWC: Tensor, box: tuple[int, int, int, int] | None, name: str) -> Tensor:
    """The part of an image inside `box`."""
    if box is None:
        return image_HWC
    height, width = box_size(box, (image_HWC.shape[0], image_HWC.shape[1]), name)
    left, top = box[:2]
    return image_HWC[top : top + height, left : left + width]


def box_size(box: tuple[int, int, int, int] | None, size: tuple[int, int], name: str) -> tuple[int, int]:
    """Height and width of what `box` (left, top, width, height) leaves of a picture of `size` (height, width).

    Raises:
        DatasetError: The box reaches out of the picture.
    """
    if box is None:
        return size
    left, top, width, height = box
    if top + height > size[0] or left + width > size[1]:
        raise DatasetError(f"The box {list(box)} reaches out of '{name}' ({size[1]}x{size[0]} pixels).")
    return height, width


def _frames_from(path: Path, start: float) -> Iterator[_Shown]:
    """The frame shown at `start` and all behind it; what comes before is decoded, not converted."""
    held: _Shown | None = None
    for shown in _frames_near(path, start):
        if shown.time <= start + CLOCK_SECONDS:
            held = shown
            continue
        if held is not None:
            yield held
            held = None
        yield shown
    if held is not None:
        yield held


def _frames_near(path: Path, start: float) -> Iterator[_Shown]:
    """All frames from a key frame at or before `start` on."""
    for target in (start, start - _SEEK_BACK_SECONDS):
        frames = _decoded(path, target)
        first = next(frames, None)
        # Some containers find key frames by decoding time, which comes first, or have no index at all.
        if first is not None and (target <= 0 or first.time <= start + CLOCK_SECONDS):
            yield first
            yield from frames
            return
        frames.close()
    yield from _decoded(path, 0.0)


def _decoded(path: Path, target: float) -> Iterator[_Shown]:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        origin = _origin_seconds(stream)
        if target > 0:
            container.seek(int((origin + target) / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is not None:
                time = float(frame.pts * frame.time_base) - origin
                duration = frame.duration * frame.time_base if frame.duration else _picture_seconds(stream)
                yield _Shown(time, time + float(duration), frame)


def _origin_seconds(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _picture_seconds(stream: Any) -> Any:
    """How long one picture is shown where the file does not say."""
    return 1 / stream.average_rate if stream.type == "video" and stream.average_rate else 0


def _check_whole(path: Path, container: Any, ends: dict[int, float]) -> None:
    stream = container.streams.video[0]
    if "mp4" in container.format.name and stream.duration:
        promised, found = float(stream.duration * stream.time_base), ends[stream.index] - _origin_seconds(stream)
    elif "matroska" in container.format.name and container.duration:
        promised, found = container.duration / 1e6, max(ends.values()) - (container.start_time or 0) / 1e6
    else:
        return
    if found < promised - _TOLERATED_LOSS_SECONDS:
        raise DatasetError(
            f"'{path.name}' is cut off: its header promises {promised:.2f} s, {found:.2f} s are there. Copy it again."
        )


def _picture(frame: Any) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turns = round(frame.rotation / 90) % 4  # counterclockwise, as a phone's display matrix says
    return torch.rot90(pixels, turns).contiguous() if turns else pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"'{path.name}' has no video track. Remove it, or convert it again.")
            yield container
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{path.name}' is not a readable video ({error}). Convert it again.") from error


@contextmanager
def _opened_image(path: Path) -> Iterator[Any]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"'{path.name}' has {image.width}x{image.height} pixels: scale it down first.")
            if image.mode in _DEEP_MODES:
                raise DatasetError(f"'{path.name}' has more than 8 bits per channel: save it as an 8-bit RGB image.")
            yield ImageOps.exif_transpose(image)
    except DatasetError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"'{path.name}' is not a readable image ({error}). Export it again.") from error
