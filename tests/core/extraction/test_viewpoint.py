"""psi against an independent construction, and the rules that make labels of it.

Run: python -m pytest tests/core/extraction/test_viewpoint.py
"""

import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from scipy.spatial.transform import Rotation
from toy_scene import boxes, toy_source, true_yaw, write_joints_file, write_smpl_file

from gloria_core.errors import DatasetError
from gloria_core.extraction.pose_files import JOINT_LAYOUTS, PoseFiles, read_joints_file, read_smpl_file
from gloria_core.extraction.view_bands import (
    ViewThresholds,
    band_of,
    best_moments,
    circular_median,
    dwelling_runs,
    held_views,
    label_views,
    turn_speed,
)
from gloria_core.extraction.viewpoint import (
    LEVEL_CAMERA_UP,
    Torso,
    facing_from_smpl,
    facing_from_torso,
    psi_of_head,
    rotation_from_axis_angle,
    wrapped,
)

REPO = Path(__file__).resolve().parents[3]
NUM = 2000
# Shoulders, hips, nose, ears around the middle of the body: to the left, up, forward.
BODY = (
    (0.2, 0.25, 0.0), (-0.2, 0.25, 0.0), (0.1, -0.25, 0.0), (-0.1, -0.25, 0.0), (0.0, 0.0, 0.1), (0.08, 0.0, 0.0),
    (-0.08, 0.0, 0.0),
)  # fmt: skip


def random_world(seed=0, num=NUM):
    """Cameras and upright people in a world whose y points up; psi by bearings on the ground."""
    rng = np.random.default_rng(seed)
    camera = np.stack([rng.uniform(-4, 4, num), rng.uniform(0.3, 3, num), rng.uniform(-4, 4, num)], -1)
    person = camera + np.stack([rng.uniform(-5, 5, num), rng.uniform(-1, 1, num), rng.uniform(-5, 5, num)], -1)
    too_near = np.hypot(*(person - camera)[:, [0, 2]].T) < 0.5
    person[too_near, 0] += 2
    heading = rng.uniform(-np.pi, np.pi, num)  # about y; 0 faces +z
    # Compass bearings clockwise seen from above, from +z towards -x: a person who turns to its own right.
    bearing_to_camera = np.arctan2(-(camera - person)[:, 0], (camera - person)[:, 2])
    bearing_of_front = np.arctan2(-np.sin(heading), np.cos(heading))
    # A turn to its own left (counterclockwise) from the camera shows the right side: positive.
    psi = np.degrees((bearing_to_camera - bearing_of_front + np.pi) % (2 * np.pi) - np.pi)
    # The camera looks roughly at the person, panned, tilted and rolled at random.
    world_to_camera = Rotation.from_euler(
        "zxy", np.stack([rng.uniform(-0.6, 0.6, num), rng.uniform(-0.6, 0.6, num), rng.uniform(-np.pi, np.pi, num)], -1)
    )
    flip = np.diag([1.0, -1.0, -1.0])
    to_camera = flip @ world_to_camera.as_matrix()
    position = np.einsum("nij,nj->ni", to_camera, person - camera)
    body_in_world = Rotation.from_euler("y", heading[:, None]).as_matrix()
    return psi, to_camera, position, body_in_world


def test_psi_is_exact_on_random_cameras_and_subjects():
    psi, to_camera, position, body = random_world()
    incam = Rotation.from_matrix(to_camera @ body).as_rotvec()
    # The gravity frame has its own unknown heading.
    turned = Rotation.from_euler("y", [1.234]).as_matrix() @ body
    found = facing_from_smpl(incam, position, Rotation.from_matrix(turned).as_rotvec())
    assert np.abs(wrapped(found.psi_T - psi)).max() < 1e-6
    np.testing.assert_allclose(found.upright_T, 1, atol=1e-9)


def test_joints_of_the_same_scene_agree():
    psi, to_camera, position, body = random_world(1)
    axes = to_camera @ body
    shape = {"left_shoulder": (0.2, 1.4, 0), "right_shoulder": (-0.2, 1.4, 0)}
    shape |= {"left_hip": (0.1, 0.9, 0), "right_hip": (-0.1, 0.9, 0)}
    root = position - axes @ np.array([0, 1.15, 0])
    torso = Torso(*(root + axes @ np.array(shape[name.removesuffix("_T3")]) for name in Torso._fields))
    found = facing_from_torso(torso, to_camera[:, :, 1])
    assert np.abs(wrapped(found.psi_T - psi)).max() < 1e-6
    head = psi_of_head(axes[:, :, 0] * 0.15, to_camera[:, :, 1], position)
    assert np.abs(wrapped(head - psi)).max() < 1e-6


