"""Cues of a timeline against a frame-by-frame count and closed forms.

Run: python -m pytest tests/core/test_cues.py
"""

import random
from collections import Counter
from fractions import Fraction

import pytest

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.conditioning.cues import (
    LABELS,
    Cue,
    check_labels,
    cue_of_span,
    cues_of_chunks,
    new_frames,
    parse_cues,
)
from gloria_core.errors import CueError
from gloria_core.sampling.plan import plan_chunks
from gloria_core.shapes import latent_frames_for

TEXT = """
0:00 she speaks to the camera
0:12 turns around

0:20.5 [happy, front] smiles
  1:02:03 [sad]
"""


def test_the_documented_form_is_read():
    assert parse_cues(TEXT) == (
        Cue(Fraction(0), "she speaks to the camera"),
        Cue(Fraction(12), "turns around"),
        Cue(Fraction(41, 2), "smiles", ("happy", "front")),
        Cue(Fraction(3723), "", ("sad",)),
    )


def test_until_the_first_cue_nothing_is_cued():
    assert parse_cues("0:03 waves") == (Cue(Fraction(0), ""), Cue(Fraction(3), "waves"))
    assert parse_cues("") == parse_cues(" \n\n") == (Cue(Fraction(0), ""),)


def test_times_are_written_as_they_are_read():
    times = ["0:00", "0:12", "0:20.5", "59:59.999", "1:00:00", "12:34:56.25"]
    lines = "\n".join(f"{time} x" for time in times)
    assert [cue.time for cue in parse_cues(lines)] == times
    assert parse_cues("90:30 x")[1].seconds == 5430


def test_labels_of_all_anchors_are_known_and_have_one_meaning():
    assert ("global", *VIEWPOINTS, *EXPRESSIONS) == LABELS
    assert len(set(LABELS)) == len(LABELS)
    (cue,) = parse_cues(f"0:00 [{', '.join(LABELS)}] x")
    assert cue.labels == LABELS


def test_only_named_anchors_and_the_global_one_are_active():
    (plain,) = parse_cues("0:00 x")
    assert all(plain.is_active(label) for label in LABELS)
    (named,) = parse_cues("0:00 [ Happy,front, happy ] x")
    assert [label for label in LABELS if named.is_active(label)] == ["global", "front", "happy"]
    (bare,) = parse_cues("0:00 [global] x")
    assert [label for label in LABELS if bare.is_active(label)] == ["global"]


def test_the_prompt_is_the_base_and_what_happens():
    assert Cue(Fraction(0), "she waves").prompt(" A woman in red. ") == "A woman in red. she waves"
    assert Cue(Fraction(0), "").prompt("A woman") == "A woman"
    assert Cue(Fraction(0), "she waves").prompt("") == "she waves"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("she speaks", r"Line 1 .*'she speaks', expected a time"),
        ("0:00 a\n12 b", r"Line 2 .*'12 b', expected a time"),
        ("0:00 a\n\n0:5 b", "Line 3 .*expected a time"),
        ("0:60 b", "Line 1 .*0:60, expected seconds and minutes below 60"),
        ("1:60:00 b", "Line 1 .*1:60:00, expected seconds"),
        ("0:00 a\n0:09 b\n0:09 c", "Line 3 .*begins at 0:09, expected a time after 0:09"),
        ("0:09 a\n0:08 b", "Line 2 .*begins at 0:08, expected a time after 0:09"),
        ("0:05", "Line 1 .*says nothing"),
        ("0:05 [hapy] b", "Line 1 .*'hapy', expected one or more of global, front"),
        ("0:05 [] b", "Line 1 .*names the anchor ''"),
        ("0:05 [happy b", r"Line 1 .*one list of anchors in \[ \]"),
        ("0:05 [happy] [sad] b", r"Line 1 .*one list of anchors in \[ \]"),
        ("-0:05 b", "Line 1 .*expected a time"),
        ("0:05.1234 b", "Line 1 .*expected a time"),
        ("0:\u0660\u0665 b", "Line 1 .*expected a time"),
        ("x" * 500, "Line 1 .*xx[.][.][.]'"),
    ],
)
def test_every_mistake_names_its_line_and_what_was_expected(text, match):
    with pytest.raises(CueError, match=match):
        parse_cues(text)


def test_an_anchor_without_an_image_is_refused_by_name():
    cues = parse_cues("0:00 a\n0:07 [happy] b")
    check_labels(cues, ("global", "happy"))
    with pytest.raises(CueError, match=r"cue at 0:07 names the anchor 'happy', but the anchors are global, sad"):
        check_labels(cues, ("global", "sad"))
    with pytest.raises(CueError, match="no anchors are connected"):
        check_labels(cues, ())


@pytest.mark.parametrize("pixel_frames", [1, 2, 5, 97, 100, 240])
@pytest.mark.parametrize(("chunk_latents", "prefix"), [(6, 4), (9, 4), (7, 0), (100, 4)])
def test_chunks_add_every_frame_of_the_film_once(pixel_frames, chunk_latents, prefix):
    plan = plan_chunks(latent_frames_for(pixel_frames), chunk_latents, prefix)
    frames = [frame for chunk in plan.chunks for frame in range(*new_frames(chunk, pixel_frames))]
    assert frames == list(range(pixel_frames))


def test_a_chunk_gets_the_cue_of_most_of_its_new_frames_counted_one_by_one():
    generator = random.Random(0)
    for _ in range(300):
        fps = generator.choice([Fraction(24), Fraction(24000, 1001), Fraction(16)])
        times = sorted(generator.sample(range(1, 120), generator.randint(0, 6)))
        cues = (Cue(Fraction(0), "0"), *(Cue(Fraction(time, 10), str(time)) for time in times))
        pixel_frames = generator.randint(1, 300)
        plan = plan_chunks(latent_frames_for(pixel_frames), generator.randint(5, 20), 4)
        for chunk, found in zip(plan.chunks, cues_of_chunks(cues, plan, pixel_frames, fps), strict=True):
            shown = [max(i for i, cue in enumerate(cues) if cue.seconds <= frame / fps)
                     for frame in range(*new_frames(chunk, pixel_frames))]  # fmt: skip
            counts = Counter(shown)
            assert found == min(counts, key=lambda i: (-counts[i], i))


def test_the_paper_s_chunks_in_closed_form():
    # 121 frames, then 108 new ones per chunk: the borders are at 121, 229, 337 frames = 5.04, 9.54, 14.04 s.
    plan = plan_chunks(latent_frames_for(445), 31, 4)
    assert [new_frames(chunk, 445) for chunk in plan.chunks] == [(0, 121), (121, 229), (229, 337), (337, 445)]
    cues = parse_cues("0:00 a\n0:07.29 b\n0:10 c")
    # Frame 175 is the first at 7.29 s: 54 frames of chunk 1 belong to a, 54 to b. The earlier one wins.
    assert cues_of_chunks(cues, plan, 445, Fraction(24)) == (0, 0, 2, 2)
    assert cues_of_chunks(parse_cues("0:00 a\n0:07.25 b\n0:10 c"), plan, 445, Fraction(24)) == (0, 1, 2, 2)


def test_the_last_cue_lasts_to_the_end_and_one_behind_the_end_is_never_shown():
    cues = parse_cues("0:00 a\n0:01 b\n9:00 c")
    assert cue_of_span(cues, 24, 10_000, Fraction(24)) == 1
    assert cue_of_span(cues, 9 * 60 * 24, 9 * 60 * 24 + 1, Fraction(24)) == 2
    assert cue_of_span(cues, 0, 1, Fraction(24)) == 0
