"""Latents to a finished MP4: frames, color, sound, faults. Run: python -m pytest tests/core/test_write_video.py"""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

from gloria_core.errors import MediaError
from gloria_core.media.encode_video import VideoEncoder, VideoFormat, check_free_space, frame_rate
from gloria_core.media.mux_film import AudioTrack, audio_samples_for
from gloria_core.media.segments import plan_segments
from gloria_core.media.write_video import FilmSettings, write_film
from gloria_core.shapes import pixel_frames_for

sys.path.append(str(Path(__file__).parent))
from toy_decoder import random_latents, toy_decoder

RATE = 16000
SHORT = FilmSettings(segment_latents=4)


class ColorDecoder:
    """Each frame is one flat gray that tells its number; 16 levels apart, so that H.264 keeps them apart."""

    channels = 16
    group_latents = 1
    fingerprint = "gray"

    def __init__(self):
        self.num_pushed = 0

    def reset(self):
        self.is_first = True

    def push(self, latents_BCTHW):
        latent = int(latents_BCTHW[0, 0, 0, 0, 0])
        self.num_pushed += 1
        numbers = [latent * 4] if self.is_first else range(latent * 4 - 3, latent * 4 + 1)
        self.is_first = False
        height, width = (side * 8 for side in latents_BCTHW.shape[3:])
        return torch.stack([torch.full((height, width, 3), gray_of(number) / 255) for number in numbers])


def gray_of(frame_number):
    return 16 + frame_number * 16 % 224


def film_latents(num_latents):
    return torch.arange(num_latents).float().view(1, 1, -1, 1, 1).expand(1, 16, num_latents, 4, 6)


def sine(seconds, rate=RATE, channels=1):
    wave = torch.sin(torch.arange(int(seconds * rate)) * 2 * torch.pi * 440 / rate) * 0.5
    return AudioTrack.from_batch(wave.expand(1, channels, -1), rate)


