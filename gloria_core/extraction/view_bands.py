"""psi over time enters, moments that clearly show one viewpoint leave.

Legend: T frames on an even grid. Angles are degrees; NaN stands for a frame without a body.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .viewpoint import wrapped

# Frames whose windows are in memory at once.
_BLOCK = 4096
CENTERS = {"front": 0.0, "right": 90.0, "back": 180.0, "left": -90.0}


@dataclass(frozen=True, kw_only=True)
class ViewThresholds:
    """When a frame shows a viewpoint; the paper names no numbers, these are ours."""

    half_width: float = 30.0
    """A view reaches so far to both sides of its middle; what lies between two views is neither."""
    hysteresis: float = 10.0
    """A view that is held may go so far beyond its edge."""
    median_seconds: float = 0.375
    """Window of the running median."""
    dwell_seconds: float = 0.25
    """Shorter looks do not count."""
    max_speed: float = 90.0
    """Degrees a second; faster turns blur."""
    min_upright: float = 0.5
    """Cosine between body and gravity: below it the person bends or lies."""
    max_elevation: float = 35.0
    """Cameras from higher above or below see no side."""
    max_head_psi: float = 30.0
    """A front view shows the face: the head's own psi."""


class ViewRun(NamedTuple):
    """Frames `start` to `stop` (not included) show `label`."""

    label: str
    start: int
    stop: int


def band_of(psi: float, half_width: float) -> str | None:
    """The view whose band holds `psi`; None in a gap."""
    for label, center in CENTERS.items():
        if abs(wrapped(psi - center)) <= half_width:
            return label
    return None


def circular_median(psi_T: np.ndarray, window: int) -> np.ndarray:
    """Running median over an odd number of frames of angles that wrap at 180; towards the ends over fewer."""
    half, num = window // 2, len(psi_T)
    padded = np.pad(psi_T, half, constant_values=np.nan)
    windows_TW = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    # A window that hangs over an end would look to one side only and slow a turn down.
    reach_T = np.minimum(np.arange(num), np.arange(num)[::-1])
    blocks = [slice(start, start + _BLOCK) for start in range(0, num, _BLOCK)]
    medians = [_median(windows_TW[block], np.minimum(reach_T[block], half)) for block in blocks]
    return np.where(np.isnan(psi_T), np.nan, np.concatenate(medians))


def _median(window_TW: np.ndarray, reach_T: np.ndarray) -> np.ndarray:
    """The circular median of each row, up to `reach_T` from its middle."""
    half = window_TW.shape[1] // 2
    window_TW = np.where(np.abs(np.arange(-half, half + 1)) <= reach_T[:, None], window_TW, np.nan)
    radians_TW = np.radians(window_TW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # windows without any body stay NaN
        middle_T = np.degrees(np.arctan2(np.nanmean(np.sin(radians_TW), 1), np.nanmean(np.cos(radians_TW), 1)))
        return wrapped(middle_T + np.nanmedian(wrapped(window_TW - middle_T[:, None]), axis=1))


def held_views(psi_T: np.ndarray, half_width: float, hysteresis: float) -> list[str | None]:
    """For each frame the view that was entered at its band and is not yet left by `hysteresis` more."""
    views: list[str | None] = []
    held: str | None = None
    for psi in psi_T:
        if np.isnan(psi):
            held = None
        elif held is None or abs(wrapped(psi - CENTERS[held])) > half_width + hysteresis:
            held = band_of(psi, half_width)
        views.append(held)
    return views


def turn_speed(psi_T: np.ndarray, fps: float) -> np.ndarray:
    """Degrees a second, by central differences; NaN beside missing frames."""
    padded = np.pad(psi_T, 1, mode="edge")
    steps = np.full(len(psi_T), 2.0)
    steps[[0, -1]] = 1.0 if len(psi_T) > 1 else np.inf
    return np.abs(wrapped(padded[2:] - padded[:-2])) * fps / steps


def dwelling_runs(views: list[str | None], min_frames: int) -> list[ViewRun]:
    """Stretches of one view, the short ones left out."""
    runs, start = [], 0
    for idx in range(1, len(views) + 1):
        if idx == len(views) or views[idx] != views[start]:
            label = views[start]
            if label is not None and idx - start >= min_frames:
                runs.append(ViewRun(label, start, idx))
            start = idx
    return runs


class ViewLabels(NamedTuple):
    """What was found on the grid."""

    runs: list[ViewRun]
    psi_T: np.ndarray
    """Smoothed."""
    speed_T: np.ndarray
    refused: dict[str, int]
    """Frames that show no view, by reason."""


def label_views(
    psi_T: np.ndarray,
    upright_T: np.ndarray,
    elevation_T: np.ndarray,
    head_psi_T: np.ndarray | None,
    fps: float,
    thresholds: ViewThresholds,
) -> ViewLabels:
    """Runs of frames that show one view.

    Args:
        head_psi_T: None, or NaN where the head is not known.
    """
    smooth_T = circular_median(psi_T, round(thresholds.median_seconds * fps) | 1)
    speed_T = turn_speed(smooth_T, fps)
    views = held_views(smooth_T, thresholds.half_width, thresholds.hysteresis)
    refused: dict[str, int] = {}
    for idx in range(len(views)):
        reason = None
        if np.isnan(psi_T[idx]):
            reason = "no body pose"
        elif upright_T[idx] < thresholds.min_upright:
            reason = "bends or lies"
        elif abs(elevation_T[idx]) > thresholds.max_elevation:
            reason = "camera too high or too low"
        elif speed_T[idx] > thresholds.max_speed:
            reason = "turns too fast"
        elif views[idx] is None:
            reason = "between two views"
        elif views[idx] == "front" and head_psi_T is not None and abs(head_psi_T[idx]) > thresholds.max_head_psi:
            reason = "front view with the face turned away"
        if reason is not None:
            views[idx] = None
            refused[reason] = refused.get(reason, 0) + 1
    runs = dwelling_runs(views, max(1, round(thresholds.dwell_seconds * fps)))
    brief = sum(view is not None for view in views) - sum(run.stop - run.start for run in runs)
    if brief:
        refused["view held too briefly"] = brief
    return ViewLabels(runs, smooth_T, speed_T, refused)


def best_moments(run: ViewRun, labels: ViewLabels, fps: float, apart_seconds: float, most: int) -> list[int]:
    """Frames of a run, nearest to the view's middle first, none close to another."""
    frames = np.arange(run.start, run.stop)
    off_T = np.abs(wrapped(labels.psi_T[frames] - CENTERS[run.label])) + 0.1 * labels.speed_T[frames]
    chosen: list[int] = []
    for frame in frames[np.argsort(off_T, kind="stable")].tolist():
        if all(abs(frame - other) >= apart_seconds * fps for other in chosen):
            chosen.append(frame)
        if len(chosen) == most:
            break
    return chosen
