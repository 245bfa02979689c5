"""Viewpoints from 2D keypoints of toy characters, projected exactly: what the estimate itself can tell.

Run: python -m pytest tests/core/extraction/test_keypoints.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from toy_scene import COCO, joints_of, noisy, toy_source, true_view, true_yaw

from gloria_core.extraction.keypoints import NUM_JOINTS, track_from_keypoints
from gloria_core.extraction.view_bands import ViewThresholds, label_views
from gloria_core.extraction.viewpoint import wrapped

RATE = 8.0
OPENPOSE = (
    "nose", None, "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip


def keypoints(source, mirrored=False):
    """What a perfect keypoint model gives; no nose from behind, no feet, as in a toy character."""
    times = np.arange(0, source.program.seconds - 0.1, 1 / RATE)
    joints_TJ3, _, camera_K = joints_of(source, times)
    image = joints_TJ3 @ camera_K.swapaxes(1, 2)
    found = np.zeros((len(times), NUM_JOINTS, 3))
    for idx, name in enumerate(OPENPOSE):
        if name is not None:
            if mirrored:
                name = name.replace("left", "x").replace("right", "left").replace("x", "right")
            found[:, idx, :2] = (image[..., :2] / image[..., 2:])[:, COCO.index(name)]
            found[:, idx, 2] = 1
    yaw = np.array([true_yaw(source, time) for time in times])
    found[np.abs(wrapped(yaw)) > 110, 0, 2] = 0
    return times, found, yaw


def labelled(track):
    labels = label_views(track.psi_T, track.upright_T, track.elevation_T, None, 24.0, ViewThresholds())
    return [(run.label, track.times_T[frame]) for run in labels.runs for frame in range(run.start, run.stop)]


@pytest.mark.parametrize("seed", range(4))
def test_views_and_angles_of_random_turns(seed):
    source = noisy(toy_source(seed, seconds=24.0), seed=70 + seed)
    times, found, _ = keypoints(source)
    track = track_from_keypoints(times, found, 24.0)
    views = labelled(track)
    assert len(views) > 300
    assert all(label == true_view(source, time) for label, time in views)
    truth = np.array([true_yaw(source, time) for time in track.times_T])
    error = np.abs(wrapped(track.psi_T - truth))
    assert np.nanmean(error) < 8
    assert np.isnan(error).mean() < 0.2


def test_a_model_that_swaps_left_and_right_swaps_front_and_back():
    source = noisy(toy_source(0, seconds=24.0), seed=70)
    times, found, _ = keypoints(source, mirrored=True)
    other = {"front": "back", "back": "front"}
    views = [(label, true_view(source, time)) for label, time in labelled(track_from_keypoints(times, found, 24.0))]
    swapped = [truth == other[label] for label, truth in views if label in other]
    assert len(swapped) > 100
    assert np.mean(swapped) > 0.9


def test_what_is_not_seen_is_no_pose_and_gaps_are_not_bridged():
    source = toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),))
    times, found, _ = keypoints(source)
    found[8:16, [8, 11], 2] = 0  # no hips for a second
    found[24:28] = 0  # nobody
    track = track_from_keypoints(times, found, 24.0)
    at = lambda time: int(np.argmin(np.abs(track.times_T - time)))  # noqa: E731
    assert np.isnan(track.psi_T[at(1.5)])
    assert not np.isnan(track.boxes_T4[at(1.5)]).any()
    assert np.isnan(track.boxes_T4[at(3.25)]).all()
    assert not np.isnan(track.psi_T[at(0.5)])
    sparse = track_from_keypoints(times[::4], found[::4], 24.0)
    assert np.isnan(sparse.psi_T[1:12]).all()


def test_boxes_hold_the_joints_and_a_little_more():
    source = toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),))
    times, found, _ = keypoints(source)
    track = track_from_keypoints(times, found, RATE)
    for time, joints_J3 in zip(times, found, strict=True):
        box = track.boxes_T4[int(np.argmin(np.abs(track.times_T - time)))]
        seen = joints_J3[joints_J3[:, 2] > 0, :2]
        assert (seen > box[:2]).all()
        assert (seen < box[2:]).all()
        assert (box[2:] - box[:2] < 1.3 * (seen.max(0) - seen.min(0)) + 1e-6).all()
