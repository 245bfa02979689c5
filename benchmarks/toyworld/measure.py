"""A film's truth and the frames of an arm enter, numbers leave, None where the frames never show what is asked.

An unreadable frame counts as wrong: its turn as 90 degrees off, which is what guessing gives.

Legend: T read frames, V views, H W pixels, C colors, K lags.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.shapes import TEMPORAL_STRIDE
from gloria_core.toyworld.character import Mark
from gloria_core.toyworld.face import mouth_opening
from gloria_core.toyworld.poses import Poses
from gloria_core.toyworld.program import frame_times
from gloria_core.toyworld.readout import FACE_WITHIN, Reading

from .films import Film, seams_of
from .sample import Shot

MAX_LAG = 6
_GUESSED_DEGREES = 90.0
_COPY_DEGREES = 10.0
_SETTLED = 0.95
# The mouth is asked where the expression leaves it nearly closed, and if that is so in enough frames.
_MAX_OWN_OPENING, _MIN_SPOKEN_FRAMES = 0.3, 16
FRONT, _BACK = VIEWPOINTS.index("front"), VIEWPOINTS.index("back")


@dataclass(frozen=True, eq=False)
class Seen:
    """What an arm's frames show, beside what they should show.

    Args:
        frames_T: numbers of the frames that were read, in order.
    """

    film: Film
    shot: Shot
    frames_T: Tensor
    reading: Reading
    truth: Poses

    @property
    def places(self) -> Tensor:
        """Place of each frame in the film, in chunks of the full model."""
        first, *rest = seams_of(self.film.plan)
        return (self.frames_T - first) / (rest[0] - first if rest else first) + 1

    @property
    def asked(self) -> Tensor:
        """Frames of each chunk's last latent: by then what its prompt tells is done."""
        ends = torch.tensor([*seams_of(self.film.plan), self.film.num_frames])
        return ((self.frames_T[:, None] < ends) & (self.frames_T[:, None] >= ends - TEMPORAL_STRIDE)).any(1)

    @property
    def faces(self) -> Tensor:
        """Readable frames with a face."""
        return self.reading.is_readable_T & self.reading.sees_face_T


def look_at(film: Film, shot: Shot, read: Callable[[Tensor], Reading], every: int = 1) -> Seen:
    """Read every so many frames, and all that are asked.

    Args:
        read: `Reader(film.source).read`.
    """
    plain = torch.arange(film.num_frames)
    ends = [end - 1 - back for end in (*seams_of(film.plan), film.num_frames) for back in range(TEMPORAL_STRIDE)]
    chosen = (plain % every == 0) | torch.isin(plain, torch.tensor(ends))
    frames_T = plain[chosen]
    return Seen(film, shot, frames_T, read(shot.frames_THWC[frames_T]), film.truth()[frames_T])


def measure(seen: Seen) -> dict[str, float | None]:
    """Every number of a film, by name."""
    return {
        **_motion(seen),
        **_marks(seen),
        **_moods(seen),
        **_drift(seen),
        **_sync(seen),
        "copy": _copy_rate(seen),
        "seam_jump": seam_jump(seen.shot.frames_THWC, seen.shot.seams),
        "chunk_seconds": seen.shot.chunk_seconds,
    }


def _motion(seen: Seen) -> dict[str, float | None]:
    readable_T = seen.reading.is_readable_T
    error_T = degrees_between(seen.reading.poses.yaw_T, seen.truth.yaw_T)
    error_T = torch.where(readable_T, error_T, _GUESSED_DEGREES)
    times = frame_times(0, seen.film.num_frames, seen.film.source.fps)
    turn_F = torch.from_numpy(seen.film.source.program.turn_yaw(times))
    quarters_T = turn_F[seen.frames_T] / (math.pi / 2)
    is_held_T = (quarters_T - quarters_T.round()).abs() < 1e-6
    return {
        "readable": _mean(readable_T),
        "yaw_error": _mean(error_T),
        "view_error": _mean(error_T[seen.asked & is_held_T]),
    }


