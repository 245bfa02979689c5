"""Pose files (.npz) that other programs made for a video enter, body tracks on the video's clock leave.

    walk.mp4   walk.smpl.npz      SMPL root orientation and position, for example GVHMR's
    walk.mp4   walk.joints.npz    3D joints in camera coordinates, for example SAM 3D Body's

docs/extraction.md describes the fields and how to make the files. Nothing in them is unpickled.
Legend: T frames, J joints. Boxes are left, top, right, bottom in pixels of the upright picture.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DatasetError
from .backends import Box, Face, Moment
from .viewpoint import LEVEL_CAMERA_UP, Facing, Torso, facing_from_smpl, facing_from_torso, psi_of_head

SMPL_SUFFIX, JOINTS_SUFFIX = ".smpl.npz", ".joints.npz"
# A moment further than this from any frame of the pose file has no pose.
MAX_GAP_SECONDS = 0.1
# Half a face, from ear to ear, is about this part of what the box around it needs on each side.
_FACE_HALF_SIDE = 1.1
# What a body has above its highest joint and below its lowest, in parts of the height between them.
_ABOVE_EYES, _BELOW_ANKLES = 0.12, 0.05


class JointLayout(NamedTuple):
    """Places of the joints that are used, in the order of the file's joints; -1: not there."""

    left_shoulder: int
    right_shoulder: int
    left_hip: int
    right_hip: int
    nose: int
    left_ear: int
    right_ear: int


JOINT_LAYOUTS = {
    "coco": JointLayout(5, 6, 11, 12, 0, 3, 4),
    "mediapipe33": JointLayout(11, 12, 23, 24, 0, 7, 8),
    "mhr70": JointLayout(5, 6, 9, 10, 0, 3, 4),
    "smpl": JointLayout(16, 17, 1, 2, -1, -1, -1),
}


@dataclass(frozen=True, eq=False)
class BodyTrack:
    """One person over time; NaN where it is not seen."""

    times_T: np.ndarray
    psi_T: np.ndarray
    upright_T: np.ndarray
    elevation_T: np.ndarray
    boxes_T4: np.ndarray | None = None
    head_psi_T: np.ndarray | None = None
    face_boxes_T4: np.ndarray | None = None

    def nearest(self, times: np.ndarray) -> "BodyTrack":
        """The track at other times; NaN where no frame is near enough."""
        right = np.clip(np.searchsorted(self.times_T, times), 1, max(1, len(self.times_T) - 1))
        left = right - 1
        right = np.minimum(right, len(self.times_T) - 1)
        idx = np.where(np.abs(self.times_T[left] - times) <= np.abs(self.times_T[right] - times), left, right)
        is_far = np.abs(self.times_T[idx] - times) > MAX_GAP_SECONDS
        columns = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                values = values[idx].astype(np.float64)
                values[is_far] = np.nan
            columns[field.name] = values
        return replace(BodyTrack(**columns), times_T=times)


class PoseFiles:
    """Body poses, person boxes and faces out of the pose file beside each video."""

    name = "pose files"

    def setup(self) -> None:
        """Nothing to load."""

    def track(self, video: Path) -> BodyTrack:
        """The whole track of a video.

        Raises:
            DatasetError: No pose file, or one that cannot be read.
        """
        for suffix, read in ((SMPL_SUFFIX, read_smpl_file), (JOINTS_SUFFIX, read_joints_file)):
            path = video.with_suffix(suffix)
            if path.is_file():
                return _cached(read, path, path.stat().st_mtime_ns)
        raise DatasetError(
            f"'{video.name}' has no pose file: put {video.stem}{SMPL_SUFFIX} or {video.stem}{JOINTS_SUFFIX} beside it "
            "(docs/extraction.md says how)."
        )

    def find(self, moment: Moment) -> list[Face]:
        """The head of the tracked person, if its joints are in the file."""
        track = self.track(moment.video).nearest(np.array([moment.time]))
        if track.head_psi_T is None or track.face_boxes_T4 is None or np.isnan(track.face_boxes_T4[0]).any():
            return []
        return [Face(Box(*track.face_boxes_T4[0].tolist()), float(track.head_psi_T[0]), 1.0)]

    def people(self, moment: Moment) -> list[Box]:
        """The tracked person's box where there is one.

        Raises:
            DatasetError: The file knows no boxes at all.
        """
        track = self.track(moment.video)
        if track.boxes_T4 is None:
            raise DatasetError(
                f"The pose file of '{moment.video.name}' has no field 'boxes' and none can be worked out, so bodies "
                "cannot be cropped. Add it, or let a detection model find people."
            )
        track = track.nearest(np.array([moment.time]))
        if np.isnan(track.boxes_T4[0]).any():
            return []
        return [Box(*track.boxes_T4[0].tolist())]


def read_smpl_file(path: Path) -> BodyTrack:
    """A track from SMPL root parameters.

    Raises:
        DatasetError: Missing or misshapen fields.
    """
    arrays = _Arrays(path)
    orient_T3 = arrays.get("incam_global_orient", (None, 3))
    num = len(orient_T3)
    gravity_T3 = arrays.find("global_global_orient", (num, 3))
    standing = facing_from_smpl(orient_T3, arrays.get("incam_transl", (num, 3)), gravity_T3)
    return _track(arrays, num, standing, arrays.find("boxes", (num, 4)))


