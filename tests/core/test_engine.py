"""Run: python -m pytest tests/core/test_engine.py"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from toy_film import SHAPE_CHW, make_toy_film, open_toy_journal, toy_denoise

from gloria_core.sampling.blend import blend_weights
from gloria_core.sampling.engine import run_chunks
from gloria_core.sampling.plan import chunk_seed


@pytest.mark.parametrize("total", [1, 8, 9, 10, 14, 15, 40])
def test_the_film_has_the_planned_length_and_follows_the_definition(tmp_path, total):
    film, _ = make_toy_film(tmp_path, total)
    plan = open_toy_journal(tmp_path / "other", total).plan

    expected, prefix = None, None
    for chunk in plan.chunks:
        latents = toy_denoise(chunk, chunk_seed(5, chunk.index), prefix)
        if expected is None:
            expected = latents
        else:
            w = torch.tensor(blend_weights(4)).view(1, 1, 4, 1, 1)
            overlap = w * expected[:, :, -4:] + (1 - w) * latents[:, :, :4]
            expected = torch.cat([expected[:, :, :-4], overlap, latents[:, :, 4:]], dim=2)
        prefix = latents[:, :, -4:]
    assert film.shape == (1, SHAPE_CHW[0], total, *SHAPE_CHW[1:])
    assert torch.equal(film, expected)


def test_a_second_run_denoises_nothing_and_gives_the_same_film(tmp_path):
    first, sampled = make_toy_film(tmp_path)
    assert sampled == list(range(8))
    second, sampled = make_toy_film(tmp_path)
    assert sampled == []
    assert torch.equal(first, second)


def test_on_chunk_reports_every_chunk_and_whether_it_was_kept(tmp_path):
    seen = []
    make_toy_film(tmp_path, 14, on_chunk=lambda chunk, kept: seen.append((chunk.index, kept)))
    make_toy_film(tmp_path, 14, on_chunk=lambda chunk, kept: seen.append((chunk.index, kept)))
    assert seen == [(0, False), (1, False), (0, True), (1, True)]


def test_an_interrupt_keeps_the_finished_chunks_and_frees_the_lock(tmp_path):
    class StopNow(BaseException):
        pass

    def stop_in_chunk_2(chunk, seed, prefix):
        if chunk.index == 2:
            raise StopNow
        return toy_denoise(chunk, seed, prefix)

    with pytest.raises(StopNow), open_toy_journal(tmp_path) as journal:
        run_chunks(journal.plan, 5, journal, stop_in_chunk_2)
    unbroken, _ = make_toy_film(tmp_path / "unbroken")
    with open_toy_journal(tmp_path) as journal:
        assert journal.kept == (0, 1)
    resumed, sampled = make_toy_film(tmp_path)
    assert sampled == [2, 3, 4, 5, 6, 7]
    assert torch.equal(resumed, unbroken)


def test_a_prefix_given_to_denoise_cannot_be_written_back_into_the_journal(tmp_path):
    def overwrite_prefix(chunk, seed, prefix):
        latents = toy_denoise(chunk, seed, prefix)
        if prefix is not None:
            prefix.zero_()
        return latents

    with open_toy_journal(tmp_path / "a", 14) as journal:
        run_chunks(journal.plan, 5, journal, overwrite_prefix)
        overwritten = journal.film(blend=True)
    film, _ = make_toy_film(tmp_path / "b", 14)
    assert torch.equal(overwritten, film)
    with open_toy_journal(tmp_path / "a", 14) as journal:
        assert journal.kept == (0, 1)
