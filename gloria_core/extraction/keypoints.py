"""2D keypoints of one person over time enter, a body track leaves: an estimate of how the body is turned.

A picture has no depth, so psi comes from what turning does to proportions: left shoulder and hip lie to the right of
the right ones by the cosine of psi, the nose lies beside the ears and the toes beside the heels by its sine. How much
that is at most is taken from the footage itself, or from a usual body while it shows less. Which side is left is what
the keypoint model says; a turned head pulls the estimate along where no feet are seen.

Legend: T frames, J = 24 joints in OpenPose's order with feet, 3 = x, y, score.
"""

import numpy as np

from .pose_files import BodyTrack
from .viewpoint import wrapped

NUM_JOINTS = 24
_NOSE, _RIGHT_SHOULDER, _LEFT_SHOULDER, _RIGHT_HIP, _LEFT_HIP, _RIGHT_EAR, _LEFT_EAR = 0, 2, 5, 8, 11, 16, 17
_LEFT_TOE, _LEFT_HEEL, _RIGHT_TOE, _RIGHT_HEEL = 18, 20, 21, 23
_MIN_SCORE = 0.3
# Of a usual body, in lengths of its torso: half the sum of shoulders and hips, nose before the ears, foot.
_BREADTH, _NOSE_REACH, _FOOT_REACH = 0.55, 0.2, 0.35
_WIDEST_PERCENTILE = 95
# Without nose and feet only a body whose breadth is seen nearly whole can be told: it is near front or back.
_WHOLE_BREADTH = 0.85
_SIDE_MARGIN, _ABOVE_MARGIN, _BELOW_MARGIN = 0.1, 0.12, 0.05
# Samples further apart say nothing about the time between them.
_MAX_STEP_SECONDS = 0.3


def track_from_keypoints(times_T: np.ndarray, joints_TJ3: np.ndarray, fps: float) -> BodyTrack:
    """The track at `fps`, between the samples by interpolation.

    Args:
        times_T: rising seconds of the samples.
        joints_TJ3: NaN, or score 0, where nothing was seen.
    """
    places_TJ2 = np.where(joints_TJ3[..., 2:] >= _MIN_SCORE, joints_TJ3[..., :2], np.nan)
    shoulders_T2 = places_TJ2[:, [_LEFT_SHOULDER, _RIGHT_SHOULDER]].mean(1)
    hips_T2 = places_TJ2[:, [_LEFT_HIP, _RIGHT_HIP]].mean(1)
    torso_T = np.linalg.norm(shoulders_T2 - hips_T2, axis=-1)
    boxes_T4 = _boxes(places_TJ2)
    psi_T = _psi(places_TJ2, torso_T)
    upright_T = (hips_T2 - shoulders_T2)[:, 1] / torso_T
    grid_T = np.arange(times_T[0], times_T[-1] + 1e-6, 1 / fps)
    direction_T2 = np.stack([np.cos(np.radians(psi_T)), np.sin(np.radians(psi_T))], -1)
    cos_T, sin_T = _on_grid(grid_T, times_T, direction_T2).T
    return BodyTrack(
        grid_T,
        wrapped(np.degrees(np.arctan2(sin_T, cos_T))),
        _on_grid(grid_T, times_T, upright_T[:, None])[:, 0],
        np.zeros(len(grid_T)),
        boxes_T4=_on_grid(grid_T, times_T, boxes_T4),
    )


def _psi(places_TJ2: np.ndarray, torso_T: np.ndarray) -> np.ndarray:
    """Degrees of every sample; NaN where the joints that are seen leave it open."""
    x_TJ = places_TJ2[..., 0] / torso_T[:, None]
    breadth_T = (x_TJ[:, _LEFT_SHOULDER] - x_TJ[:, _RIGHT_SHOULDER] + x_TJ[:, _LEFT_HIP] - x_TJ[:, _RIGHT_HIP]) / 2
    nose_T = x_TJ[:, _NOSE] - _mean_of_seen([x_TJ[:, _LEFT_EAR], x_TJ[:, _RIGHT_EAR]])
    cos_T = _share(breadth_T, _BREADTH)
    sin_T = _mean_of_seen(
        [
            _share(nose_T, _NOSE_REACH),
            _share(x_TJ[:, _LEFT_TOE] - x_TJ[:, _LEFT_HEEL], _FOOT_REACH),
            _share(x_TJ[:, _RIGHT_TOE] - x_TJ[:, _RIGHT_HEEL], _FOOT_REACH),
        ]
    )
    sin_T = np.where(np.isnan(sin_T) & (np.abs(cos_T) > _WHOLE_BREADTH), 0.0, sin_T)
    return np.degrees(np.arctan2(sin_T, cos_T))


def _share(length_T: np.ndarray, usual: float) -> np.ndarray:
    """A length as part of the greatest that this person shows, -1 to 1."""
    seen = np.abs(length_T[~np.isnan(length_T)])
    greatest = max(usual, np.percentile(seen, _WIDEST_PERCENTILE)) if len(seen) else usual
    return np.clip(length_T / greatest, -1, 1)


def _mean_of_seen(columns: list[np.ndarray]) -> np.ndarray:
    values_TK = np.stack(columns, -1)
    count_T = (~np.isnan(values_TK)).sum(-1)
    return np.where(count_T > 0, np.nansum(values_TK, -1) / np.maximum(count_T, 1), np.nan)


def _boxes(places_TJ2: np.ndarray) -> np.ndarray:
    """Boxes around the joints that are seen, grown by what a body has beyond them."""
    is_seen_T = (~np.isnan(places_TJ2[..., 0])).sum(1) >= 2
    low_T2, high_T2 = np.full((2, len(places_TJ2), 2), np.nan)
    low_T2[is_seen_T], high_T2[is_seen_T] = np.nanmin(places_TJ2[is_seen_T], 1), np.nanmax(places_TJ2[is_seen_T], 1)
    height_T = (high_T2 - low_T2)[:, 1]
    low_T2 -= height_T[:, None] * np.array([_SIDE_MARGIN, _ABOVE_MARGIN])
    high_T2 += height_T[:, None] * np.array([_SIDE_MARGIN, _BELOW_MARGIN])
    return np.concatenate([low_T2, high_T2], -1)


def _on_grid(grid_T: np.ndarray, times_T: np.ndarray, values_TD: np.ndarray) -> np.ndarray:
    """Linear in between; NaN beside missing samples and in gaps."""
    right = np.clip(np.searchsorted(times_T, grid_T, side="right"), 1, max(1, len(times_T) - 1))
    left = right - 1
    right = np.minimum(right, len(times_T) - 1)
    step_T = np.maximum(times_T[right] - times_T[left], 1e-9)
    share_T1 = np.clip((grid_T - times_T[left]) / step_T, 0, 1)[:, None]
    values = values_TD[left] * (1 - share_T1) + values_TD[right] * share_T1
    values[step_T > _MAX_STEP_SECONDS] = np.nan
    return values
