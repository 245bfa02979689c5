"""Who lives in the toy world. Run: python -m pytest tests/core/toyworld/test_characters.py"""

import numpy as np
import pytest

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.errors import ToyWorldError
from gloria_core.toyworld.character import (
    NUM_HELD_OUT,
    held_out_character,
    is_held_out,
    training_character,
)
from gloria_core.toyworld.palette import MARK_COLORS, to_lab
from gloria_core.toyworld.shapes2d import MARK_SHAPES

MANY = 2000


@pytest.fixture(scope="module")
def crowd():
    return [training_character(index) for index in range(MANY)]


def test_held_out_characters_share_their_details_with_nobody(crowd):
    held_out = [held_out_character(index) for index in range(NUM_HELD_OUT)]
    details = {(character.marks, character.quirks) for character in held_out}
    assert len(details) == NUM_HELD_OUT
    # By construction, not by luck: a rule over the details alone says which side a character belongs to.
    assert all(is_held_out(character.marks, character.quirks) for character in held_out)
    assert not any(is_held_out(character.marks, character.quirks) for character in crowd)


def test_a_number_names_one_character_for_good():
    assert training_character(7) == training_character(7)
    assert training_character(7) != training_character(8)
    with pytest.raises(ToyWorldError, match=f"0 to {NUM_HELD_OUT - 1}, not {NUM_HELD_OUT}"):
        held_out_character(NUM_HELD_OUT)
    with pytest.raises(ToyWorldError, match="numbered from 0, got -1"):
        training_character(-1)


def test_no_side_tells_another(crowd):
    """Independent draws: the joint counts of every pair of details stay within chance (chi square, 49 freedoms)."""
    columns = [
        [getattr(character.marks[side], part) for character in crowd]
        for side in range(4)
        for part in ("shape", "color")
    ]
    columns += [[character.quirks[idx] for character in crowd] for idx in range(len(EXPRESSIONS))]
    for first in range(len(columns)):
        for second in range(first):
            table = np.histogram2d(columns[first], columns[second], bins=8, range=[[0, 8], [0, 8]])[0]
            expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            assert ((table - expected) ** 2 / expected).sum() < 49 + 6 * np.sqrt(2 * 49)


def test_every_shape_and_color_is_equally_frequent(crowd):
    for view in VIEWPOINTS:
        for part, kinds in (("shape", MARK_SHAPES), ("color", MARK_COLORS)):
            counts = np.bincount([getattr(each.mark(view), part) for each in crowd], minlength=len(kinds))
            assert ((counts - MANY / 8) ** 2 / (MANY / 8)).sum() < 7 + 6 * np.sqrt(2 * 7)


def test_marks_stand_out_from_the_shirt(crowd):
    def contrast(character):
        shirt = to_lab(np.array(character.shirt))
        return min(np.linalg.norm(shirt - to_lab(np.array(MARK_COLORS[mark.color]))) for mark in character.marks)

    assert min(contrast(character) for character in crowd) > 25


def test_lab_is_the_standard_one():
    """The published Lab values (D65) of the primaries of sRGB."""
    expected = [[53.2408, 80.0925, 67.2032], [87.7347, -86.1827, 83.1793], [32.2970, 79.1875, -107.8602]]
    np.testing.assert_allclose(to_lab(np.eye(3)), expected, atol=0.03)
    np.testing.assert_allclose(to_lab(np.ones(3)), [100, 0, 0], atol=0.03)
