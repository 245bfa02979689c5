"""Toy videos with the truth about them, and pose files in the public formats made from that truth.

The camera is a real one, far away: its rays meet the toy world's parallel projection in the character's plane.
"""

from dataclasses import replace

import av
import numpy as np
import torch

from gloria_core.toyworld.canvas import VIEW_HEIGHT
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.doll import HEAD_Y
from gloria_core.toyworld.program import Program, script
from gloria_core.toyworld.scene import make_scene
from gloria_core.toyworld.source import Source

SIZE = 256
FPS = 24.0
DISTANCE = 12.0
FACINGS = ((0.0, "front"), (2.5, "right"), (5.5, "back"), (8.5, "left"), (11.5, "front"))
MOODS = ((0.0, "neutral"), (1.4, "happy"), (12.7, "angry"), (14.2, "surprise"), (15.8, "sad"))
SECONDS = 18.0
# Shoulders, hips, knees, ankles, elbows, wrists: (to the left, up, forward) in heights of the character.
_JOINTS = {
    "nose": (0.0, HEAD_Y - 0.02, 0.24), "left_eye": (0.09, HEAD_Y, 0.22), "left_ear": (0.248, HEAD_Y - 0.035, 0.0),
    "left_shoulder": (0.17, 0.47, 0.0), "left_elbow": (0.21, 0.34, 0.0), "left_wrist": (0.21, 0.22, 0.02),
    "left_hip": (0.08, 0.18, 0.0), "left_knee": (0.08, 0.11, 0.01), "left_ankle": (0.08, 0.04, 0.0),
}  # fmt: skip
COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
_HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")


def toy_source(index=0, facings=FACINGS, moods=MOODS, seconds=SECONDS, size=SIZE, sound=None):
    program = script(facings, moods, seconds, Program(seconds=seconds))
    return Source(held_out_character(index), make_scene(100 + index), program, sound, FPS, size, size)


def write_toy_video(path, source, pieces=None, rate=24, audio=True):
    """Encode a source's frames (or stretches of them) as H.264 with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spans = pieces or [(0, source.num_frames)]
    total = sum(count for _, count in spans)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = source.width, source.height, "yuv420p"
        video.thread_count = 1
        track = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for first, count in spans:
            for start in range(first, first + count, 48):
                some = min(48, first + count - start)
                for picture in (source.frames(start, some) * 255).round().byte().numpy():
                    container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if track is not None:
            wave = (np.sin(np.arange(int(total / rate * 16000)) * 0.05) * 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            for piece in [*track.encode(frame), *track.encode()]:
                container.mux(piece)
    return path


def toy_geometry(source, times, tilt=0.0):
    """Positions, axes and cameras of the character at any times, in OpenCV's camera coordinates."""
    poses = source.program.poses(times)
    camera = poses.camera_T3.double().numpy()
    unit = VIEW_HEIGHT / camera[:, 2] / source.height
    num = len(times)
    camera_K = np.zeros((num, 3, 3))
    camera_K[:, 0, 0] = camera_K[:, 1, 1] = DISTANCE / unit
    camera_K[:, 0, 2], camera_K[:, 1, 2], camera_K[:, 2, 2] = source.width / 2, source.height / 2, 1
    feet = np.stack([poses.x_T.numpy() - camera[:, 0], camera[:, 1] - poses.bob_T.numpy(), np.full(num, DISTANCE)], -1)
    up = np.broadcast_to([0.0, -np.cos(tilt), np.sin(tilt)], (num, 3))
    return feet.astype(np.float64), up, camera_K, np.degrees(poses.yaw_T.numpy()), np.degrees(poses.head_yaw_T.numpy())


def axes(psi, up, position):
    """Body axes (left, up, forward) as columns, so that the line of sight meets the front at `psi` degrees."""
    sight = -position - (-position * up).sum(-1, keepdims=True) * up
    sight /= np.linalg.norm(sight, axis=-1, keepdims=True)
    angle = np.radians(psi)[:, None]
    forward = np.cos(angle) * sight + np.sin(angle) * np.cross(up, sight)
    return np.stack([np.cross(up, forward), up, forward], -1)


def axis_angle(rotation):
    """The inverse of Rodrigues' formula, through SciPy."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_rotvec()


def write_smpl_file(path, source, fps=30.0, noise=0.0, seed=0):
    """SMPL root parameters as GVHMR gives them, at its 30 frames a second."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(source.program.seconds * fps)) / fps
    feet, up, _, yaw, _ = toy_geometry(source, times)
    root = feet + 0.2 * up
    body = axes(yaw + rng.normal(size=len(yaw)) * noise, up, root)
    heading = rng.uniform(-np.pi, np.pi)
    world = np.array([[np.cos(heading), 0, np.sin(heading)], [0, 1, 0], [-np.sin(heading), 0, np.cos(heading)]])
    # Camera to gravity: both level, so it is a half turn about x and any turn about y.
    to_gravity = world @ np.diag([1.0, -1.0, -1.0])
    np.savez(
        path, fps=fps, incam_global_orient=axis_angle(body).astype(np.float32), incam_transl=root.astype(np.float32),
        global_global_orient=axis_angle(to_gravity @ body).astype(np.float32), boxes=boxes(source, times),
    )  # fmt: skip
    return path


def write_joints_file(path, source, fps=FPS, noise=0.0, seed=0):
    """3D joints in COCO's order with the camera that saw them."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(source.program.seconds * fps)) / fps
    joints, up, camera_K = joints_of(source, times, rng.normal(size=len(times)) * noise)
    np.savez(path, times=times, layout="coco", joints=joints, up=up, K=camera_K, boxes=boxes(source, times))
    return path


def joints_of(source, times, psi_error=0.0):
    feet, up, camera_K, yaw, head_yaw = toy_geometry(source, times)
    body, head = axes(yaw + psi_error, up, feet), axes(head_yaw, up, feet)
    joints = []
    for name in COCO:
        left, high, forward = _JOINTS[name.replace("right_", "left_")]
        offset = np.array([-left if name.startswith("right_") else left, high, forward])
        joints.append(feet + (head if name in _HEAD else body) @ offset)
    return np.stack(joints, 1), up, camera_K


def boxes(source, times):
    """What a detector would draw around the character."""
    poses = source.program.poses(times)
    x, y, zoom = poses.camera_T3.double().numpy().T
    unit = VIEW_HEIGHT / zoom / source.height
    column = (poses.x_T.numpy() - x) / unit + source.width / 2
    row = source.height / 2 + (y - poses.bob_T.numpy()) / unit
    return np.stack([column - 0.3 / unit, row - 1.0 / unit, column + 0.3 / unit, row], -1)


def true_view(source, time):
    return source.program.view_at(time)


def true_yaw(source, time):
    return float(np.degrees(source.program.poses([time]).yaw_T[0].item()))


def noisy(source, seed):
    """The same character with random turns and moods."""
    from gloria_core.toyworld.program import make_program

    return replace(source, program=make_program(seed, source.program.seconds))


def as_bytes(picture_HWC):
    return (picture_HWC * 255).round().to(torch.uint8)
