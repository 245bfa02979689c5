"""The body's orientation in camera coordinates enters, the side that the camera sees leaves as one angle.

psi is the angle about gravity from the line of sight to where the body faces: 0 front, 180 back, +90 the body faces the
image's right and shows its right side, -90 it faces the image's left and shows its left side. The angle to the camera's
optical axis would be wrong for everybody who does not stand in the middle of the picture.

Camera coordinates are OpenCV's: x right, y down, z into the picture. The body's own axes are SMPL's: x to its left,
y up, z forward. Legend: T frames. Angles are degrees, arrays float64.
"""

from typing import NamedTuple

import numpy as np

# Where cameras are held level, the nearest thing to gravity when nothing is known about it.
LEVEL_CAMERA_UP = np.array([0.0, -1.0, 0.0])


class Facing(NamedTuple):
    """How a body stands to the camera."""

    psi_T: np.ndarray
    upright_T: np.ndarray
    """Cosine between the body's long axis and gravity: 1 standing, 0 lying."""
    elevation_T: np.ndarray
    """How far the camera looks down on the person, negative from below."""


def rotation_from_axis_angle(axis_angle_T3: np.ndarray) -> np.ndarray:
    """Rotation matrices [T, 3, 3] of axis times angle in radians (Rodrigues)."""
    axis_angle_T3 = np.asarray(axis_angle_T3, dtype=np.float64)
    angle_T11 = np.linalg.norm(axis_angle_T3, axis=-1)[:, None, None]
    x, y, z = np.moveaxis(axis_angle_T3, -1, 0)
    zero = np.zeros_like(x)
    cross_T33 = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    # sin(a) / a and (1 - cos(a)) / a^2, which stay exact towards a = 0.
    first = np.sinc(angle_T11 / np.pi)
    second = 0.5 * np.sinc(angle_T11 / (2 * np.pi)) ** 2
    return np.eye(3) + first * cross_T33 + second * (cross_T33 @ cross_T33)


def facing(forward_T3: np.ndarray, long_axis_T3: np.ndarray, up_T3: np.ndarray, position_T3: np.ndarray) -> Facing:
    """psi by line of sight and gravity.

    Args:
        long_axis_T3: from the hips to the shoulders.
        up_T3: against gravity, in camera coordinates, unit length.
        position_T3: where the body is, in camera coordinates, any unit of length.
    """
    sight_T3 = -_unit(position_T3)
    level_sight_T3 = _level(sight_T3, up_T3)
    level_forward_T3 = _level(forward_T3, up_T3)
    psi_T = np.arctan2(_dot(up_T3, np.cross(level_sight_T3, level_forward_T3)), _dot(level_sight_T3, level_forward_T3))
    elevation_T = np.arcsin(np.clip(_dot(sight_T3, up_T3), -1, 1))
    return Facing(np.degrees(psi_T), _dot(_unit(long_axis_T3), up_T3), np.degrees(elevation_T))


def facing_from_smpl(
    orient_in_camera_T3: np.ndarray, position_T3: np.ndarray, orient_in_gravity_T3: np.ndarray | None
) -> Facing:
    """Facing of SMPL bodies.

    Args:
        orient_in_camera_T3: root orientation as axis times angle, in the camera of each frame.
        orient_in_gravity_T3: the same orientations in any frame whose y points up; None: the camera is level.
    """
    body_T33 = rotation_from_axis_angle(orient_in_camera_T3)
    if orient_in_gravity_T3 is None:
        up_T3 = np.broadcast_to(LEVEL_CAMERA_UP, body_T33.shape[:2])
    else:
        # Gravity in body coordinates, then in the camera's.
        up_T3 = (body_T33 @ rotation_from_axis_angle(orient_in_gravity_T3).swapaxes(1, 2))[:, :, 1]
    return facing(body_T33[:, :, 2], body_T33[:, :, 1], up_T3, np.asarray(position_T3, dtype=np.float64))


class Torso(NamedTuple):
    """3D joints [T, 3] in camera coordinates; left and right are the person's own."""

    left_shoulder_T3: np.ndarray
    right_shoulder_T3: np.ndarray
    left_hip_T3: np.ndarray
    right_hip_T3: np.ndarray


def facing_from_torso(torso: Torso, up_T3: np.ndarray) -> Facing:
    """Facing of a torso, the mean of what hips and shoulders say."""
    torso = Torso(*(np.asarray(joint_T3, dtype=np.float64) for joint_T3 in torso))
    to_left_T3 = torso.left_hip_T3 - torso.right_hip_T3 + torso.left_shoulder_T3 - torso.right_shoulder_T3
    hips_T3 = (torso.left_hip_T3 + torso.right_hip_T3) / 2
    shoulders_T3 = (torso.left_shoulder_T3 + torso.right_shoulder_T3) / 2
    up_T3 = np.broadcast_to(up_T3, to_left_T3.shape)
    return facing(np.cross(to_left_T3, up_T3), shoulders_T3 - hips_T3, up_T3, (hips_T3 + shoulders_T3) / 2)


def psi_of_head(to_left_T3: np.ndarray, up_T3: np.ndarray, position_T3: np.ndarray) -> np.ndarray:
    """psi [T] of a head by the direction from its right ear to its left one."""
    up_T3 = np.broadcast_to(up_T3, to_left_T3.shape)
    return facing(np.cross(to_left_T3, up_T3), up_T3, up_T3, position_T3).psi_T


def wrapped(angle: np.ndarray) -> np.ndarray:
    """The same angle from -180 up to 180."""
    return (angle + 180) % 360 - 180


def _level(vector_T3: np.ndarray, up_T3: np.ndarray) -> np.ndarray:
    """The part across gravity."""
    return vector_T3 - _dot(vector_T3, up_T3)[:, None] * up_T3


def _dot(first_T3: np.ndarray, second_T3: np.ndarray) -> np.ndarray:
    return (first_T3 * second_T3).sum(-1)


def _unit(vector_T3: np.ndarray) -> np.ndarray:
    return vector_T3 / np.linalg.norm(vector_T3, axis=-1, keepdims=True)
