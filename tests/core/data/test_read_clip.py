"""Frames by time out of all kinds of files. Run: python -m pytest tests/core/data/test_read_clip.py"""

import random
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from toy_footage import shown, write_frames, write_video

from gloria_core.data import read_clip as module
from gloria_core.data.read_clip import check_sound, image_size, probe_video, read_clip, read_image, read_picture
from gloria_core.errors import DatasetError


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_variable_frame_rate_is_read_by_time(tmp_path, suffix):
    rng = random.Random(3)
    times = [0.0]
    while times[-1] < 3:
        times.append(round(times[-1] + rng.choice([0.02, 0.04, 0.1, 0.25]), 3))
    path = write_frames(tmp_path / f"v.{suffix}", times)
    for start, num_frames in ((0.0, 49), (0.7, 33), (1.9, 17)):
        frames = read_clip(path, start, num_frames, 24.0, 32, 32)
        moments = [start + idx / 24 for idx in range(num_frames)]
        assert shown(frames) == [max(k for k, time in enumerate(times) if time <= m + 2e-3) for m in moments]


CONTAINERS = [("avi", "ffv1"), ("mkv", "ffv1"), ("ts", "libx264rgb"), ("mov", "libx264rgb")]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_every_container_is_found_at_its_time(tmp_path, suffix, codec):
    path = write_frames(tmp_path / f"v.{suffix}", [k / 25 for k in range(75)], codec, Fraction(1, 25))
    assert probe_video(path).seconds == pytest.approx(3, abs=0.05)
    expected = [int((1.2 + idx / 24 + 2e-3) * 25) for idx in range(33)]
    assert shown(read_clip(path, 1.2, 33, 24.0, 64, 64)) == expected


def test_a_video_that_starts_late_counts_from_its_first_picture(tmp_path):
    path = write_frames(tmp_path / "v.mkv", [0.5 + k / 25 for k in range(50)])
    info = probe_video(path)
    assert (info.start, info.seconds) == (pytest.approx(0.5, abs=2e-3), pytest.approx(2, abs=5e-3))
    assert shown(read_clip(path, 1.0, 5, 25.0, 32, 32)) == [25, 26, 27, 28, 29]


def test_a_clip_may_end_with_the_last_picture_but_not_later(tmp_path):
    path = write_frames(tmp_path / "v.mp4", [k / 25 for k in range(50)], time_base=Fraction(1, 25))
    assert shown(read_clip(path, 0.0, 50, 25.0, 32, 32)) == list(range(50))
    with pytest.raises(DatasetError, match=r"'v\.mp4' ends at 2\.00 s and shows nothing at 2\.00 s"):
        read_clip(path, 0.0, 51, 25.0, 32, 32)


def test_only_shown_pictures_are_converted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", seconds=1.9, fps=60, sound=False)
    converted = []
    real = module._picture
    monkeypatch.setattr(module, "_picture", lambda frame: converted.append(frame.pts) or real(frame))
    read_clip(path, 0.5, 25, 24.0, 32, 32)
    assert len(converted) == len(set(converted)) == 25
    converted.clear()
    slow = write_frames(tmp_path / "slow.mp4", [k / 5 for k in range(10)])
    read_clip(slow, 0.0, 41, 24.0, 32, 32)
    assert len(converted) == 9


def rotated(path, matrix):
    """The same MP4 with another display matrix: the nine numbers at the end of the video's track header."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    header = data.index(b"tkhd")
    place = data.index(identity, header)
    assert place - header < 100
    path.write_bytes(data[:place] + struct.pack(">9i", *matrix) + data[place + 36 :])


@pytest.mark.parametrize(
    ("matrix", "top_row", "size"),
    [
        # x' = a x + c y, y' = b x + d y (ISO 14496-12): what was left comes on top, so left-bottom is the new top left.
        ((0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), ("green", "red"), (96, 64)),
        ((-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30), ("white", "green"), (64, 96)),
        ((0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30), ("blue", "white"), (96, 64)),
    ],
)
def test_phone_videos_stand_upright(tmp_path, matrix, top_row, size):
    colors = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "white": (255, 255, 255)}
    pixels = np.empty((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:] = colors["red"], colors["blue"]
    pixels[32:, :48], pixels[32:, 48:] = colors["green"], colors["white"]
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264rgb", rate=24, options={"crf": "0"})
        video.width, video.height, video.pix_fmt = 96, 64, "rgb24"
        for _ in range(24):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    rotated(path, matrix)
    info = probe_video(path)
    assert (info.height, info.width) == size
    picture = read_picture(path, 0.5)
    assert tuple(picture.shape[:2]) == size
    found = [tuple((picture[5, x] * 255).round().int().tolist()) for x in (5, -6)]
    assert found == [colors[name] for name in top_row]


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_a_cut_off_file_is_named(tmp_path, suffix, options):
    path = write_frames(tmp_path / f"v.{suffix}", [k / 25 for k in range(100)], options=options, size=128)
    assert probe_video(path).seconds == pytest.approx(4, abs=0.05)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=rf"'v\.{suffix}' is (cut off|not a readable video)"):
        probe_video(path)


def test_an_mp4_without_its_index_and_an_empty_file_are_named(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"'v\.mp4' is not a readable video"):
        probe_video(path)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"'v\.mp4' is not a readable video"):
        read_clip(path, 0.0, 1, 24.0, 32, 32)


def test_sound_alone_is_no_video_and_a_silent_video_no_sound(tmp_path):
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        for piece in [*audio.encode(frame), *audio.encode()]:
            container.mux(piece)
    check_sound(path)
    with pytest.raises(DatasetError, match=r"'a\.m4a' has no video track"):
        probe_video(path)
    with pytest.raises(DatasetError, match=r"'v\.mp4' has no sound"):
        check_sound(write_video(tmp_path / "v.mp4", seconds=0.5, sound=False))
    path.write_text("x")
    with pytest.raises(DatasetError, match=r"'a\.m4a' is not a readable sound file"):
        check_sound(path)


def test_images_keep_transparency_and_stand_upright(tmp_path):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (4, 6, 4)
    torch.testing.assert_close(image[0, 0], torch.tensor([1, 0, 0, 128 / 255]))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: rotate by 90 degrees clockwise to see it
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (60, 40)
    assert read_image(tmp_path / "a.jpg").shape == (60, 40, 3)
    assert read_image(tmp_path / "a.jpg", (10, 20, 8, 5)).shape == (5, 8, 3)
    with pytest.raises(DatasetError, match=r"box \[35, 0, 8, 5\] reaches out of 'a\.jpg' \(40x60 pixels\)"):
        read_image(tmp_path / "a.jpg", (35, 0, 8, 5))


def huge_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(9000, 9000), (60000, 60000)])
def test_huge_images_are_refused_before_they_are_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(huge_png(*size))
    with pytest.raises(DatasetError, match=r"'a\.png'"):
        read_image(tmp_path / "a.png")


def test_what_is_no_8_bit_image_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"'a\.png' is not a readable image"):
        read_image(path)
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"'a\.png' is not a readable image"):
        read_image(path)
    Image.fromarray(np.full((40, 40), 900, np.uint16)).save(path)
    with pytest.raises(DatasetError, match="more than 8 bits"):
        read_image(path)
