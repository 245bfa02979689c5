"""A seed or a script enters, poses at any frame rate leave: turns, expressions, sway and camera of one source video.

Legend: T frames, E expressions. Times are seconds, angles radians; a negative turn goes to the image's left, where the
character's left side shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import ToyWorldError
from .poses import Poses

FPS = 24.0
# Yaw of the views; "left" shows the character's left side.
VIEW_YAW = {"front": 0.0, "right": math.pi / 2, "back": math.pi, "left": -math.pi / 2}
# The same views, a quarter turn to the image's right after each.
VIEWS_BY_QUARTER = ("front", "right", "back", "left")
_STREAM = 31
# Quarter turns a second.
_TURN_SPEED = (0.8, 1.25)
_HOLD_SECONDS = (0.7, 3.0)
_MOOD_SECONDS = (1.5, 5.0)
# In calm videos the character stays as it is for longer than a chunk lasts: with busy ones alone, a chunk in which
# nothing turns, what a talk to the camera consists of, would hardly ever be seen in training.
_CALM_SHARE, _CALM_SECONDS = 0.3, (4.0, 14.0)
_CALM_STREAM = 37
_MOOD_FADE = 0.3
_HEAD_LEAD_SECONDS = 0.22
_MAX_HEAD_LEAD = math.radians(40)
_MAX_GLANCE = math.radians(14)
_CAMERA_Y = 0.51


@dataclass(frozen=True)
class Turn:
    """A smooth turn by 1, 2 or 4 quarters, negative to the image's left; 4 is once around."""

    start: float
    seconds: float
    quarters: int

    @property
    def end(self) -> float:
        """When it is done."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Mood:
    """An expression that is worn from `start` until the next mood."""

    start: float
    expression: str


@dataclass(frozen=True)
class Wave:
    """A slow swing: sum of two sines."""

    amplitude: float
    hertz: float
    phase: float

    def __call__(self, times: np.ndarray) -> np.ndarray:
        angle = 2 * math.pi * (self.hertz * times + self.phase)
        return self.amplitude * (0.7 * np.sin(angle) + 0.3 * np.sin(1.618 * angle + 1.0))


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that moves in a source video, apart from the mouth."""

    seconds: float
    start_view: str = "front"
    turns: tuple[Turn, ...] = ()
    moods: tuple[Mood, ...] = (Mood(0.0, "neutral"),)
    x: float = 0.0
    """Where the character stands."""
    sway: Wave = Wave(0.012, 0.23, 0.0)
    breath: Wave = Wave(0.006, 0.4, 0.0)
    drift: Wave = Wave(math.radians(4), 0.11, 0.0)
    """Yaw around the view that is held."""
    glance: Wave = Wave(math.radians(7), 0.17, 0.3)
    """The head's own yaw."""
    pan: Wave = Wave(0.05, 0.05, 0.0)
    tilt: Wave = Wave(0.012, 0.06, 0.5)
    zoom: Wave = Wave(0.05, 0.04, 0.2)

    def __post_init__(self) -> None:
        if self.start_view not in VIEWPOINTS:
            raise ToyWorldError(f"The start view is '{self.start_view}', expected one of {', '.join(VIEWPOINTS)}.")
        if not self.moods or self.moods[0].start != 0:
            raise ToyWorldError("A program needs moods, the first one at 0 s.")
        for mood in self.moods:
            if mood.expression not in EXPRESSIONS:
                raise ToyWorldError(f"Unknown mood '{mood.expression}', expected one of {', '.join(EXPRESSIONS)}.")
        if any(first.end > second.start for first, second in zip(self.turns, self.turns[1:], strict=False)):
            raise ToyWorldError("Turns overlap: start each after the one before has ended.")

    def turn_yaw(self, times: np.ndarray) -> np.ndarray:
        """Yaw of the turns alone, not wrapped."""
        yaw = np.full(times.shape, VIEW_YAW[self.start_view])
        for turn in self.turns:
            yaw += turn.quarters * (math.pi / 2) * _smooth((times - turn.start) / turn.seconds)
        return yaw

    def view_at(self, time: float) -> str:
        """The view that is held, or nearest, at a time."""
        quarters = round(float(self.turn_yaw(np.array([time]))[0]) / (math.pi / 2))
        return VIEWS_BY_QUARTER[quarters % 4]

    def expression_at(self, time: float) -> str:
        """The expression of the mood at a time."""
        return [mood for mood in self.moods if mood.start <= time][-1].expression

    def poses(self, times: Sequence[float] | np.ndarray, speech: np.ndarray | None = None) -> Poses:
        """State at each time.

        Args:
            speech: opening of the mouth that the speech asks for at each time; None: silent.
        """
        times = np.asarray(times, dtype=np.float64)
        speech = np.zeros(times.shape) if speech is None else np.asarray(speech)
        yaw = self.turn_yaw(times)
        lead = np.clip(self.turn_yaw(times + _HEAD_LEAD_SECONDS) - yaw, -_MAX_HEAD_LEAD, _MAX_HEAD_LEAD)
        yaw = yaw + self.drift(times)
        sway = self.sway(times)
        camera = np.stack([self.pan(times), _CAMERA_Y + self.tilt(times), np.exp(self.zoom(times))], -1)
        return Poses(
            yaw_T=_tensor(_wrapped(yaw)),
            head_yaw_T=_tensor(_wrapped(yaw + lead + np.clip(self.glance(times), -_MAX_GLANCE, _MAX_GLANCE))),
            x_T=_tensor(self.x + sway),
            bob_T=_tensor(np.abs(self.breath(times)) + 0.012 * speech),
            lean_T=_tensor(1.5 * sway),
            expression_TE=_tensor(self._expressions(times)),
            speech_T=_tensor(speech),
            camera_T3=_tensor(camera),
        )

    def _expressions(self, times: np.ndarray) -> np.ndarray:
        weights = np.zeros((*times.shape, len(EXPRESSIONS)))
        weights[:, EXPRESSIONS.index(self.moods[0].expression)] = 1
        for mood in self.moods[1:]:
            share = _smooth((times - mood.start) / _MOOD_FADE)[:, None]
            weights *= 1 - share
            weights[:, EXPRESSIONS.index(mood.expression)] += share[:, 0]
        return weights


