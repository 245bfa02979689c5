"""Frames in, one H.264 MP4 out that stays playable up to its last second if the process is killed while writing."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..errors import MediaError

ENCODER = "libx264"
# FFmpeg 7.1, the first with `hybrid_fragmented`; every PyAV wheel from 14.0 on has it.
OLDEST_LIBAVFORMAT = (61, 7, 100)
# x264 decides by the number of threads; a fixed one makes a segment the same on every machine size.
NUM_THREADS = 4
NUM_B_FRAMES = 2
# x264's AVX-512 code makes other bytes now and then from equal frames (macroblock tree, seen on Zen 4): an encode that
# goes on after a crash would not equal an unbroken one. Everything below AVX-512 repeats itself.
REPEATABLE_INSTRUCTIONS = "MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2"
# ITU-R BT.709 and limited range in FFmpeg's numbering.
BT709 = 1
LIMITED_RANGE = 1
# EFBIG stands for a file-size limit, EDQUOT for a quota.
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class VideoFormat:
    """What every segment of one film shares."""

    width: int
    height: int
    rate: Fraction
    crf: int

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 2:
            raise MediaError(
                f"H.264 in yuv420p needs even sides, got {self.width}x{self.height}. Scale or crop to even numbers."
            )
        if not 0 <= self.crf <= 51:
            raise MediaError(f"crf must lie between 0 (best) and 51 (smallest), got {self.crf}.")

    def estimated_bytes(self, num_frames: int) -> int:
        """Size of a typical film: 0.1 bit per pixel at crf 17, half of it for every 6 steps more."""
        return int(self.width * self.height * num_frames * 0.1 / 8 * 2 ** ((17 - self.crf) / 6))


def frame_rate(fps: float) -> Fraction:
    """The exact rate meant by a number: 23.976, 29.97 and 59.94 are the NTSC rates over 1001."""
    if not 1 <= fps <= 240:
        raise MediaError(f"fps must lie between 1 and 240, got {fps}.")
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if fps != round(fps) and abs(fps - ntsc) < 0.005:
        return ntsc
    return Fraction(fps).limit_denominator(1000)


def check_encoder() -> None:
    """Raise unless the installed PyAV can write crash-safe H.264."""
    import av

    if av.library_versions["libavformat"] < OLDEST_LIBAVFORMAT:
        raise MediaError(
            f"PyAV {av.__version__} is built against an FFmpeg older than 7.1, whose MP4 files are lost in a crash. "
            "Install a current wheel: pip install -U av"
        )
    if ENCODER not in av.codecs_available:
        raise MediaError(f"PyAV {av.__version__} has no {ENCODER} encoder. Install a wheel: pip install -U av")


@contextlib.contextmanager
def disk_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what is missing to write `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
            raise MediaError(
                f"No space left while writing {path}: about {needed_bytes:,} bytes were needed, {free:,} are free. "
                "Free some space and queue the same graph again: finished segments are kept."
            ) from error
        if error.errno in REFUSED:
            raise MediaError(f"Cannot write {path}: {error.strerror}. Make {path.parent} writable.") from error
        raise


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise if `folder` cannot take `needed_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise MediaError(
            f"Not enough space in {folder}: the film needs about {needed_bytes:,} bytes, {free:,} are free. "
            "Free some space, or raise crf."
        )


def frames_to_bytes(frames_THWC: Tensor) -> Tensor:
    """Frames 0 to 1 (RGB, alpha is dropped) or uint8 as uint8 RGB, rounded to nearest."""
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] not in (3, 4):
        raise MediaError(f"Expected RGB frames [frames, height, width, 3], got {tuple(frames_THWC.shape)}.")
    rgb = frames_THWC[..., :3]
    if rgb.dtype == torch.uint8:
        return rgb.contiguous()
    return rgb.float().clamp(0, 1).mul(255).round().to(torch.uint8).contiguous()


class VideoEncoder:
    """Writes frames to one MP4 of closed one-second GOPs; each GOP reaches the disk as soon as it is complete."""

    def __init__(self, path: Path, video_format: VideoFormat) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.num_frames = 0
        # One for all frames: setting the conversion up costs more than a small frame.
        self._reformatter = VideoReformatter()
        self._path = path
        self._format = video_format
        # Without flush_packets complete fragments wait in a buffer that a kill loses.
        options = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream(ENCODER, rate=video_format.rate)
        self._stream.width, self._stream.height = video_format.width, video_format.height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {
            "crf": str(video_format.crf),
            "preset": "medium",
            "threads": str(NUM_THREADS),
            "flags": "+cgop",
        }
        # Elsewhere x264 chooses for itself: naming instructions that a processor lacks would crash.
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            self._stream.options |= {"x264-params": f"asm={REPEATABLE_INSTRUCTIONS}"}
        context = self._stream.codec_context
        context.gop_size = max(1, round(video_format.rate))
        context.max_b_frames = NUM_B_FRAMES
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE

    def __enter__(self) -> "VideoEncoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
            self._container.close()
            return
        # The first error is the one to report: on a full disk closing fails too.
        with contextlib.suppress(OSError):
            self._container.close()

    def write(self, frames_THWC: Tensor) -> None:
        """Append frames of the format's size."""
        import av
        from av.video.reformatter import ColorRange, Colorspace

        expected = (self._format.height, self._format.width)
        if tuple(frames_THWC.shape[1:3]) != expected:
            raise MediaError(f"Frames of {self._path.name} must be {expected} high and wide, got {frames_THWC.shape}.")
        for image_HWC in frames_to_bytes(frames_THWC).cpu().numpy():
            rgb = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            # FFmpeg converts with BT.601 unless told otherwise, whatever the tags say.
            frame = self._reformatter.reformat(
                rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts = self.num_frames
            frame.time_base = 1 / self._format.rate
            self._container.mux(self._stream.encode(frame))
            self.num_frames += 1
