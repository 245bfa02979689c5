"""A program and a stretch of time enter, the prompt for it leaves: turning, speaking, feeling, in a small vocabulary.

The view at the start of the stretch is not said: the start image shows it.
"""

import math

import numpy as np

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from .program import VIEWS_BY_QUARTER, Program, Turn

VOCABULARY = (
    *("the", "character", "turns", "keeps", "facing", "to", "over", "around", "then", "feels", "speaking", "silent"),
    *VIEWPOINTS,
    *EXPRESSIONS,
)
# A turn is told if so much of it falls into the stretch.
_TOLD_YAW = math.radians(25)
_TOLD_MOOD_SECONDS = 0.25
# A stretch is spoken if the mouth's opening by speech exceeds this on average.
_SPOKEN = 0.08


def caption(program: Program, start: float, seconds: float, speech: np.ndarray | None) -> str:
    """What happens between `start` and `start + seconds`.

    Args:
        speech: opening of the mouth that the speech asks for, at any rate, over the stretch; None: silent.
    """
    is_speaking = speech is not None and float(np.mean(speech)) > _SPOKEN
    return f"the character {_motion(program, start, seconds)}, {_feeling(program, start, seconds)}, " + (
        "speaking" if is_speaking else "silent"
    )


def _motion(program: Program, start: float, seconds: float) -> str:
    end = start + seconds
    told = [turn for turn in program.turns if _yaw_inside(turn, start, end) > _TOLD_YAW]
    if not told:
        return f"keeps facing the {program.view_at(start + seconds / 2)}"
    return " then ".join(_turn_words(program, turn) for turn in told)


def _turn_words(program: Program, turn: Turn) -> str:
    """A quarter is clear from its goal; a half turn or a whole one also names the view it passes first."""
    target = program.view_at(turn.end)
    if abs(turn.quarters) == 1:
        return f"turns to the {target}"
    quarter = turn.quarters // abs(turn.quarters)
    before = VIEWS_BY_QUARTER.index(program.view_at(turn.start))
    way = VIEWS_BY_QUARTER[(before + quarter) % 4]
    return f"turns around over the {way}" if abs(turn.quarters) == 4 else f"turns over the {way} to the {target}"


def _feeling(program: Program, start: float, seconds: float) -> str:
    end = start + seconds
    words: list[str] = []
    for idx, mood in enumerate(program.moods):
        until = program.moods[idx + 1].start if idx + 1 < len(program.moods) else math.inf
        if min(until, end) - max(mood.start, start) >= min(_TOLD_MOOD_SECONDS, seconds / 2):
            words.append(mood.expression)
    return "feels " + " then ".join(words)


def _yaw_inside(turn: Turn, start: float, end: float) -> float:
    """How far a turn goes within a stretch."""
    begin, stop = max(start, turn.start), min(end, turn.end)
    if stop <= begin:
        return 0.0
    alone = Program(seconds=turn.end, turns=(turn,))
    before, after = alone.turn_yaw(np.array([begin, stop]))
    return abs(float(after - before))
