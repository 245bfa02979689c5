"""Speech from a file or a waveform of any rate, channel count and length -> 16 kHz mono and its exact length in frames.

Legend: C channels, N samples.
"""

import math
import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError

SAMPLE_RATE = 16_000
SPEECH_DBFS = -23.0
# Silence lies below both: an absolute floor, and a distance to the loudest moment of the recording.
SILENCE_DBFS = -60.0
SILENCE_BELOW_LOUDEST_DB = 40.0

_RMS_WINDOW = 1024
_RMS_HOP = 256
# Decoders may drop or add a codec frame at the end; more than this is a cut file.
_TOLERATED_LOSS_SECONDS = Fraction(1, 10)
# Sizes that programs write into a WAV header when they stream and do not know the length.
_UNKNOWN_WAV_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Speech:
    """Mono speech at `SAMPLE_RATE`.

    Args:
        waveform_N: float32 samples in -1..1, on the CPU.
        seconds: exact duration of the original, which resampling rounds up to a whole sample.
    """

    waveform_N: Tensor
    seconds: Fraction

    def num_frames(self, fps: float) -> int:
        """Video frames that cover the whole speech; the last one may be covered in part."""
        return math.ceil(self.seconds * exact_fps(fps))


def exact_fps(fps: float) -> Fraction:
    """`fps` as the fraction that is meant: 23.976 and 29.97 stay decimal, 24000/1001 is found again."""
    if not math.isfinite(fps) or fps <= 0:
        raise AudioError(f"The frame rate must be a positive number of frames per second, got {fps}.")
    return Fraction(fps).limit_denominator(1001)


def read_audio(path: str | Path) -> Speech:
    """Read the first audio stream of an audio or video file."""
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"There is no audio file at {path}. Check the path.")
    samples_CN, sample_rate = _read_sound_file(path) if _is_sound_file(path) else _read_container(path)
    if samples_CN.shape[-1] == 0:
        raise AudioError(f"{path} holds no audio samples: only a header arrived. Export or download it again.")
    return speech_from_waveform(torch.from_numpy(samples_CN), sample_rate)


def speech_from_waveform(waveform_CN: Tensor, sample_rate: int) -> Speech:
    """Mix to mono (mean of the channels) and resample.

    Args:
        waveform_CN: floating-point samples in -1..1.
        sample_rate: samples per second of `waveform_CN`.
    """
    import librosa

    _check_waveform(waveform_CN, sample_rate)
    mono_N = waveform_CN.detach().to("cpu", torch.float32).mean(dim=0).numpy()
    seconds = Fraction(len(mono_N), int(sample_rate))
    if sample_rate != SAMPLE_RATE:
        mono_N = librosa.resample(mono_N, orig_sr=int(sample_rate), target_sr=SAMPLE_RATE)
        # The resampler rounds a float ratio and can be a sample off; the count is exact here.
        mono_N = librosa.util.fix_length(mono_N, size=math.ceil(seconds * SAMPLE_RATE))
    return Speech(torch.from_numpy(np.array(mono_N, dtype=np.float32)), seconds)


def normalize_loudness(speech: Speech, target_dbfs: float = SPEECH_DBFS) -> Speech:
    """Scale so that the speech between the pauses has an RMS of `target_dbfs`; a silent track stays silent."""
    spoken = spoken_intervals(speech.waveform_N)
    if not spoken:
        return speech
    waveform_N = speech.waveform_N
    energy = sum(waveform_N[start:stop].double().square().sum().item() for start, stop in spoken)
    rms = math.sqrt(energy / sum(stop - start for start, stop in spoken))
    return replace(speech, waveform_N=waveform_N * (10 ** (target_dbfs / 20) / rms))


def spoken_intervals(waveform_N: Tensor) -> list[tuple[int, int]]:
    """Half-open spans of samples that are not silent, in order."""
    import librosa

    samples_N = waveform_N.numpy()
    loudest = librosa.feature.rms(y=samples_N, frame_length=_RMS_WINDOW, hop_length=_RMS_HOP).max()
    loudest_dbfs = 20 * math.log10(max(float(loudest), 1e-10))
    threshold_dbfs = max(SILENCE_DBFS, loudest_dbfs - SILENCE_BELOW_LOUDEST_DB)
    spans = librosa.effects.split(
        samples_N, top_db=-threshold_dbfs, ref=1.0, frame_length=_RMS_WINDOW, hop_length=_RMS_HOP
    )
    return [(int(start), int(stop)) for start, stop in spans]