def test_files_of_both_formats_made_of_one_scene_agree_with_it(tmp_path):
    psi, to_camera, position, body = random_world(3)
    axes, times = to_camera @ body, np.arange(NUM) / 30
    turned = Rotation.from_euler("y", [-0.4]).as_matrix() @ body
    np.savez(
        tmp_path / "gvhmr.npz", fps=30.0, incam_global_orient=Rotation.from_matrix(axes).as_rotvec(),
        incam_transl=position, global_global_orient=Rotation.from_matrix(turned).as_rotvec(),
    )  # fmt: skip
    for layout in ("coco", "mediapipe33", "mhr70", "smpl"):
        places = JOINT_LAYOUTS[layout]
        joints = np.zeros((NUM, max(places) + 1, 3))
        for place, offset in zip(places, BODY, strict=True):
            if place >= 0:
                joints[:, place] = axes @ np.array(offset)
        np.savez(
            tmp_path / f"{layout}.npz", layout=layout, fps=30.0, joints=joints, transl=position, up=to_camera[:, :, 1]
        )
    tracks = {"gvhmr": read_smpl_file(tmp_path / "gvhmr.npz")}
    tracks |= {name: read_joints_file(tmp_path / f"{name}.npz") for name in JOINT_LAYOUTS}
    for name, track in tracks.items():
        np.testing.assert_array_equal(track.times_T, times)
        assert np.abs(wrapped(track.psi_T - psi)).max() < 1e-6, name
        assert track.head_psi_T is None or np.abs(wrapped(track.head_psi_T - psi)).max() < 1e-6


def test_the_documented_conversion_makes_a_pose_file_of_gvhmrs_results(tmp_path):
    """The layout of `hmr4d_results.pt` and `preprocess/bbx.pt`, float32, as GVHMR saves them."""
    psi, to_camera, position, body = random_world(4, 50)
    turned = Rotation.from_euler("y", [0.7]).as_matrix() @ body

    def params(rotations):
        orient = torch.from_numpy(Rotation.from_matrix(rotations).as_rotvec()).float()
        return {"body_pose": torch.zeros(50, 63), "betas": torch.zeros(50, 10), "global_orient": orient,
                "transl": torch.from_numpy(position).float()}  # fmt: skip

    results = {"smpl_params_global": params(turned), "smpl_params_incam": params(to_camera @ body)}
    torch.save({**results, "K_fullimg": torch.eye(3).expand(50, 3, 3)}, tmp_path / "hmr4d_results.pt")
    (tmp_path / "preprocess").mkdir()
    torch.save({"bbx_xyxy": torch.rand(50, 4), "bbx_xys": torch.rand(50, 3)}, tmp_path / "preprocess" / "bbx.pt")
    (line,) = re.findall(r'^python -c "(import torch.*)"$', (REPO / "docs" / "extraction.md").read_text(), re.MULTILINE)
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    track = PoseFiles().track(tmp_path / "walk.mp4")
    assert np.abs(wrapped(track.psi_T - psi)).max() < 1e-3
    assert track.boxes_T4.shape == (50, 4)
    np.testing.assert_allclose(np.diff(track.times_T), 1 / 30)


def test_the_documented_conversion_makes_a_pose_file_of_sam_3d_bodys_results(tmp_path, monkeypatch):
    _, to_camera, position, body = random_world(5, 20)
    keypoints = np.zeros((20, 70, 3), np.float32)
    for place, offset in zip(JOINT_LAYOUTS["mhr70"], BODY, strict=True):
        keypoints[:, place] = to_camera @ body @ np.array(offset)
    results = [[{"pred_keypoints_3d": keypoints[idx], "pred_cam_t": position[idx]}] for idx in range(20)]
    results[7], results[9] = [], results[9] * 2
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "extraction.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "pred_cam_t" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.py").write_text(block)
    runpy.run_path("block.py", {"results": results})
    track = PoseFiles().track(tmp_path / "walk.mp4")
    assert np.flatnonzero(np.isnan(track.psi_T)).tolist() == [7, 9]
    # Cameras are level in such a file, so only the people before level cameras are told exactly.
    up = np.broadcast_to(LEVEL_CAMERA_UP, (20, 3))
    torso = Torso(*(keypoints[:, place] + position for place in JOINT_LAYOUTS["mhr70"][:4]))
    seen = ~np.isnan(track.psi_T)
    np.testing.assert_allclose(track.psi_T[seen], facing_from_torso(torso, up).psi_T[seen], atol=1e-3)


