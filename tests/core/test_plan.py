"""Run: python -m pytest tests/core/test_plan.py"""

import itertools

import pytest

from gloria_core.errors import PlanError
from gloria_core.sampling.plan import Chunk, chunk_seed, plan_chunks


@pytest.mark.parametrize("prefix", [0, 1, 3, 4])
@pytest.mark.parametrize("chunk_latents", [5, 6, 9, 31])
def test_new_latents_of_all_chunks_cover_the_film_once(chunk_latents, prefix):
    for total in range(1, 120):
        plan = plan_chunks(total, chunk_latents, prefix)
        new = [g for chunk in plan.chunks for g in range(chunk.start + chunk.prefix, chunk.stop)]
        assert new == list(range(total))


def test_every_chunk_starts_with_the_last_latents_of_the_one_before():
    plan = plan_chunks(100, 31, 4)
    for before, chunk in itertools.pairwise(plan.chunks):
        assert (chunk.start, chunk.prefix) == (before.stop - 4, 4)
        assert chunk.start == chunk.index * (31 - 4)


def test_only_the_last_chunk_is_shorter():
    lengths = [chunk.length for chunk in plan_chunks(100, 31, 4).chunks]
    assert lengths == [31, 31, 31, 19]


def test_one_frame_is_one_chunk_of_one_latent():
    assert plan_chunks(1, 31).chunks == (Chunk(index=0, start=0, length=1, prefix=0),)


def test_a_film_of_exactly_one_chunk_has_no_second():
    assert len(plan_chunks(31, 31).chunks) == 1


def test_a_last_chunk_with_fewer_new_latents_than_its_prefix_is_kept_short():
    last = plan_chunks(32, 31, 4).chunks[-1]
    assert (last.start, last.length, last.num_new) == (27, 5, 1)


@pytest.mark.parametrize(
    ("total", "chunk_latents", "prefix", "match"),
    [(0, 31, 4, "at least 1"), (50, 4, 4, "no new frame"), (50, 3, 4, "no new frame"), (50, 31, -1, "from 0 up")],
)
def test_impossible_settings_are_refused(total, chunk_latents, prefix, match):
    with pytest.raises(PlanError, match=match):
        plan_chunks(total, chunk_latents, prefix)


def test_first_chunk_keeps_the_seed_of_the_film():
    assert chunk_seed(123, 0) == 123


def test_seeds_differ_between_chunks_and_films_and_fit_64_bits():
    seeds = [chunk_seed(film, index) for film in (0, 1, 2**64 - 1) for index in range(1, 200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_seeds_never_change_between_releases():
    assert chunk_seed(7, 1) == 12_097_741_114_983_322_888


def test_a_negative_seed_is_refused():
    with pytest.raises(PlanError, match="seed"):
        chunk_seed(-1, 0)
