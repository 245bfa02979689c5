"""Seeds and inputs of single chunks: another take of a film samples only what differs, and never takes over wrongly.

Run: python -m pytest tests/core/test_takes.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from toy_film import INPUTS, SHAPE_CHW, toy_denoise

from gloria_core import durable_files
from gloria_core.errors import PlanError
from gloria_core.sampling.engine import run_chunks
from gloria_core.sampling.job_folder import describe_chunk_changes, job_folders, job_of_folder
from gloria_core.sampling.journal import Journal
from gloria_core.sampling.plan import chunk_seed, parse_seeds, plan_chunks

PLAN = plan_chunks(40, 9, 4)
NUM_CHUNKS = len(PLAN.chunks)


def make_take(root, seeds=None, prompts=None, inputs=INPUTS, job="toy", stop_at=None):
    """Film, sampled chunk indices and the closed journal; `prompts` decide single chunks, as cues do."""
    sampled = []
    seeds = seeds or {}
    own = [{} for _ in PLAN.chunks]
    for index, seed in seeds.items():
        own[index]["seed"] = {"value": seed}
    for index, prompt in enumerate(prompts or []):
        own[index]["prompt"] = {"value": prompt}

    def denoise(chunk, seed, prefix):
        if chunk.index == stop_at:
            raise KeyboardInterrupt
        sampled.append(chunk.index)
        shift = len(prompts[chunk.index]) if prompts else 0
        return toy_denoise(chunk, seed, prefix) + shift

    with Journal(Path(root), job, inputs, PLAN, SHAPE_CHW, {}, own) as journal:
        run_chunks(PLAN, 5, journal, denoise, own_seeds=seeds)
        return journal.film(blend=True), sampled, journal


def test_another_seed_for_one_chunk_samples_it_and_its_followers_only(tmp_path):
    first, _, before = make_take(tmp_path / "a")
    kept = {path: path.read_bytes() for path in before.folder.iterdir() if path.suffix != ".lock"}
    second, sampled, after = make_take(tmp_path / "a", seeds={3: 99})
    assert sampled == list(range(3, NUM_CHUNKS))
    assert after.adopted == dict.fromkeys(range(3), before.folder.name)
    assert {path: path.read_bytes() for path in kept} == kept
    assert after.changes == ("chunk 3: seed added (99)",)

    fresh, sampled, _ = make_take(tmp_path / "b", seeds={3: 99})
    assert sampled == list(range(NUM_CHUNKS))
    assert torch.equal(second, fresh)
    start_of_3 = PLAN.chunks[3].start
    assert torch.equal(second[:, :, :start_of_3], first[:, :, :start_of_3])
    assert not torch.equal(second[:, :, PLAN.chunks[3].stop - 4 :], first[:, :, PLAN.chunks[3].stop - 4 :])


def test_going_back_to_an_earlier_take_samples_nothing(tmp_path):
    first = make_take(tmp_path)[0].clone()
    make_take(tmp_path, seeds={3: 99})
    again, sampled, journal = make_take(tmp_path)
    assert (sampled, journal.adopted) == ([], {})
    assert torch.equal(again, first)


def test_the_records_hold_the_seeds_that_were_used(tmp_path):
    _, _, journal = make_take(tmp_path, seeds={3: 99})
    used = [json.loads((journal.folder / f"chunk_{i:05d}.json").read_text())["seed"] for i in range(NUM_CHUNKS)]
    assert used == [99 if i == 3 else chunk_seed(5, i) for i in range(NUM_CHUNKS)]


def test_a_changed_prompt_in_the_middle_keeps_the_chunks_before_it(tmp_path):
    a = ["walk"] * 4 + ["wave"] * (NUM_CHUNKS - 4)
    b = ["walk"] * 4 + ["dance"] * (NUM_CHUNKS - 4)
    make_take(tmp_path / "a", prompts=a)
    film, sampled, journal = make_take(tmp_path / "a", prompts=b)
    assert sampled == list(range(4, NUM_CHUNKS))
    assert journal.changes == (f"chunks 4-{NUM_CHUNKS - 1}: prompt: wave -> dance",)
    assert torch.equal(film, make_take(tmp_path / "b", prompts=b)[0])


def test_a_changed_prompt_at_the_start_keeps_nothing_even_where_later_prompts_are_equal(tmp_path):
    same = ["wave"] * (NUM_CHUNKS - 1)
    make_take(tmp_path / "a", prompts=["walk", *same])
    film, sampled, _ = make_take(tmp_path / "a", prompts=["runs", *same])
    # Equally long prompts give equal toy latents: chunk 1 onwards continue the very same bits and may stay.
    assert sampled == [0]
    film, sampled, _ = make_take(tmp_path / "a", prompts=["hurries", *same])
    assert sampled == list(range(NUM_CHUNKS))
    assert torch.equal(film, make_take(tmp_path / "b", prompts=["hurries", *same])[0])


@pytest.mark.parametrize("change", [{"job": "other"}, {"inputs": {**INPUTS, "steps": {"value": 9}}}])
def test_other_jobs_and_other_inputs_give_nothing(tmp_path, change):
    make_take(tmp_path)
    _, sampled, journal = make_take(tmp_path, seeds={3: 99}, **change)
    assert sampled == list(range(NUM_CHUNKS))
    assert journal.adopted == {}


def test_a_damaged_chunk_of_another_take_is_not_taken_over(tmp_path):
    _, _, before = make_take(tmp_path)
    data = bytearray((before.folder / "chunk_00001.safetensors").read_bytes())
    data[-1] ^= 1
    (before.folder / "chunk_00001.safetensors").write_bytes(data)
    film, sampled, _ = make_take(tmp_path, seeds={3: 99})
    assert sampled == [1, *range(3, NUM_CHUNKS)]  # chunk 1 comes out with the same bits, so chunk 2 continues it
    assert torch.equal(film, make_take(tmp_path / "b", seeds={3: 99})[0])


def test_a_take_that_was_stopped_goes_on_and_takes_over_what_it_still_lacks(tmp_path):
    make_take(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make_take(tmp_path, seeds={3: 99}, stop_at=5)
    film, sampled, journal = make_take(tmp_path, seeds={3: 99})
    assert sampled == list(range(5, NUM_CHUNKS))
    assert journal.adopted == {}  # they are its own by now
    assert torch.equal(film, make_take(tmp_path / "b", seeds={3: 99})[0])


def test_chunks_are_copied_where_files_cannot_be_linked(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(1, "Operation not permitted")

    make_take(tmp_path)
    monkeypatch.setattr(durable_files.os, "link", no_links)
    film, sampled, journal = make_take(tmp_path, seeds={3: 99})
    assert sampled == list(range(3, NUM_CHUNKS))
    assert (journal.folder / "chunk_00000.safetensors").stat().st_nlink == 1
    assert torch.equal(film, make_take(tmp_path / "b", seeds={3: 99})[0])


def test_a_film_without_inputs_of_single_chunks_keeps_its_folder_name(tmp_path):
    _, _, plain = make_take(tmp_path)
    with Journal(tmp_path, "toy", INPUTS, PLAN, SHAPE_CHW, {}) as journal:
        assert journal.folder == plain.folder
        assert journal.kept == tuple(range(NUM_CHUNKS))


def test_seeds_are_read_strictly():
    assert parse_seeds("", PLAN) == parse_seeds(" ,\n", PLAN) == {}
    assert parse_seeds("3: 1234, 0:7\n2 : 18446744073709551615", PLAN) == {3: 1234, 0: 7, 2: 2**64 - 1}
    for text, match in [
        ("3=4", "'3=4', expected a chunk and its seed"),
        ("3: -1", "expected a chunk and its seed"),
        ("3: 18446744073709551616", "expected a chunk and its seed"),
        ("8: 1", "the film has chunks 0 to 7"),
        ("1: 1, 1: 2", "names it twice"),
    ]:
        with pytest.raises(PlanError, match=match):
            parse_seeds(text, PLAN)


def test_changes_of_neighbouring_chunks_are_one_line():
    value = lambda text: {"prompt": {"value": text}}  # noqa: E731
    old = [value("a"), value("a"), value("b"), value("b"), {}]
    new = [value("a"), value("c"), value("d"), value("d"), {"seed": {"value": 1}}]
    assert describe_chunk_changes(old, new) == (
        "chunk 1: prompt: a -> c", "chunks 2-3: prompt: b -> d", "chunk 4: seed added (1)",
    )  # fmt: skip
    assert describe_chunk_changes(new, new) == ()
    assert describe_chunk_changes([], [value("a")] * 2) == ("chunks 0-1: prompt added (a)",)


def test_folders_of_a_job_are_told_apart_by_name(tmp_path):
    for name in ("film-01234567", "film-2-01234567", "film-0123456", "film-01234567x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text("{}")
    assert [folder.name for folder in job_folders(tmp_path, "film")] == ["film-01234567"]
    assert [job_of_folder(name) for name in ("film-2-01234567", "film-0123456", "..", "film-0123456G")] == [
        "film-2", None, None, None,
    ]  # fmt: skip