def test_the_angle_to_the_optical_axis_would_err():
    psi, to_camera, position, body = random_world(2)
    in_view = (position[:, 2] > 0) & (np.abs(position[:, 0]) < position[:, 2])
    forward = (to_camera @ body)[:, :, 2]
    naive = np.degrees(np.arctan2(forward[:, 0], -forward[:, 2]))
    assert np.abs(wrapped(naive - psi))[in_view].mean() > 5


@pytest.mark.parametrize(("turn", "psi"), [(0, 0), (90, 90), (-90, -90), (60, 60), (180, 180)])
def test_signs_are_those_of_the_picture(turn, psi):
    # Facing the camera upright is a half turn about x; positive turns go to the image's right.
    body = Rotation.from_euler("y", -turn, degrees=True) * Rotation.from_euler("x", 180, degrees=True)
    found = facing_from_smpl(body.as_rotvec()[None], np.array([[0.0, 0.0, 4.0]]), None)
    assert abs(wrapped(found.psi_T[0] - psi)) < 1e-9
    forward = body.as_matrix()[:, 2]
    assert forward[0] == pytest.approx(math.sin(math.radians(turn)), abs=1e-9)


def test_rotations_equal_scipys_also_at_nothing_and_half_turns():
    rng = np.random.default_rng(5)
    vectors = np.concatenate([rng.normal(size=(50, 3)) * 2, np.zeros((1, 3)), [[1e-9, 0, 0], [0, np.pi, 0]]])
    np.testing.assert_allclose(
        rotation_from_axis_angle(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12
    )


def test_elevation_and_lying_are_noticed():
    body = Rotation.from_euler("x", 180, degrees=True).as_rotvec()[None]
    above = facing_from_smpl(body, np.array([[0.0, 4.0, 4.0]]), None)
    assert above.elevation_T[0] == pytest.approx(45)
    lying = Rotation.from_euler("z", 90, degrees=True) * Rotation.from_euler("x", 180, degrees=True)
    assert abs(facing_from_smpl(lying.as_rotvec()[None], np.array([[0.0, 0.0, 4.0]]), None).upright_T[0]) < 1e-9


@pytest.mark.parametrize("write", [write_smpl_file, write_joints_file])
def test_both_file_formats_of_one_scene_give_its_yaw_at_the_videos_time(tmp_path, write):
    source = toy_source()
    suffix = ".smpl.npz" if write is write_smpl_file else ".joints.npz"
    write(tmp_path / f"v{suffix}", source)
    times = np.arange(0, 17.5, 1 / 24)
    track = PoseFiles().track(tmp_path / "v.mp4").nearest(times)
    truth = np.array([true_yaw(source, time) for time in times])
    # The nearest frame of 30 a second is at most 1/60 s away, and turns reach 170 degrees a second.
    assert np.abs(wrapped(track.psi_T - truth)).max() < (3.0 if suffix == ".smpl.npz" else 1e-3)
    standing = np.abs(np.gradient(truth, times)) < 5
    assert np.abs(wrapped(track.psi_T - truth))[standing].max() < 0.2
    np.testing.assert_allclose(track.boxes_T4[::4], boxes(source, times)[::4], atol=2.0)


def test_a_joints_file_works_out_boxes_and_heads(tmp_path):
    source = toy_source()
    path = write_joints_file(tmp_path / "v.joints.npz", source)
    fields = dict(np.load(path))
    fields.pop("boxes")
    np.savez(path, **fields)
    track = read_joints_file(path)
    drawn = boxes(source, track.times_T)
    assert np.abs(track.boxes_T4[:, 3] - drawn[:, 3]).max() < 10
    truth = np.degrees(source.program.poses(track.times_T).head_yaw_T.numpy())
    assert np.abs(wrapped(track.head_psi_T - truth)).max() < 1e-3
    side = track.face_boxes_T4[:, 2] - track.face_boxes_T4[:, 0]
    assert side.max() / side.min() < 1.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": None}, "needs 'times' in seconds, or 'fps'"),
        ({"incam_transl": np.zeros((3, 3))}, r"expected numbers of shape \[540, 3\]"),
        ({"incam_global_orient": None}, "has no field 'incam_global_orient'"),
        ({"incam_global_orient": np.array([["a"]])}, "expected numbers of shape"),
        ({"times": np.zeros(540)}, "'times' must rise"),
    ],
)
def test_wrong_pose_files_are_named(tmp_path, change, message):
    path = write_smpl_file(tmp_path / "v.smpl.npz", toy_source())
    fields = {**dict(np.load(path)), **change}
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    with pytest.raises(DatasetError, match=message):
        read_smpl_file(path)


