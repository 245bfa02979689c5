"""Run: python -m pytest tests/core/test_cost.py"""

import pytest

from gloria_core.sampling.cost import DiTShape, forward_flops, lower_bound_seconds
from gloria_core.shapes import LatentSize

I2V_14B = DiTShape(dim=5120, ffn_dim=13824, num_layers=40, context_tokens=512 + 257)
TI2V_5B = DiTShape(dim=3072, ffn_dim=14336, num_layers=30, context_tokens=512)


def crops(channels):
    sides = [(480, 832)] + 4 * [(512, 512)] + 8 * [(256, 256)]
    return sum(LatentSize.from_pixels(channels, 1, *side).grid.count for side in sides)


def test_cost_of_the_public_models_at_480p_and_121_frames():
    video = LatentSize.from_pixels(16, 121, 480, 832).grid.count
    assert video == 48_360
    assert crops(16) == 7_704
    assert forward_flops(I2V_14B, video, 0) == pytest.approx(3.11e15, rel=0.005)
    assert forward_flops(I2V_14B, video, crops(16)) / forward_flops(I2V_14B, video, 0) == pytest.approx(1.27, abs=0.01)
    assert forward_flops(TI2V_5B, LatentSize.from_pixels(48, 121, 480, 832).grid.count, 0) == pytest.approx(
        0.16e15, rel=0.05
    )


def test_attention_grows_with_the_square_of_the_tokens():
    shape = DiTShape(dim=1, ffn_dim=0, num_layers=1, context_tokens=0)
    assert forward_flops(shape, 10, 0) == 8 * 10 + 4 * 100 + 4 * 10
    assert forward_flops(shape, 6, 4) == forward_flops(shape, 10, 0)


def test_thirty_guided_steps_of_a_chunk_take_at_least_five_minutes_on_an_h200():
    video = LatentSize.from_pixels(16, 121, 480, 832).grid.count
    seconds = lower_bound_seconds(60 * forward_flops(I2V_14B, video, crops(16)), 790e12)
    assert seconds == pytest.approx(300, rel=0.01)