def read_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_sound(path):
    """Decoded samples [channels, samples] and the rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], 1), stream.rate


def seconds_of(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return float(stream.duration * stream.time_base)


@pytest.mark.parametrize("pixel_frames", [1, 2, 16, 17, 18, 37, 45])
def test_film_holds_exactly_the_wanted_frames_in_order(tmp_path, pixel_frames):
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(12), SHORT, pixel_frames)
    frames = read_frames(path)
    assert len(frames) == pixel_frames
    for number, frame in enumerate(frames):
        assert abs(int(frame.mean()) - gray_of(number)) <= 3


def test_only_the_film_is_left_when_done(tmp_path):
    write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(12), SHORT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(("num_latents", "pixel_frames"), [(1, 1), (2, 3), (31, 121), (32, 122), (200, 797), (65, 200)])
def test_segments_cover_each_wanted_frame_once(num_latents, pixel_frames):
    segments = plan_segments(num_latents, pixel_frames)
    frames = [frame for segment in segments for frame in range(segment.first_frame, segment.stop_frame)]
    assert frames == list(range(pixel_frames))
    for segment in segments[1:]:
        assert segment.first_frame == pixel_frames_for(segment.first_latent)
        assert segment.first_latent % 2 == 1


@pytest.mark.parametrize("fps", [24, 25, 12.5, 23.976, 29.97, 60])
def test_rate_is_exact_and_sound_as_long_as_the_picture(tmp_path, fps):
    rate = frame_rate(fps)
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(12), FilmSettings(rate), audio=sine(9))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        times = sorted(packet.pts * packet.time_base for packet in container.demux(video) if packet.pts is not None)
        assert video.average_rate == rate
        assert video.frames == 45
    assert times == [number / rate for number in range(45)]
    assert abs(seconds_of(path, "video") - 45 / rate) < 0.001
    assert abs(seconds_of(path, "audio") - 45 / rate) < 1 / rate


def test_ntsc_rates_are_recognised_and_others_kept():
    assert frame_rate(23.976) == Fraction(24000, 1001)
    assert frame_rate(29.97) == Fraction(30000, 1001)
    assert frame_rate(59.94) == Fraction(60000, 1001)
    assert frame_rate(24.0) == 24
    assert frame_rate(12.5) == Fraction(25, 2)
    with pytest.raises(MediaError, match="between 1 and 240"):
        frame_rate(0.5)


@pytest.mark.parametrize("seconds", [0.3, 20])
def test_short_sound_is_padded_with_silence_and_long_sound_is_cut(tmp_path, seconds):
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(13), FilmSettings(), audio=sine(seconds))
    samples, rate = read_sound(path)
    assert abs(samples.shape[1] / rate - 49 / 24) < 1 / 24
    loud = np.abs(samples[0]) > 0.05
    assert abs(loud.nonzero()[0][-1] / rate - min(seconds, 49 / 24)) < 1 / 24


def test_length_of_ten_minutes_of_sound_is_right_to_the_sample():
    assert audio_samples_for(14400, Fraction(24), 44100) == 44100 * 600
    assert audio_samples_for(14400, Fraction(24000, 1001), 48000) == 28828800


@pytest.mark.parametrize(("rate", "channels", "layout"), [(44100, 2, 2), (48000, 6, 2), (11111, 1, 1)])
def test_any_rate_and_layout_keeps_pitch_and_length(tmp_path, rate, channels, layout):
    sound = sine(3, rate, channels)
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(13), FilmSettings(), audio=sound)
    samples, out_rate = read_sound(path)
    assert samples.shape[0] == layout
    assert abs(samples.shape[1] / out_rate - 49 / 24) < 1 / 24
    assert np.abs(samples).max() <= 1
    spectrum = np.abs(np.fft.rfft(samples[0][:out_rate]))
    assert abs(int(spectrum.argmax()) - 440) <= 2


def test_center_of_5_1_reaches_both_sides(tmp_path):
    waveform = torch.zeros(1, 6, RATE * 2)
    waveform[:, 2] = sine(2).waveform_CN[0]
    track = AudioTrack.from_batch(waveform, RATE)
    samples, _ = read_sound(
        write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(9), FilmSettings(), audio=track)
    )
    assert samples[0].std() > 0.05
    assert np.allclose(samples[0], samples[1], atol=0.01)


def test_film_without_audio_has_no_sound_track(tmp_path):
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(2), FilmSettings())
    with av.open(str(path)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(2, 1, 10), "Expected one audio clip"),
        (torch.zeros(1, 4, 10), "4 channels"),
        (torch.zeros(1, 1, 0), "no samples"),
        (torch.full((1, 1, 10), float("nan")), "NaN"),
    ],
)
def test_unusable_audio_is_refused(waveform, message):
    with pytest.raises(MediaError, match=message):
        AudioTrack.from_batch(waveform, RATE)


def test_metadata_is_readable_as_comfyui_writes_it(tmp_path):
    metadata = {"prompt": {"1": {"text": "caf\u00e9"}}, "workflow": {"nodes": []}}
    path = write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(2), FilmSettings(), metadata=metadata)
    with av.open(str(path)) as container:
        assert {key: json.loads(container.metadata[key]) for key in metadata} == metadata


def test_saturated_colors_survive_bt709_and_are_tagged(tmp_path):
    colors = torch.tensor([[200, 30, 20], [20, 180, 40], [30, 40, 210]], dtype=torch.uint8)
    with VideoEncoder(tmp_path / "color.mp4", VideoFormat(32, 32, Fraction(24), 5)) as encoder:
        encoder.write(colors[:, None, None].expand(3, 32, 32, 3))
    with av.open(str(tmp_path / "color.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        for frame, color in zip(container.decode(video=0), colors, strict=True):
            rgb = frame.reformat(
                format="rgb24",
                src_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            ).to_ndarray()
            assert np.abs(rgb[16, 16].astype(int) - color.numpy()).max() <= 4


def test_gops_are_closed_and_at_most_a_second_long(tmp_path):
    with VideoEncoder(tmp_path / "gops.mp4", VideoFormat(64, 64, Fraction(24), 17)) as encoder:
        encoder.write(torch.rand(72, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    with av.open(str(tmp_path / "gops.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    assert 1 <= max(np.diff([*keys, 72])) <= 24
    for key in keys[1:]:
        assert all(packet.pts > packets[key].pts for packet in packets[key + 1 :])
        assert all(packet.pts < packets[key].pts for packet in packets[:key])


def test_equal_frames_make_equal_bytes_every_time(tmp_path):
    # Busy frames: x264's AVX-512 code gave other bytes for these in one of five encodes.
    generator = torch.Generator().manual_seed(0)
    frames_THWC = torch.rand(40, 8, 8, 3, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    seen = set()
    for idx in range(40):
        with VideoEncoder(tmp_path / f"{idx}.mp4", VideoFormat(64, 64, Fraction(24), 17)) as encoder:
            encoder.write(frames_THWC)
        seen.add((tmp_path / f"{idx}.mp4").read_bytes())
    assert len(seen) == 1


def test_odd_sides_and_bad_quality_are_refused():
    with pytest.raises(MediaError, match="even sides, got 33x32"):
        VideoFormat(33, 32, Fraction(24), 17)
    with pytest.raises(MediaError, match="crf"):
        VideoFormat(32, 32, Fraction(24), 52)


def test_more_frames_than_the_latents_hold_are_refused_before_decoding(tmp_path):
    decoder = ColorDecoder()
    with pytest.raises(MediaError, match="decode to 5 frames, cannot keep 6"):
        write_film(tmp_path / "film.mp4", decoder, film_latents(2), FilmSettings(), pixel_frames=6)
    assert decoder.num_pushed == 0


def test_nan_in_the_last_latent_is_found_before_anything_is_decoded(tmp_path):
    decoder, latents = ColorDecoder(), film_latents(40).clone()
    latents[0, 0, 39, 0, 0] = float("nan")
    with pytest.raises(MediaError, match="Latent frame 39 of 40"):
        write_film(tmp_path / "film.mp4", decoder, latents, FilmSettings())
    assert decoder.num_pushed == 0
    assert not any(tmp_path.iterdir())


def stop_after(num_frames):
    def report(done, total):
        if num_frames <= done < total:
            raise KeyboardInterrupt

    return report


def note_done(seen):
    return lambda done, total: seen.append(done)


def interrupted_film(tmp_path, num_latents=30):
    """Parts folder of a film stopped in its fifth segment."""
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(num_latents), SHORT, on_progress=stop_after(66))
    (parts,) = tmp_path.glob("*.parts")
    return parts


def test_cancelled_film_leaves_complete_segments_and_no_other_file(tmp_path):
    parts = interrupted_film(tmp_path)
    names = sorted(entry.name for entry in parts.iterdir() if entry.name != "lock")
    assert names == [f"seg_{index:05d}.{kind}" for index in range(4) for kind in ("json", "mp4")]
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize("fault", ["none", "flip", "truncate", "no_record", "torn_record", "no_file"])
def test_next_run_redoes_only_what_is_missing_and_damaged(tmp_path, fault):
    parts = interrupted_film(tmp_path)
    video, record = parts / "seg_00001.mp4", parts / "seg_00001.json"
    if fault == "flip":
        data = bytearray(video.read_bytes())
        data[len(data) // 2] ^= 1
        video.write_bytes(data)
    elif fault == "truncate":
        video.write_bytes(video.read_bytes()[:-100])
    elif fault == "no_record":
        record.unlink()
    elif fault == "torn_record":
        record.write_text(record.read_text()[:20])
    elif fault == "no_file":
        video.unlink()
    decoder, seen = ColorDecoder(), []
    path = write_film(tmp_path / "film.mp4", decoder, film_latents(30), SHORT, on_progress=note_done(seen))
    expected = write_film(tmp_path / "whole.mp4", ColorDecoder(), film_latents(30), SHORT)
    assert seen[0] == (65 if fault == "none" else 49)
    # The 13 latents left, their warm-up from latent 0 on, and for a damaged segment its 4 and their warm-up.
    assert decoder.num_pushed == 30 + (0 if fault == "none" else 9)
    assert path.read_bytes() == expected.read_bytes()


def test_resumed_film_of_a_real_vae_equals_the_unbroken_one(tmp_path):
    decoder, latents = toy_decoder(width=2), random_latents(43, height=2, width=2)
    whole = write_film(tmp_path / "whole.mp4", decoder, latents, SHORT)
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "film.mp4", decoder, latents, SHORT, on_progress=stop_after(165))
    seen = []
    path = write_film(tmp_path / "film.mp4", decoder, latents, SHORT, on_progress=note_done(seen))
    assert seen[0] == 161
    assert path.read_bytes() == whole.read_bytes()


def test_parts_of_other_latents_or_settings_are_never_reused(tmp_path):
    interrupted_film(tmp_path)
    for latents, settings in (
        (film_latents(30) + 0.25, SHORT),
        (film_latents(30), FilmSettings(crf=18, segment_latents=4)),
        (film_latents(30), FilmSettings(Fraction(25), segment_latents=4)),
    ):
        seen = []
        write_film(tmp_path / "other.mp4", ColorDecoder(), latents, settings, on_progress=note_done(seen))
        assert seen[0] == 0


def test_second_process_on_the_same_film_is_refused(tmp_path):
    from filelock import FileLock

    parts = interrupted_film(tmp_path)
    with FileLock(str(parts / "lock")), pytest.raises(MediaError, match="Another process"):
        write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(30), SHORT)


def test_finished_film_of_the_same_name_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(30), SHORT, on_progress=stop_after(66))
    assert (tmp_path / "film.mp4").read_bytes() == b"old"
    write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(30), SHORT)
    assert len(read_frames(tmp_path / "film.mp4")) == 117


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("file", ["seg_00004.tmp.mp4", "film.tmp.mp4"])
def test_full_disk_names_the_bytes_and_keeps_finished_segments(tmp_path, file):
    parts = interrupted_film(tmp_path)
    (parts / file).symlink_to("/dev/full")
    with pytest.raises(MediaError, match=r"No space left.*bytes were needed, [\d,]+ are free"):
        write_film(tmp_path / "film.mp4", ColorDecoder(), film_latents(30), SHORT)
    assert (parts / "seg_00003.json").exists()
    assert not (tmp_path / "film.mp4").exists()
    (parts / file).unlink(missing_ok=True)
    seen = []
    write_film(
        tmp_path / "film.mp4",
        ColorDecoder(),
        film_latents(30),
        SHORT,
        on_progress=lambda done, total: seen.append(done),
    )
    assert seen[0] >= 65
    assert len(read_frames(tmp_path / "film.mp4")) == 117


def test_estimate_above_the_free_space_is_refused_with_both_numbers(tmp_path):
    needed = VideoFormat(2**20, 2**20, Fraction(24), 0).estimated_bytes(10**6)
    with pytest.raises(MediaError, match=rf"Not enough space.*{needed:,} bytes, [\d,]+ are free"):
        check_free_space(tmp_path, needed)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_read_only_folder_is_refused_before_decoding(tmp_path):
    script = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]}
from pathlib import Path
from test_write_video import *
import filelock
if os.getuid() == 0:
    os.setuid(65534)
decoder = ColorDecoder()
try:
    write_film(Path({str(tmp_path)!r}) / "sealed" / "film.mp4", decoder, film_latents(3), FilmSettings())
except MediaError as error:
    print(decoder.num_pushed, type(error).__name__, error)
"""
    (tmp_path / "sealed").mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o755)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("0 MediaError Cannot write"), result.stderr
    assert f"Make {tmp_path / 'sealed'} writable" in result.stdout


def test_killed_encoder_leaves_a_playable_file(tmp_path):
    script = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parents[2])]}
import torch
from fractions import Fraction
from pathlib import Path
from gloria_core.media.encode_video import VideoEncoder, VideoFormat
encoder = VideoEncoder(Path({str(tmp_path / "killed.mp4")!r}), VideoFormat(96, 64, Fraction(24), 20))
encoder.write(torch.rand(240, 64, 96, 3))
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert len(read_frames(tmp_path / "killed.mp4")) >= 168


def test_peak_memory_does_not_grow_with_length():
    peaks = []
    for num_latents in (31, 200):
        script = f"""
import sys, resource, tempfile
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]}
from pathlib import Path
from test_write_video import *
with tempfile.TemporaryDirectory() as folder:
    write_film(Path(folder) / "film.mp4", ColorDecoder(), film_latents({num_latents}), FilmSettings(),
               audio=sine(1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        peaks.append(int(output))
    assert peaks[1] < peaks[0] * 1.05