def _marks(seen: Seen) -> dict[str, float | None]:
    reading, marks = seen.reading, seen.film.source.character.marks
    visible_TV, unseen_TV = reading.sees_mark_TV, marks_told_by_anchors(reading)
    color_TV, right_TV = right_marks(reading, marks)
    chunk_TV = seen.places[:, None].expand_as(visible_TV)
    swapped_T = (reading.mark_shape_TV[:, _BACK] == marks[FRONT].shape) & (
        reading.mark_color_TV[:, _BACK] == marks[FRONT].color
    )
    can_swap = marks[FRONT] != marks[_BACK]
    return {
        "mark_seen": _mean(right_TV[:, FRONT][visible_TV[:, FRONT]]),
        "mark_unseen": _mean(right_TV[unseen_TV]),
        "mark_color_unseen": _mean(color_TV[unseen_TV]),
        "mark_drift": slope(chunk_TV[visible_TV], right_TV[visible_TV].float()),
        "back_shows_front": _mean(swapped_T[visible_TV[:, _BACK] & reading.is_readable_T]) if can_swap else None,
    }


def right_marks(reading: Reading, marks: Sequence[Mark]) -> tuple[Tensor, Tensor]:
    """Whether the color of each mark, and its color and shape, are the character's own [T, V], each."""
    shape_V, color_V = (torch.tensor(values) for values in zip(*((m.shape, m.color) for m in marks), strict=True))
    color_TV = (reading.mark_color_TV == color_V) & reading.is_readable_T[:, None]
    return color_TV, color_TV & (reading.mark_shape_TV == shape_V)


def marks_told_by_anchors(reading: Reading) -> Tensor:
    """Visible marks [T, V] but the front's, which the start image and the global anchor show."""
    unseen_TV = reading.sees_mark_TV.clone()
    unseen_TV[:, FRONT] = False
    return unseen_TV


def _moods(seen: Seen) -> dict[str, float | None]:
    reading, truth = seen.reading, seen.truth
    read_T, wanted_T = reading.expressions(), truth.expression_TE.argmax(1)
    faces_camera_T = truth.head_yaw_T.abs() <= FACE_WITHIN
    asked_T = seen.asked & faces_camera_T & (truth.expression_TE.amax(1) > _SETTLED)
    worn = int(seen.film.view_poses.expression_TE[FRONT].argmax())
    can_leak_T = asked_T & seen.faces & (wanted_T != worn)
    # Cheeks of these moods are in no picture but the expression anchors.
    known = {worn, int(seen.film.global_pose.expression_TE.argmax()), _first_mood(seen.film)}
    only_told = [EXPRESSIONS.index(name) for name in seen.film.expressions() if EXPRESSIONS.index(name) not in known]
    quirk_T = torch.tensor(seen.film.source.character.quirks)[read_T]
    shows_told_T = seen.faces & torch.isin(read_T, torch.tensor(only_told, dtype=read_T.dtype))
    return {
        "expression": _mean(((read_T == wanted_T) & seen.faces)[asked_T]),
        "leak": _mean((read_T == worn)[can_leak_T]),
        "quirk": _mean((reading.quirk_T == quirk_T)[shows_told_T]),
    }


def _first_mood(film: Film) -> int:
    return EXPRESSIONS.index(film.source.program.moods[0].expression)


def _drift(seen: Seen) -> dict[str, float | None]:
    reading, chunk_T = seen.reading, seen.places
    return {
        "room_delta": _mean(reading.room_delta_T),
        "palette_delta": _mean(reading.palette_delta_T),
        "room_drift": slope(chunk_T, reading.room_delta_T),
        "palette_drift": slope(chunk_T, reading.palette_delta_T),
        "identity_drift": slope(chunk_T, 100 * reading.misfit_T),
    }


