"""Reading speech. Run: python -m pytest tests/core/test_read_audio.py"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from gloria_core.errors import AudioError
from gloria_core.media.read_audio import (
    SAMPLE_RATE,
    SPEECH_DBFS,
    Speech,
    exact_fps,
    normalize_loudness,
    read_audio,
    silent_intervals,
    speech_from_waveform,
    spoken_intervals,
)

RATES = (7350, 8000, 16000, 22050, 44100, 48000)


def tone(seconds, sample_rate=SAMPLE_RATE, hertz=220.0, amplitude=0.5):
    t = torch.arange(int(seconds * sample_rate)) / sample_rate
    return amplitude * torch.sin(2 * math.pi * hertz * t)


def write_wav(path, samples_NC, sample_rate):
    import soundfile

    soundfile.write(path, samples_NC, sample_rate)
    return path


def write_container(path, samples_CN, sample_rate, codec="aac", pts=0):
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=sample_rate)
        stream.layout = "stereo" if len(samples_CN) == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(samples_CN, format="fltp", layout=stream.layout.name)
        frame.rate, frame.pts = sample_rate, pts
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("num_samples", [1, 147, 44100, 44101])
def test_length_is_exact_at_any_sample_rate(sample_rate, num_samples):
    speech = speech_from_waveform(torch.zeros(1, num_samples), sample_rate)
    assert speech.seconds == Fraction(num_samples, sample_rate)
    assert len(speech.waveform_N) == -(-num_samples * SAMPLE_RATE // sample_rate)
    assert speech.num_frames(24.0) == -(-num_samples * 24 // sample_rate)


@pytest.mark.parametrize("sample_rate", RATES)
def test_exactly_n_frames_of_samples_are_n_frames_and_one_sample_more_is_one_more(sample_rate):
    for frames in (1, 240, 14400):
        samples = Fraction(frames * sample_rate, 24)
        assert Speech(torch.zeros(1), Fraction(math.floor(samples), sample_rate)).num_frames(24.0) == frames
        assert Speech(torch.zeros(1), Fraction(math.floor(samples) + 1, sample_rate)).num_frames(24.0) == frames + 1


def test_common_frame_rates_are_the_fractions_that_are_meant():
    assert exact_fps(24.0) == 24
    assert exact_fps(24000 / 1001) == Fraction(24000, 1001)
    assert exact_fps(29.97) == Fraction(2997, 100)
    # 0.1 s at 30 fps: the float product is 3.0000000000000004-prone, the fraction is not.
    assert Speech(torch.zeros(1), Fraction(1, 10)).num_frames(30.0) == 3


@pytest.mark.parametrize("fps", [0.0, -24.0, math.nan, math.inf])
def test_impossible_frame_rate_is_refused(fps):
    with pytest.raises(AudioError, match="frame rate"):
        exact_fps(fps)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_the_tone(sample_rate):
    resampled = speech_from_waveform(tone(1.0, sample_rate)[None], sample_rate).waveform_N
    inner = slice(1600, -1600)  # the resampler's filter has no neighbours at the ends
    assert (resampled - tone(1.0))[inner].abs().max() < 2e-3


def test_channels_are_averaged():
    left, right = tone(0.5), tone(0.5, hertz=330.0)
    mono = speech_from_waveform(torch.stack([left, right]), SAMPLE_RATE).waveform_N
    torch.testing.assert_close(mono, (left + right) / 2)


def test_the_callers_waveform_is_not_changed():
    waveform = tone(0.5)[None]
    before = waveform.clone()
    speech = normalize_loudness(speech_from_waveform(waveform, SAMPLE_RATE))
    speech.waveform_N.zero_()
    assert torch.equal(waveform, before)


@pytest.mark.parametrize(
    ("waveform", "sample_rate", "message"),
    [
        (torch.zeros(1, 0), 16000, "no samples"),
        (torch.zeros(0, 100), 16000, "no samples"),
        (torch.zeros(100), 16000, r"\[channels, samples\]"),
        (torch.zeros(1, 100, dtype=torch.int16), 16000, "floating-point"),
        (torch.tensor([[0.0, math.nan]]), 16000, "1 of 2 audio samples are NaN"),
        (torch.tensor([[0.0, -math.inf]]), 16000, "1 of 2 audio samples are NaN"),
        (torch.zeros(1, 100), 0, "sample rate"),
        (torch.zeros(1, 100), 44100.5, "sample rate"),
    ],
)
def test_waveforms_that_cannot_be_encoded_are_refused(waveform, sample_rate, message):
    with pytest.raises(AudioError, match=message):
        speech_from_waveform(waveform, sample_rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_sound_files_are_read_in_stereo_at_their_rate(tmp_path, suffix):
    samples_CN = torch.stack([tone(1.0, 44100), torch.zeros(44100)])
    speech = read_audio(write_wav(tmp_path / f"a{suffix}", samples_CN.T.numpy(), 44100))
    assert speech.num_frames(24.0) == 24
    inner = slice(1600, -1600)
    assert (speech.waveform_N[:16000] - tone(1.0) / 2)[inner].abs().max() < 0.05


@pytest.mark.parametrize("suffix", [".mp4", ".m4a", ".mkv"])
def test_the_sound_of_video_containers_is_read(tmp_path, suffix):
    samples_CN = torch.stack([tone(1.0, 44100)] * 2).numpy()
    speech = read_audio(write_container(tmp_path / f"a{suffix}", samples_CN, 44100))
    assert abs(speech.seconds - 1) < Fraction(1, 20)
    inner = slice(1600, 14400)
    assert (speech.waveform_N[inner] - tone(1.0)[inner]).abs().max() < 0.05


def test_mp4_sound_has_its_declared_length_without_codec_padding(tmp_path):
    speech = read_audio(write_container(tmp_path / "a.mp4", tone(1.0, 44100)[None].numpy(), 44100))
    assert speech.seconds == 1


def test_sound_that_starts_late_in_a_video_keeps_its_place(tmp_path):
    path = write_container(tmp_path / "late.mkv", tone(1.0, 48000)[None].numpy(), 48000, "pcm_s16le", pts=24000)
    speech = read_audio(path)
    assert speech.seconds == Fraction(3, 2)
    assert speech.waveform_N[:7900].abs().max() < 1e-3  # the resampler rings a little
    assert speech.waveform_N[8000:8200].abs().max() > 0.4


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"no audio file at .*nothing\.wav"):
        read_audio(tmp_path / "nothing.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_cut_off_sound_file_is_refused(tmp_path, suffix):
    path = write_wav(tmp_path / f"a{suffix}", np.random.default_rng(0).normal(0, 0.1, 44100), 44100)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(AudioError, match="cut off"):
        read_audio(path)


def test_wav_with_the_unknown_length_of_a_stream_is_read(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(0.5).numpy(), SAMPLE_RATE)
    data = bytearray(path.read_bytes())
    start = data.index(b"data") + 4
    data[start : start + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert read_audio(path).num_frames(24.0) == 12


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_cut_off_video_container_is_refused(tmp_path, suffix, keep):
    path = write_container(tmp_path / f"a{suffix}", tone(3.0, 44100)[None].numpy(), 44100)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(AudioError, match=r"cut off|cannot be read"):
        read_audio(path)


def test_header_without_samples_is_refused(tmp_path):
    with pytest.raises(AudioError, match="only a header"):
        read_audio(write_wav(tmp_path / "a.wav", np.zeros(0), 16000))


def test_text_file_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("not a sound")
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio(tmp_path / "a.wav")


def test_video_without_sound_is_refused(tmp_path):
    import av

    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(AudioError, match="no audio stream"):
        read_audio(path)



@pytest.mark.parametrize("amplitude", [0.004, 0.1, 0.9])
def test_speech_between_the_pauses_reaches_the_target_level(amplitude):
    waveform = torch.cat([torch.zeros(16000), tone(1.0, amplitude=amplitude), torch.zeros(48000)])
    loud = normalize_loudness(speech_from_waveform(waveform[None], SAMPLE_RATE)).waveform_N
    level = 20 * math.log10(loud[16000:32000].square().mean().sqrt())
    assert abs(level - SPEECH_DBFS) < 0.6  # the spans are found in hops of 16 ms


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_silent_track_stays_silent(noise):
    waveform = noise * torch.randn(1, 32000, generator=torch.Generator().manual_seed(0))
    speech = speech_from_waveform(waveform, SAMPLE_RATE)
    assert torch.equal(normalize_loudness(speech).waveform_N, speech.waveform_N)
    assert spoken_intervals(speech.waveform_N) == []
    assert silent_intervals(speech.waveform_N) == [(0, 32000)]


def test_spoken_and_silent_intervals_cover_every_sample_once():
    waveform = torch.cat([torch.zeros(8000), tone(1.0), torch.zeros(16000), tone(0.5)])
    spans = sorted([*spoken_intervals(waveform), *silent_intervals(waveform)])
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(waveform)
    (first, second) = silent_intervals(waveform)
    for (start, stop), (true_start, true_stop) in zip((first, second), ((0, 8000), (24000, 40000)), strict=True):
        assert abs(start - true_start) <= 1024
        assert abs(stop - true_stop) <= 1024


def test_one_sample_is_speech_or_silence_without_an_error():
    assert spoken_intervals(torch.zeros(1)) == []
    assert normalize_loudness(speech_from_waveform(torch.ones(1, 1), 48000)).num_frames(24.0) == 1
