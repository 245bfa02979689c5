"""What moves and what is said about it. Run: python -m pytest tests/core/toyworld/test_programs.py"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.errors import ToyWorldError
from gloria_core.toyworld.captions import VOCABULARY, caption
from gloria_core.toyworld.program import Mood, Program, Turn, frame_times, make_program, script

QUARTER = math.pi / 2


@pytest.mark.parametrize(
    ("start", "quarters", "words"),
    [
        ("front", -1, "turns to the left"),
        ("front", 1, "turns to the right"),
        ("left", 1, "turns to the front"),
        ("left", -1, "turns to the back"),
        ("back", -1, "turns to the right"),
        ("front", -2, "turns over the left to the back"),
        ("back", 2, "turns over the left to the front"),
        ("right", -2, "turns over the front to the left"),
        ("front", 4, "turns around over the right"),
    ],
)
def test_turns_are_told_by_the_views_they_show(start, quarters, words):
    program = Program(seconds=8, start_view=start, turns=(Turn(1.0, 2.0, quarters),), moods=(Mood(0.0, "happy"),))
    assert caption(program, 0.0, 4.0, None) == f"the character {words}, feels happy, silent"
    assert f"keeps facing the {program.view_at(3.5)}," in caption(program, 3.2, 3.0, None)


def test_a_stretch_tells_only_what_happens_in_it():
    program = script([(0, "front"), (2, "left"), (6, "back")], [(0, "sad"), (5, "angry")], seconds=12)
    assert caption(program, 0, 2, None) == "the character keeps facing the front, feels sad, silent"
    assert caption(program, 1.5, 2, np.full(20, 0.5)) == "the character turns to the left, feels sad, speaking"
    assert caption(program, 1, 8, None) == (
        "the character turns to the left then turns to the back, feels sad then angry, silent"
    )
    assert caption(program, 8, 3, None) == "the character keeps facing the back, feels angry, silent"


def test_a_script_reaches_its_views_by_the_shorter_way():
    facings = [(0, "front"), (1, "right"), (4, "front"), (7, "left"), (10, "back"), (14, "right"), (17, "left")]
    program = script(facings, [(0, "neutral")], seconds=24)
    assert [turn.quarters for turn in program.turns] == [1, -1, -1, -1, -1, -2]
    for (_, view), (until, _) in pairwise([*facings, (24, "")]):
        assert program.view_at(until - 0.05) == view


def test_captions_keep_to_their_vocabulary():
    used = set()
    for seed in range(40):
        program = make_program(seed)
        for start in np.arange(0, 20, 1.3):
            used |= set(caption(program, start, 2.7, np.full(4, 0.3) if seed % 2 else None).replace(",", "").split())
    assert used == set(VOCABULARY)


def test_every_frame_rate_shows_the_same_film():
    program = make_program(5)
    fine = program.poses(frame_times(0, 240, 24))
    for fps, step in ((12, 2), (8, 3)):
        coarse = program.poses(frame_times(0, 240 // step, fps))
        torch.testing.assert_close(coarse.yaw_T, fine.yaw_T[::step])
        torch.testing.assert_close(coarse.expression_TE, fine.expression_TE[::step])
    later = program.poses(frame_times(48, 24, 24))
    torch.testing.assert_close(later.camera_T3, fine.camera_T3[48:72])


@pytest.mark.parametrize("seed", range(12))
def test_motion_is_smooth_and_turns_are_whole(seed):
    program = make_program(seed)
    states = program.poses(frame_times(0, 576, 24))
    step = torch.remainder(states.yaw_T.diff() + math.pi, 2 * math.pi) - math.pi
    # The fastest turn is 1.25 quarters a second on average and less than twice that in its middle.
    assert step.abs().max() < 2 * 1.25 * QUARTER / 24 + 0.02
    torch.testing.assert_close(states.expression_TE.sum(1), torch.ones(576))
    lead = torch.remainder(states.head_yaw_T - states.yaw_T + math.pi, 2 * math.pi) - math.pi
    assert lead.abs().max() < math.radians(40 + 14.1)
    assert all(turn.end <= program.seconds for turn in program.turns)
    assert {turn.quarters for turn in program.turns} <= {-4, -2, -1, 1, 2, 4}


def test_the_head_leads_into_a_turn():
    program = Program(seconds=6, turns=(Turn(2.0, 1.0, -1),), glance=Program.glance.__class__(0, 1, 0))
    states = program.poses([1.0, 2.1, 2.3])
    lead = states.head_yaw_T - states.yaw_T
    assert abs(lead[0]) < 1e-6
    assert lead[1] < -0.05
    assert lead[2] < lead[1]


def test_programs_that_make_no_sense_are_refused():
    with pytest.raises(ToyWorldError, match="overlap"):
        Program(seconds=5, turns=(Turn(1, 2, 1), Turn(2, 1, 1)))
    with pytest.raises(ToyWorldError, match="Unknown mood 'smug'"):
        Program(seconds=5, moods=(Mood(0.0, "smug"),))
    with pytest.raises(ToyWorldError, match="first one at 0 s"):
        Program(seconds=5, moods=(Mood(1.0, "happy"),))
    with pytest.raises(ToyWorldError, match="'up', expected one of front, back"):
        Program(seconds=5, start_view="up")


def test_all_expressions_and_views_come_up():
    programs = [make_program(seed) for seed in range(30)]
    assert {mood.expression for program in programs for mood in program.moods} == set(EXPRESSIONS)
    assert {program.start_view for program in programs} == {"front", "back", "left", "right"}


def test_some_videos_are_calm_for_longer_than_a_chunk():
    """A talk to the camera, chunk after chunk in which nothing turns, has to be in the training data."""
    stretch = 37 / 8
    captions = [
        caption(make_program(seed), start * stretch, stretch, None) for seed in range(100) for start in range(5)
    ]
    assert 0.1 < np.mean(["keeps facing" in text for text in captions]) < 0.25
    assert any("keeps facing the front" in text and " then " not in text for text in captions)
