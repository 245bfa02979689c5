"""Eq. 1 and Wan's rotary embedding. Run: pytest tests/core/test_rope.py"""

import math

import pytest
import torch

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.errors import AnchorError
from gloria_core.model.presets import GloriaSettings
from gloria_core.model.rope import anchor_axes, anchor_position, apply_rope, rope_table, video_axes
from gloria_core.shapes import TokenGrid

HEAD_DIM = 128
CPU = torch.device("cpu")
SLOTS = [("global", "global"), *(("viewpoint", v) for v in VIEWPOINTS), *(("expression", e) for e in EXPRESSIONS)]


def angle_by_the_book(pair_idx, t, h, w):
    """Eq. 1 in plain Python: which axis a channel pair belongs to, and its frequency."""
    widths = [HEAD_DIM - 4 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6)]
    for position, width in zip((t, h, w), widths, strict=True):
        if pair_idx < width // 2:
            return position * 10000.0 ** (-2 * pair_idx / width)
        pair_idx -= width // 2
    raise AssertionError


@pytest.mark.parametrize(("kind", "label"), SLOTS)
def test_angles_of_every_slot_follow_equation_1(kind, label):
    offsets = {"global": (600, ["global"]), "viewpoint": (200, VIEWPOINTS), "expression": (400, EXPRESSIONS)}
    base, labels = offsets[kind]
    time = base + list(labels).index(label)
    grid = TokenGrid(1, 3, 5)
    table = rope_table(anchor_axes(grid, anchor_position(kind, label, GloriaSettings()), CPU), HEAD_DIM)
    assert table.shape == (1, 15, 1, HEAD_DIM // 2, 2, 2)
    for h in range(3):
        for w in range(5):
            for pair in range(HEAD_DIM // 2):
                angle = angle_by_the_book(pair, time, h, w)
                rotation = table[0, h * 5 + w, 0, pair]
                expected = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                torch.testing.assert_close(rotation, expected, atol=1e-6, rtol=0)


def test_all_thirteen_slots_have_positions_of_their_own():
    positions = {anchor_position(kind, label, GloriaSettings()) for kind, label in SLOTS}
    assert len(positions) == 13
    assert positions == {600, *range(200, 204), *range(400, 408)}


def test_another_label_moves_only_the_temporal_angles():
    grid = TokenGrid(1, 4, 4)
    front, back = (
        rope_table(anchor_axes(grid, anchor_position("viewpoint", label, GloriaSettings()), CPU), HEAD_DIM)
        for label in ("front", "back")
    )
    temporal_pairs = (HEAD_DIM - 4 * (HEAD_DIM // 6)) // 2
    assert torch.equal(front[..., temporal_pairs:, :, :], back[..., temporal_pairs:, :, :])
    assert (front[..., :temporal_pairs, :, :] != back[..., :temporal_pairs, :, :]).any(dim=(-1, -2)).all()


def test_unknown_label_says_what_the_checkpoint_knows():
    with pytest.raises(AnchorError, match=r"no viewpoint anchor 'top'.*front, back, left, right"):
        anchor_position("viewpoint", "top", GloriaSettings())


def test_video_table_equals_the_formula_for_a_scattering_of_tokens():
    grid = TokenGrid(31, 30, 52)
    table = rope_table(video_axes(grid, CPU), HEAD_DIM)
    for t, h, w in ((0, 0, 0), (30, 29, 51), (7, 13, 2), (1, 0, 50)):
        token = (t * 30 + h) * 52 + w
        expected = torch.tensor([math.cos(angle_by_the_book(p, t, h, w)) for p in range(HEAD_DIM // 2)])
        torch.testing.assert_close(table[0, token, 0, :, 0, 0], expected, atol=2e-6, rtol=0)


def test_rotation_keeps_norms_and_depends_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, HEAD_DIM, dtype=torch.float64).unbind(0)

    def score(t_query, t_key):
        rotated = []
        for vector, time in ((q, t_query), (k, t_key)):
            table = rope_table(anchor_axes(TokenGrid(1, 1, 1), time, CPU), HEAD_DIM).double()
            rotated.append(apply_rope(vector, table))
        torch.testing.assert_close(rotated[0].norm(), q.norm(), atol=1e-5, rtol=0)
        return (rotated[0] * rotated[1]).sum().item()

    assert score(0, 200) == pytest.approx(score(7, 207), abs=1e-4)
    assert score(0, 200) != pytest.approx(score(0, 201), abs=1e-2)