def silent_intervals(waveform_N: Tensor) -> list[tuple[int, int]]:
    """Half-open spans of samples without speech, in order: the complement of `spoken_intervals`."""
    edges = [0, *(edge for span in spoken_intervals(waveform_N) for edge in span), len(waveform_N)]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def _check_waveform(waveform_CN: Tensor, sample_rate: int) -> None:
    shape = tuple(waveform_CN.shape)
    if waveform_CN.ndim != 2:
        raise AudioError(f"Expected a waveform of shape [channels, samples], got shape {shape}.")
    if not waveform_CN.is_floating_point():
        raise AudioError(f"Expected floating-point samples between -1 and 1, got {waveform_CN.dtype}.")
    if waveform_CN.numel() == 0:
        raise AudioError(f"The audio has no samples (shape {shape}). Connect audio that is longer than zero seconds.")
    if sample_rate != int(sample_rate) or sample_rate < 1:
        raise AudioError(f"The sample rate must be a whole number of samples per second, got {sample_rate}.")
    num_bad = waveform_CN.numel() - int(torch.isfinite(waveform_CN).sum())
    if num_bad:
        raise AudioError(
            f"{num_bad} of {waveform_CN.numel()} audio samples are NaN or infinite. "
            "The step that made this audio failed or the file is damaged: make it again."
        )


def _is_sound_file(path: Path) -> bool:
    """Whether libsndfile (behind librosa) knows the format; MP4, M4A, MKV and WebM go to PyAV."""
    import soundfile

    try:
        soundfile.info(str(path))
    except soundfile.LibsndfileError:
        return False
    return True


def _read_sound_file(path: Path) -> tuple[np.ndarray, int]:
    import librosa
    import soundfile

    with path.open("rb") as file:
        missing = _missing_wav_bytes(file, path.stat().st_size)
    if missing:
        raise AudioError(f"{path} is cut off: its header promises {missing} more bytes of sound. Copy it again.")
    try:
        # An open SoundFile, because librosa answers a damaged file given by its path with an older reader.
        samples, sample_rate = librosa.load(soundfile.SoundFile(str(path)), sr=None, mono=False)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is damaged or cut off ({error}). Export or download it again.") from error
    return np.atleast_2d(samples), int(sample_rate)


def _missing_wav_bytes(file: BinaryIO, file_size: int) -> int:
    """Bytes a RIFF/WAV header promises beyond the end of the file; libsndfile and FFmpeg both accept that silently."""
    if file.read(4) != b"RIFF":
        return 0
    file.seek(12)
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return 0 if size in _UNKNOWN_WAV_SIZES else max(0, file.tell() + size - file_size)
        file.seek(size + size % 2, 1)
    return 0


def _read_container(path: Path) -> tuple[np.ndarray, int]:
    """Decode with PyAV, silence put in front of a stream that starts late, so that sample 0 is time 0 of the file."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} has no audio stream. Choose a file with sound.")
            stream = container.streams.audio[0]
            sample_rate = stream.rate
            promised = _promised_seconds(container, stream)
            to_float = av.AudioResampler(format="fltp")
            pieces, start = [], None
            for frame in container.decode(stream):
                if start is None:
                    start = max(0, round((frame.pts or 0) * frame.time_base * sample_rate))
                pieces.extend(piece.to_ndarray() for piece in to_float.resample(frame))
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise AudioError(f"{path} cannot be read as audio or video ({error}). It may be cut off or damaged.") from error
    if not pieces:
        return np.zeros((1, 0), np.float32), sample_rate
    samples_CN = np.concatenate(pieces, axis=-1)
    if promised is not None:
        decoded = Fraction(samples_CN.shape[-1], sample_rate)
        if decoded < promised - _TOLERATED_LOSS_SECONDS:
            raise AudioError(
                f"{path} is cut off: its header promises {float(promised):.2f} s of sound, "
                f"{float(decoded):.2f} s could be decoded. Copy or download it again."
            )
        samples_CN = samples_CN[:, : math.ceil(promised * sample_rate)]  # the rest is the codec's own padding
    return np.pad(samples_CN, ((0, 0), (start, 0))), sample_rate


def _promised_seconds(container: Any, stream: Any) -> Fraction | None:
    """Length of the stream by its header, None where FFmpeg could only estimate it or gives that of the video."""
    if "mp4" in container.format.name and stream.duration:
        return stream.duration * stream.time_base
    if "matroska" in container.format.name and len(container.streams) == 1 and container.duration:
        return Fraction(container.duration - container.start_time, 1_000_000)
    return None
