"""Pictures and texts of attention: every curve where its numbers are. Run: pytest tests/core/test_attention_chart.py"""

import math

import numpy as np
import pytest
import torch

from gloria_core.analysis.attention_chart import Curve, color_of, draw_curves, draw_film_attention, draw_maps
from gloria_core.analysis.attention_curves import PREFIX, VIDEO, FilmAttention
from gloria_core.analysis.attention_report import describe_film_attention
from gloria_core.conditioning.anchors import LABELS
from gloria_core.sampling.plan import plan_chunks

PLAN = plan_chunks(13, 6, 4)
LEGEND_HEIGHT = 40
GLOBAL, BACK = ("global", "global"), ("viewpoint", "back")


def pixels_of(image, color):
    """Rows and columns below the legend that have exactly this color."""
    wanted = [int(color[idx : idx + 2], 16) for idx in (1, 3, 5)]
    is_wanted = (np.asarray(image) == wanted).all(-1)
    is_wanted[:LEGEND_HEIGHT] = False
    return np.argwhere(is_wanted)


def film(curves, missing=()):
    even = {name: torch.full((PLAN.total_latents,), 0.1) for name in curves}
    return FilmAttention(curves, even, ((0, 1), (2, 3)), missing)


def test_constant_curves_are_level_lines_at_heights_in_the_ratio_of_their_shares():
    image = draw_curves([Curve("a", "#ff0000", [(0, 0.4), (9, 0.4)]), Curve("b", "#00ff00", [(0, 0.1), (9, 0.1)])], "x")
    assert image.size == (960, 480)
    rows = [np.unique(pixels_of(image, color)[:, 0]) for color in ("#ff0000", "#00ff00")]
    assert all(len(own) == 3 for own in rows)
    zero = 480 - 62
    assert (zero - rows[0].mean()) / (zero - rows[1].mean()) == pytest.approx(4, rel=0.05)


def test_a_gap_stays_empty_and_a_single_point_is_seen():
    points = [(idx, math.nan if 3 <= idx <= 7 or idx == 9 else 0.2) for idx in range(11)]
    columns = pixels_of(draw_curves([Curve("a", "#ff0000", points)], "x"), "#ff0000")[:, 1]
    step = (960 - 78 - 18) / 10
    inside = (columns > 78 + 2.1 * step) & (columns < 78 + 7.9 * step)
    assert not inside.any()
    assert (columns > 78 + 9.9 * step).any()


def test_every_anchor_has_a_color_of_its_own_and_the_rest_of_the_video_no_curve():
    slots = [(kind, label) for kind, labels in LABELS.items() for label in labels]
    assert len({color_of(slot) for slot in (*slots, PREFIX, VIDEO)}) == len(slots) + 2
    levels = torch.arange(1, len(slots) + 3) / 100
    all_slots = (*slots, PREFIX, VIDEO)
    curves = {slot: level.expand(PLAN.total_latents) for slot, level in zip(all_slots, levels, strict=True)}
    image = draw_film_attention(film(curves), PLAN, 24.0)
    for slot in (*slots, PREFIX):
        assert len(pixels_of(image, color_of(slot))) > 500, slot
    assert len(pixels_of(image, color_of(VIDEO))) == 0


def test_without_looks_a_picture_and_a_text_say_so():
    nothing = FilmAttention({}, {}, (), (0, 1, 2, 3, 4))
    assert draw_film_attention(nothing, PLAN, 24.0).size == (960, 480)
    assert describe_film_attention(nothing, PLAN, 24.0).startswith("Nothing was looked at")


def test_a_map_is_brightest_where_most_is_looked_at():
    table = torch.full((3, 5), 0.05)
    table[1, 4] = 0.8
    picture = np.asarray(draw_maps([table], ["chunk 0"]).convert("L")).astype(int)
    rows, columns = np.nonzero(picture[34:] == picture[34:].max())
    cell = min((960 - 2 * 10 - 6) // 5, (480 - 34 - 10) // 3)
    assert set(rows // cell) == {1}
    assert set((columns - 10 - 3 * cell - 6) // cell) == {1}


def test_the_report_says_how_much_how_that_compares_when_most_and_what_is_missing():
    shares = torch.full((PLAN.total_latents,), 0.2)
    shares[4] = 0.6  # frames 13 to 16 of 24 per second
    shares[10:] = math.nan
    text = describe_film_attention(film({GLOBAL: shares, BACK: shares / 2}, missing=(3, 4)), PLAN, 24.0)
    assert len(PLAN.chunks) == 5
    lines = text.splitlines()
    assert lines[0] == "3 of 5 chunks looked at, in steps 0, 2 and blocks 1, 3"
    assert lines[2] == "  global: 0.240 (2.40 x), 0.600 at 0.6 s"
    assert lines[3] == "    by chunk: 0.267 0.200 0.200 - -"
    assert lines[4] == "  back: 0.120 (1.20 x), 0.300 at 0.6 s"
    assert lines[-1].startswith("chunks 3, 4 were sampled without a probe")