def test_pickles_and_rubbish_are_refused(tmp_path):
    path = tmp_path / "v.smpl.npz"
    np.savez(path, fps=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DatasetError, match="plain numbers"):
        read_smpl_file(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DatasetError, match=r"v\.smpl\.npz"):
        read_smpl_file(path)
    with pytest.raises(DatasetError, match="has no pose file"):
        PoseFiles().track(tmp_path / "other.mp4")


def test_bands_and_gaps():
    expected = {0: "front", 30: "front", 31: None, 59: None, 60: "right", 120: "right", 121: None, 150: "back"}
    expected |= {-180: "back", -150: "back", -120: "left", -60: "left", -45: None, 179: "back"}
    assert {psi: band_of(psi, 30) for psi in expected} == expected


def test_median_knows_that_angles_wrap_and_removes_single_jumps():
    psi = np.array([179.0, -179, 178, -178, 60, 179, -179, 178, -178, 179])
    median = circular_median(psi, 5)
    assert np.abs(wrapped(median - 180)).max() <= 2
    with_gap = np.array([10.0, 10, np.nan, 10, 10])
    assert np.isnan(circular_median(with_gap, 3)[2])
    np.testing.assert_allclose(circular_median(with_gap, 3)[[0, 1, 3, 4]], 10)


def test_a_view_is_held_ten_degrees_beyond_its_edge():
    psi = np.array([45.0, 35, 29, 35, 39.9, 40.1, 35, 29])
    assert held_views(psi, 30, 10) == [None, None, "front", "front", "front", None, None, "front"]


def test_short_looks_and_fast_turns_do_not_count():
    assert [tuple(run) for run in dwelling_runs(["front", None, "left", "left", "left"], 2)] == [("left", 2, 5)]
    np.testing.assert_allclose(turn_speed(np.array([170.0, 174, 178, -178, -174]), 24), 96)
    thresholds = ViewThresholds()
    still = np.ones(48)
    spinning = wrapped(np.arange(48) * 100 / 24)
    labels = label_views(spinning, still, still * 0, None, 24, thresholds)
    assert not labels.runs
    assert labels.refused == {"turns too fast": 48}
    slow = label_views(wrapped(np.arange(480) * 36 / 24), still.repeat(10), still.repeat(10) * 0, None, 24, thresholds)
    assert {run.label for run in slow.runs} == {"front", "right", "back", "left"}
    for run in slow.runs:
        assert all(band_of(slow.psi_T[frame], 40) == run.label for frame in range(run.start, run.stop))


def test_bending_high_cameras_and_turned_heads_are_refused_with_their_reason():
    num = 24
    ones = np.ones(num)
    thresholds = ViewThresholds()
    assert label_views(0 * ones, 0.3 * ones, 0 * ones, None, 24, thresholds).refused == {"bends or lies": num}
    assert label_views(0 * ones, ones, 50 * ones, None, 24, thresholds).refused == {"camera too high or too low": num}
    refused = label_views(0 * ones, ones, 0 * ones, 45 * ones, 24, thresholds).refused
    assert refused == {"front view with the face turned away": num}
    (run,) = label_views(90 * ones, ones, 0 * ones, 45 * ones, 24, thresholds).runs
    assert run.label == "right"


def test_moments_are_nearest_to_the_middle_and_apart():
    psi = 25 - np.abs(np.arange(97) - 48) * 0.5
    labels = label_views(psi, np.ones(97), np.zeros(97), None, 24, ViewThresholds())
    (run,) = labels.runs
    moments = best_moments(run, labels, 24, 1.0, 3)
    assert len(moments) == 3
    assert min(abs(a - b) for a in moments for b in moments if a != b) >= 24
    off = np.abs(labels.psi_T[run.start : run.stop]) + 0.1 * labels.speed_T[run.start : run.stop]
    assert off[moments[0] - run.start] == off.min()
