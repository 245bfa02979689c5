"""The text of an anchor board. Run: python -m pytest tests/core/test_board.py"""

import json

import pytest

from gloria_core.conditioning.anchors import EXPRESSIONS, LABELS, VIEWPOINTS
from gloria_core.conditioning.board import KIND_OF_SLOT, MAX_TEXT_CHARS, parse_board
from gloria_core.errors import AnchorError


def test_slots_are_all_labels_of_all_kinds():
    assert list(KIND_OF_SLOT) == ["global", *VIEWPOINTS, *EXPRESSIONS]
    assert all(label in LABELS[kind] for label, kind in KIND_OF_SLOT.items())


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_an_empty_text_is_an_empty_board(text):
    assert parse_board(text) == {}


def test_files_come_back_in_the_order_of_the_slots():
    files = {slot: f"folder/{slot} \u6620.png [output]" for slot in KIND_OF_SLOT}
    shuffled = json.dumps(dict(reversed(files.items())))
    assert list(parse_board(shuffled).items()) == list(files.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("front: her.png", "not JSON"),
        ('{"front": "her.png"', "not JSON"),
        ("[" * 100_000, "holds 100000 characters|not JSON"),
        ("[" * (MAX_TEXT_CHARS - 1), "not JSON"),
        ('["her.png"]', "JSON list, expected slots"),
        ("null", "JSON NoneType, expected slots"),
        ('{"Front": "her.png"}', r"slot 'Front'\. Known slots are: global, front, back"),
        ('{"front": 3}', "slot front of the anchor board holds '3'"),
        ('{"front": null}', "slot front .* Leave an empty slot out"),
        ('{"front": " "}', "slot front .* Leave an empty slot out"),
        ('{"front": ["a.png", "b.png"]}', "slot front"),
        ('{"front": "a.png", "back": "b.png", "front": "c.png"}', "slot 'front' twice"),
        (json.dumps({"front": "x" * MAX_TEXT_CHARS}), "expected at most"),
    ],
)
def test_what_is_no_board_is_refused_and_named(text, message):
    with pytest.raises(AnchorError, match=message):
        parse_board(text)
