"""Batches for the autoencoder. Run: pytest tests/core/demo/test_pictures.py"""

import pytest
import torch

from gloria_core.demo.pictures import held_out_clips, training_batch
from gloria_core.demo.sizes import TINY

WORLD = TINY.world


@pytest.mark.parametrize(("num_frames", "batch"), [(1, 3), (1, 130), (5, 2), (5, 18)])
def test_a_batch_has_its_size_whatever_is_drawn(num_frames, batch):
    sizes = set()
    for step in range(8 if batch < 100 else 3):
        video = training_batch(WORLD, 0, step, num_frames, batch, "cpu")
        assert video.shape[:3] == (batch, 3, num_frames)
        assert video.min() >= -1
        assert video.max() <= 1
        assert len({float(clip.sum()) for clip in video}) > 0.7 * batch, "hardly a picture twice"
        sizes.add(tuple(video.shape[3:]))
    assert sizes == {(64, 64)} or num_frames == 1


def test_images_are_frames_and_both_kinds_of_crops():
    sizes = {tuple(training_batch(WORLD, 0, step, 1, 1, "cpu").shape[3:]) for step in range(20)}
    assert sizes == {(64, 64), (64, 48), (48, 48)}


def test_a_step_is_the_same_at_every_call_and_unlike_its_neighbours():
    first, again, other = (training_batch(WORLD, 0, step, 5, 2, "cpu") for step in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(held_out_clips(WORLD, 5, 2, "cpu"), held_out_clips(WORLD, 5, 2, "cpu"))