def _copy_rate(seen: Seen) -> float | None:
    """How often a frame has the pose of the global or the front anchor where the program has not."""
    copies, chances = 0, 0
    for pose in (seen.film.global_pose, seen.film.view_poses[FRONT : FRONT + 1]):
        mood = int(pose.expression_TE.argmax())
        is_elsewhere_T = (degrees_between(seen.truth.yaw_T, pose.yaw_T) > 2 * _COPY_DEGREES) | (
            seen.truth.expression_TE[:, mood] < 1 - _SETTLED
        )
        is_like_T = (degrees_between(seen.reading.poses.yaw_T, pose.yaw_T) < _COPY_DEGREES) & (
            seen.reading.expressions() == mood
        )
        copies += int((is_like_T & seen.faces & is_elsewhere_T).sum())
        chances += int((seen.reading.is_readable_T & is_elsewhere_T).sum())
    return copies / chances if chances else None


def _sync(seen: Seen) -> dict[str, float | None]:
    """The mouth's correlation with the speech of the moment, the best lag's lead over the median lag, and that lag."""
    own_T = mouth_opening(seen.reading.poses.expression_TE, torch.zeros(len(seen.frames_T)))
    is_asked_T = seen.faces & (own_T <= _MAX_OWN_OPENING)
    nothing: dict[str, float | None] = {"sync": None, "sync_contrast": None, "sync_lag": None}
    inside_T = (seen.frames_T >= MAX_LAG) & (seen.frames_T < seen.film.num_frames - MAX_LAG)
    is_asked_T = is_asked_T & inside_T
    if int(is_asked_T.sum()) < _MIN_SPOKEN_FRAMES:
        return nothing
    mouth_T = seen.reading.poses.mouth()[is_asked_T]
    speech_F = torch.from_numpy(seen.film.source.speech_T)
    lags = range(-MAX_LAG, MAX_LAG + 1)
    by_lag_K = [correlation(mouth_T, speech_F[seen.frames_T[is_asked_T] - lag]) for lag in lags]
    best = int(np.argmax(by_lag_K))
    return {
        "sync": by_lag_K[MAX_LAG],
        "sync_contrast": by_lag_K[best] - float(np.median(by_lag_K)),
        "sync_lag": float(lags[best]),
    }


def seam_jump(frames_THWC: Tensor, seams: Sequence[int]) -> float | None:
    """Change of the picture at seams, relative to that at the boundaries of latents beside them; 1: no seam is seen."""
    at_seams, beside = [], []
    change_T = (frames_THWC[1:] - frames_THWC[:-1]).abs().mean((1, 2, 3))
    for seam in seams:
        if TEMPORAL_STRIDE < seam <= len(change_T) - TEMPORAL_STRIDE:
            at_seams.append(float(change_T[seam - 1]))
            beside += [float(change_T[seam - 1 - TEMPORAL_STRIDE]), float(change_T[seam - 1 + TEMPORAL_STRIDE])]
    if not at_seams or sum(beside) == 0:
        return None
    return float(np.mean(at_seams) / np.mean(beside))


def slope(x_T: Tensor, y_T: Tensor) -> float | None:
    """Rise of the least-squares line of y over x."""
    if len(x_T) < 2 or float(x_T.max()) == float(x_T.min()):
        return None
    x, y = (values.double() - values.double().mean() for values in (x_T, y_T))
    return float((x * y).sum() / (x * x).sum())


def correlation(first_T: Tensor, second_T: Tensor) -> float:
    """Pearson's r; 0 if one of them is constant."""
    first, second = (values.double() - values.double().mean() for values in (first_T, second_T))
    length = float(first.norm() * second.norm())
    return float((first * second).sum()) / length if length > 1e-9 else 0.0


def degrees_between(first_T: Tensor, second_T: Tensor) -> Tensor:
    """Angles between directions."""
    return torch.rad2deg((torch.remainder(first_T - second_T + math.pi, 2 * math.pi) - math.pi).abs())


def _mean(values_T: Tensor) -> float | None:
    return float(values_T.double().mean()) if len(values_T) else None