def make_program(seed: int, seconds: float = 24.0) -> Program:
    """The random program of this number: busy, or calm."""
    rng = np.random.default_rng((_STREAM, seed))
    is_calm = np.random.default_rng((_CALM_STREAM, seed)).random() < _CALM_SHARE
    return Program(
        seconds=seconds,
        start_view=VIEWPOINTS[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))],
        turns=_random_turns(rng, seconds, is_calm),
        moods=_random_moods(rng, seconds, is_calm),
        x=rng.uniform(-0.06, 0.06),
        sway=_wave(rng, 0.004, 0.018, 0.15, 0.4),
        breath=_wave(rng, 0.003, 0.008, 0.3, 0.5),
        drift=_wave(rng, math.radians(2), math.radians(7), 0.06, 0.2),
        glance=_wave(rng, math.radians(3), math.radians(14), 0.1, 0.3),
        pan=_wave(rng, 0.01, 0.08, 0.03, 0.08),
        tilt=_wave(rng, 0.0, 0.02, 0.03, 0.08),
        zoom=_wave(rng, 0.0, 0.07, 0.03, 0.08),
    )


def script(
    facings: Sequence[tuple[float, str]],
    moods: Sequence[tuple[float, str]],
    seconds: float,
    program: Program | None = None,
) -> Program:
    """A program that reaches each view at its time by the shorter way, at a quarter a second.

    Args:
        facings: (when the turn starts, view), the first at 0; half turns go to the image's left first.
        moods: (time, expression), the first at 0.
        program: where everything else comes from.
    """
    if not facings or facings[0][0] != 0:
        raise ToyWorldError("A script needs facings, the first one at 0 s.")
    turns, view = [], facings[0][1]
    for time, target in facings[1:]:
        quarters = round((VIEW_YAW[target] - VIEW_YAW[view]) / (math.pi / 2)) % 4
        quarters = quarters if quarters == 1 else quarters - 4
        if quarters != -4:
            turns.append(Turn(time, float(abs(quarters)), quarters))
        view = target
    return replace(
        program or Program(seconds=seconds),
        seconds=seconds,
        start_view=facings[0][1],
        turns=tuple(turns),
        moods=tuple(Mood(*mood) for mood in moods),
    )


def frame_times(first_frame: int, num_frames: int, fps: float) -> np.ndarray:
    """Seconds of frames of the whole video, counted from its start."""
    return (first_frame + np.arange(num_frames)) / fps


def _random_turns(rng: np.random.Generator, seconds: float, is_calm: bool) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    hold = _CALM_SECONDS if is_calm else _HOLD_SECONDS
    time = rng.uniform(*_CALM_SECONDS) if is_calm else rng.uniform(0.2, 2.0)
    while True:
        quarters = int(rng.choice((1, 2, 4), p=(0.55, 0.33, 0.12)) * rng.choice((-1, 1)))
        length = abs(quarters) / rng.uniform(*_TURN_SPEED)
        if time + length > seconds:
            return tuple(turns)
        turns.append(Turn(time, length, quarters))
        time += length + rng.uniform(*hold)


def _random_moods(rng: np.random.Generator, seconds: float, is_calm: bool) -> tuple[Mood, ...]:
    length = _CALM_SECONDS if is_calm else _MOOD_SECONDS
    moods = [Mood(0.0, EXPRESSIONS[rng.integers(len(EXPRESSIONS))])]
    time = rng.uniform(*length)
    while time < seconds:
        others = [name for name in EXPRESSIONS if name != moods[-1].expression]
        moods.append(Mood(time, others[rng.integers(len(others))]))
        time += rng.uniform(*length)
    return tuple(moods)


def _wave(rng: np.random.Generator, low: float, high: float, slow: float, fast: float) -> Wave:
    return Wave(rng.uniform(low, high), rng.uniform(slow, fast), rng.uniform())


def _smooth(share: np.ndarray) -> np.ndarray:
    """0 before, 1 after, without a jerk between."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
