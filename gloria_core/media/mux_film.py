"""Closed segments and speech in, one film out: packets are copied, audio is encoded once, nothing is decoded.

Tensor suffixes: B batch, C channels, N samples.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import MediaError
from .encode_video import NUM_B_FRAMES

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
FALLBACK_RATE = 48000
AAC_BIT_RATE = 192_000
# ITU-R BS.775 for left, right, center, LFE, left surround, right surround, scaled so that it cannot clip.
DOWNMIX_5_1 = torch.tensor([[1.0, 0.0, 0.7071, 0.0, 0.7071, 0.0], [0.0, 1.0, 0.7071, 0.0, 0.0, 0.7071]]) / 2.4142


@dataclass(frozen=True)
class AudioTrack:
    """Sound of a film: waveform_CN of 1, 2 or 6 channels in -1 to 1."""

    waveform_CN: Tensor
    sample_rate: int

    @classmethod
    def from_batch(cls, waveform_BCN: Tensor, sample_rate: int) -> "AudioTrack":
        """Check the waveform of ComfyUI's AUDIO."""
        shape = tuple(waveform_BCN.shape)
        if len(shape) != 3 or shape[0] != 1:
            raise MediaError(f"Expected one audio clip [1, channels, samples], got {shape}.")
        if shape[1] not in (1, 2, 6):
            raise MediaError(f"Audio with {shape[1]} channels cannot be used; give mono, stereo or 5.1.")
        if not shape[2]:
            raise MediaError("The audio clip holds no samples: load another file or disconnect it.")
        if sample_rate < 1:
            raise MediaError(f"The audio's sample rate is {sample_rate}; expected for example 48000.")
        if not torch.isfinite(waveform_BCN).all():
            raise MediaError("The audio holds NaN or infinite samples: decode or generate it again.")
        return cls(waveform_BCN[0].detach().cpu(), int(sample_rate))

    def seconds_from(self, num_samples: int) -> Iterator[Tensor]:
        """Mono or stereo pieces of up to a second, cut or padded with silence to `num_samples` in all."""
        waveform_CN = self.waveform_CN
        for start in range(0, num_samples, self.sample_rate):
            length = min(self.sample_rate, num_samples - start)
            piece_CN = waveform_CN[:, start : start + length].float().clamp(-1, 1)
            if piece_CN.shape[0] == 6:
                piece_CN = DOWNMIX_5_1 @ piece_CN
            yield torch.nn.functional.pad(piece_CN, (0, length - piece_CN.shape[1]))


def audio_samples_for(num_frames: int, rate: Fraction, sample_rate: int) -> int:
    """Samples that last exactly as long as the picture, to the nearest one: longer audio is cut, shorter padded."""
    return round(num_frames * sample_rate / rate)


def _timescale(rate: Fraction) -> int:
    """Ticks per second that make every frame a whole number of ticks, fine enough for the sound."""
    ticks = rate.numerator
    while ticks < 10_000:
        ticks *= 2
    return ticks


class _AudioEncoder:
    """Encodes a track as far as the picture has come, so that neither waits for the other in memory."""

    def __init__(self, container: "OutputContainer", track: AudioTrack, num_samples: int) -> None:
        import av

        self._rate = track.sample_rate if track.sample_rate in AAC_RATES else FALLBACK_RATE
        self._source_rate = track.sample_rate
        self._layout = "mono" if track.waveform_CN.shape[0] == 1 else "stereo"
        self._stream: AudioStream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        self._stream.bit_rate = AAC_BIT_RATE
        self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
        self._pieces = track.seconds_from(num_samples)
        self._position = 0
        self._is_done = False

    def until(self, seconds: float) -> Iterator["Packet"]:
        """Packets of the sound up to `seconds`."""
        import av

        while not self._is_done and self._position < seconds * self._source_rate:
            piece_CN = next(self._pieces, None)
            if piece_CN is None:
                yield from self.rest()
                return
            frame = av.AudioFrame.from_ndarray(piece_CN.contiguous().numpy(), format="fltp", layout=self._layout)
            frame.sample_rate = self._source_rate
            frame.pts = self._position
            frame.time_base = Fraction(1, self._source_rate)
            self._position += piece_CN.shape[1]
            for resampled in self._resampler.resample(frame):
                yield from self._stream.encode(resampled)

    def rest(self) -> Iterator["Packet"]:
        """Packets still held back by the resampler and the encoder."""
        if not self._is_done:
            self._is_done = True
            for resampled in self._resampler.resample(None):
                yield from self._stream.encode(resampled)
            yield from self._stream.encode(None)


def mux_film(
    segments: Sequence[tuple[Path, int]],
    output: Path,
    rate: Fraction,
    audio: AudioTrack | None,
    metadata: Mapping[str, Any],
    on_segment: Callable[[], None],
) -> None:
    """Join segments of (file, frames) into `output` and lay the audio under them.

    Args:
        metadata: key -> JSON value, readable by ComfyUI when the film is dropped on its canvas.
    """
    import av

    num_frames = sum(frames for _, frames in segments)
    # Without a timescale PyAV 14 takes 1/90000, in which the NTSC rates are not exact.
    options = {"movflags": "use_metadata_tags+faststart", "video_track_timescale": str(_timescale(rate))}
    with av.open(str(output), "w", format="mp4", options=options) as container:
        for key, value in metadata.items():
            container.metadata[key] = json.dumps(value)
        with av.open(str(segments[0][0])) as first:
            extradata = first.streams.video[0].codec_context.extradata
            # Opaque, because older PyAV otherwise opens an encoder whose headers replace the segment's.
            stream = container.add_stream_from_template(first.streams.video[0], opaque=True)
        sound = None
        if audio is not None:
            num_samples = audio_samples_for(num_frames, rate, audio.sample_rate)
            sound = _AudioEncoder(container, audio, num_samples)
        first_frame = 0
        for path, frames in segments:
            on_segment()
            for packet in _restamped_packets(path, frames, first_frame, rate, extradata):
                if sound is not None:
                    container.mux(list(sound.until(float(packet.dts / rate))))
                packet.stream = stream
                container.mux(packet)
            first_frame += frames
        if sound is not None:
            container.mux([*sound.until(float("inf")), *sound.rest()])


def _restamped_packets(
    path: Path, num_frames: int, first_frame: int, rate: Fraction, extradata: bytes | None
) -> Iterator["Packet"]:
    """A segment's packets, counted in frames of the film; refuses a segment that is not what its record says."""
    import av

    with av.open(str(path)) as source:
        video = source.streams.video[0]
        if video.codec_context.extradata != extradata:
            raise MediaError(f"{path} was encoded with other settings than the first segment. Delete {path.parent}.")
        count = 0
        first_pts = None
        for packet in source.demux(video):
            if packet.pts is None:
                continue
            # A fragmented file has no edit list, so its first frame starts late by the B-frames' delay.
            first_pts = packet.pts if first_pts is None else first_pts
            frame = (packet.pts - first_pts) * packet.time_base * rate
            packet.time_base = 1 / rate
            packet.pts = first_frame + round(frame)
            # Decoding order is one packet a frame; B-frames make it start this much ahead of the picture.
            packet.dts = first_frame + count - NUM_B_FRAMES
            packet.duration = 1
            if packet.dts > packet.pts:
                raise MediaError(f"{path} has a packet after its time of display. Delete {path.parent}.")
            count += 1
            yield packet
    if count != num_frames:
        raise MediaError(f"{path} holds {count} frames, its record says {num_frames}. Delete {path.parent}.")
