"""Footage of phones and of hours: seen as it is shown, in memory that does not grow.

Run: python -m pytest tests/core/extraction/test_odd_footage.py
"""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from long_footage import peak_bytes, write_long_footage
from toy_scene import toy_source, write_joints_file

from gloria_core.data.manifest import read_manifest
from gloria_core.data.read_clip import read_picture
from gloria_core.extraction.backends import Backends
from gloria_core.extraction.extract import extract
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.runners import LocalRunner
from gloria_core.extraction.settings import AnchorThresholds, ExtractionSettings, FootageThresholds

FACINGS = ((0.0, "front"), (1.2, "left"))
SETTINGS = ExtractionSettings(
    clip_frames=49, hold_out_every=0, footage=FootageThresholds(shots="none", min_side=64),
    anchors=AnchorThresholds(min_body_height=64, full_body_height=100),
)  # fmt: skip


def test_a_variable_rate_and_a_turned_phone_video_are_seen_as_they_are_shown(tmp_path):
    source = toy_source(0, facings=FACINGS, moods=((0.0, "sad"),), seconds=4.0, size=128)
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([0.02, 0.04, 0.07], size=200))
    times = times[times < 3.9] - times[0]
    poses_shown = source.picture(source.program.poses(times))
    path = tmp_path / "footage" / "phone.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"crf": "12", "preset": "veryfast"})
        video.width = video.height = 128
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for moment, picture in zip(times, (poses_shown * 255).round().byte().numpy(), strict=True):
            # Stored lying on its side; the display matrix stands it up again.
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture, 1)), format="rgb24")
            frame.pts, frame.time_base = round(moment * 1000), video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
    _turn(path, (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    write_joints_file(path.with_name("phone.joints.npz"), source)
    poses = PoseFiles()
    extract(path.parent, SETTINGS, Backends(body=poses, people=poses, faces=poses), LocalRunner())
    (found,) = read_manifest(path.parent).sources
    views = [anchor for anchor in found.anchors if anchor.kind == "viewpoint"]
    assert {view.label for view in views} == {"front", "left"}
    assert all(view.label == source.program.view_at(view.time) for view in views)
    for view in views:
        truth = source.picture(source.program.poses([view.time]))[0]
        left, top, width, height = view.box
        shown = read_picture(path, view.time, view.box)
        assert float((shown - truth[top : top + height, left : left + width]).abs().mean()) < 0.05


def _turn(path, matrix):
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    place = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:place] + struct.pack(">9i", *matrix) + data[place + 36 :])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_length(tmp_path):
    """Four hours take minutes: `python benchmarks/extraction_memory.py`."""
    peaks = []
    for minutes in (2, 30):
        write_long_footage(tmp_path / str(minutes), minutes)
        peaks.append(peak_bytes(tmp_path / str(minutes), with_poses=True))
    assert peaks[1] < peaks[0] + 40e6