def read_joints_file(path: Path) -> BodyTrack:
    """A track from 3D joints.

    Raises:
        DatasetError: Missing or misshapen fields, or an unknown layout.
    """
    arrays = _Arrays(path)
    layout_name = str(arrays.content.get("layout", ""))
    if layout_name not in JOINT_LAYOUTS:
        raise DatasetError(f"'{path.name}' has the layout '{layout_name}', expected {', '.join(JOINT_LAYOUTS)}.")
    layout = JOINT_LAYOUTS[layout_name]
    joints_TJ3 = arrays.get("joints", (None, None, 3))
    num, num_joints = joints_TJ3.shape[:2]
    if num_joints <= max(layout):
        raise DatasetError(f"'{path.name}' has {num_joints} joints, {layout_name} needs at least {max(layout) + 1}.")
    position_T3 = arrays.find("transl", (num, 3))
    if position_T3 is not None:
        joints_TJ3 = joints_TJ3 + position_T3[:, None]
    up_T3 = arrays.find("up", (num, 3))
    up_T3 = np.broadcast_to(LEVEL_CAMERA_UP, (num, 3)) if up_T3 is None else up_T3
    standing = facing_from_torso(Torso(*(joints_TJ3[:, idx] for idx in layout[:4])), up_T3)
    boxes_T4 = arrays.find("boxes", (num, 4))
    camera_T33 = arrays.camera(num)
    if boxes_T4 is None and camera_T33 is not None:
        boxes_T4 = _box_around(_projected(joints_TJ3, camera_T33))
    track = _track(arrays, num, standing, boxes_T4)
    if layout.left_ear < 0:
        return track
    left_T3, right_T3 = joints_TJ3[:, layout.left_ear], joints_TJ3[:, layout.right_ear]
    face_boxes_T4 = None if camera_T33 is None else _face_boxes(left_T3, right_T3, camera_T33)
    head_psi_T = psi_of_head(left_T3 - right_T3, up_T3, (left_T3 + right_T3) / 2)
    return replace(track, head_psi_T=head_psi_T, face_boxes_T4=face_boxes_T4)


class _Arrays:
    """The fields of one file, checked as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self.content: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise DatasetError(f"'{path.name}' is not a readable .npz file of plain numbers ({error}).") from error
        except Exception as error:  # zipfile and zlib have error classes of their own
            raise DatasetError(f"'{path.name}' is a damaged .npz file ({error}). Make it again.") from error

    def find(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray | None:
        return self.get(name, shape) if name in self.content else None

    def get(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        if name not in self.content:
            raise DatasetError(f"'{self.path.name}' has no field '{name}'. It has {', '.join(self.content) or 'none'}.")
        values = self.content[name]
        fits = values.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, values.shape, strict=True)
        )
        if not fits or values.dtype.kind not in "fiu" or not len(values):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            raise DatasetError(
                f"'{self.path.name}': the field '{name}' is {values.dtype} {list(values.shape)}, expected numbers of "
                f"shape [{wanted}]."
            )
        return values.astype(np.float64)

    def camera(self, num: int) -> np.ndarray | None:
        """Intrinsics of every frame, from one matrix or from many."""
        if "K" in self.content and self.content["K"].ndim == 2:
            return np.broadcast_to(self.get("K", (3, 3)), (num, 3, 3))
        return self.find("K", (num, 3, 3))

    def times(self, num: int) -> np.ndarray:
        """Seconds of each frame: `times`, or frame numbers at `fps`."""
        if "times" in self.content:
            times_T = self.get("times", (num,))
            if not (np.isfinite(times_T).all() and (np.diff(times_T) > 0).all()):
                raise DatasetError(f"'{self.path.name}': 'times' must rise from frame to frame.")
            return times_T
        fps = self.content.get("fps")
        if fps is None or fps.ndim or not 1 <= float(fps) <= 1000:
            raise DatasetError(f"'{self.path.name}' needs 'times' in seconds, or 'fps' as one number from 1 to 1000.")
        return np.arange(num) / float(fps)


def _track(arrays: _Arrays, num: int, standing: Facing, boxes_T4: np.ndarray | None) -> BodyTrack:
    return BodyTrack(arrays.times(num), *standing, boxes_T4=boxes_T4)


def _projected(points_TJ3: np.ndarray, camera_T33: np.ndarray) -> np.ndarray:
    image_TJ3 = points_TJ3 @ camera_T33.swapaxes(1, 2)
    return image_TJ3[..., :2] / image_TJ3[..., 2:]


def _box_around(points_TJ2: np.ndarray) -> np.ndarray:
    """Boxes around bodies, of which joints show no more than eyes to ankles."""
    low_T2, high_T2 = points_TJ2.min(1), points_TJ2.max(1)
    height_T = high_T2[:, 1] - low_T2[:, 1]
    low_T2[:, 1] -= _ABOVE_EYES * height_T
    high_T2[:, 1] += _BELOW_ANKLES * height_T
    return np.concatenate([low_T2, high_T2], -1)


def _face_boxes(left_ear_T3: np.ndarray, right_ear_T3: np.ndarray, camera_T33: np.ndarray) -> np.ndarray:
    """Squares around the middle between the ears, by their distance in space, so that a profile is not squeezed."""
    middle_T3 = (left_ear_T3 + right_ear_T3) / 2
    half_T = np.linalg.norm(left_ear_T3 - right_ear_T3, axis=-1) / 2 * _FACE_HALF_SIDE
    center_T2 = _projected(middle_T3[:, None], camera_T33)[:, 0]
    half_T1 = (half_T * camera_T33[:, 0, 0] / middle_T3[:, 2])[:, None]
    return np.concatenate([center_T2 - half_T1, center_T2 + half_T1], -1)


@functools.lru_cache(maxsize=2)
def _cached(read: Callable[[Path], BodyTrack], path: Path, _changed: int) -> BodyTrack:
    return read(path)
