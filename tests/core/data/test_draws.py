"""What is left to chance, counted. Run: python -m pytest tests/core/data/test_draws.py"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.data.cache_index import CachedAnchor, CachedClip, CachedSource, CacheIndex
from gloria_core.data.draws import DrawPlan
from gloria_core.data.label_draw import draw_labels, inclusion_probabilities
from gloria_core.errors import ConfigError, DatasetError
from gloria_core.sampling.plan import PREFIX_LATENTS
from gloria_core.training.config import (
    PAPER_EXPRESSION_SHARES,
    PAPER_VIEWPOINT_SHARES,
    config_from_dict,
)

CLIP_LATENTS, WINDOW = 12, 8
WINDOW_SECONDS = (4 * WINDOW - 3) / 24
NUM_STEPS, BATCH = 2500, 4


def make_index(num_sources=5, clips=3, kinds=("viewpoint", "expression"), audio=True):
    """Every label has candidates inside and outside of every clip; the last source is held out."""
    times = [float(t) for t in range(8)]
    anchors = [("global", "global", time) for time in times]
    labels = {"viewpoint": VIEWPOINTS, "expression": EXPRESSIONS}
    anchors += [(kind, label, time) for kind in kinds for label in labels[kind] for time in times]
    cached = tuple(
        CachedAnchor(kind=kind, label=label, time=time, key=f"a{idx}", latent_size=(4, 4))
        for idx, (kind, label, time) in enumerate(anchors)
    )
    sources = tuple(CachedSource(id=f"s{idx}", anchors=cached) for idx in range(num_sources))
    all_clips = tuple(
        CachedClip(
            id=f"s{s}/{c}", source=f"s{s}", start=2.0 * c, height=64, width=64 + 16 * (s % 2), num_latents=CLIP_LATENTS,
            latents="l", start_video=None, text="t", audio="a" if audio else None, clip_vision=None,
            split="validation" if s == num_sources - 1 else "train",
        )
        for s in range(num_sources) for c in range(clips)
    )  # fmt: skip
    return CacheIndex(
        fps=24.0, latent_channels=16, empty_text="e", encoders={}, audio_shape=(2, 8), sources=sources, clips=all_clips
    )


def make_config(stage=None, **changes):
    stages = [{"name": "one", "steps": NUM_STEPS, **(stage or {})}]
    return config_from_dict(
        {"name": "n", "base": "b", "output": "o", "data": {"cache": "c", "frames": [4 * WINDOW - 3]},
         "batch_size": BATCH, "stages": stages, **changes}
    )  # fmt: skip


def draw_all(index, config, image_channels=False):
    plan = DrawPlan(index, config, image_channels)
    plan.check()
    return [plan.step(step) for step in range(config.total_steps)]


@pytest.fixture(scope="module")
def index():
    return make_index()


@pytest.fixture(scope="module")
def steps(index):
    return draw_all(index, make_config())


@pytest.fixture(scope="module")
def samples(steps):
    return [sample for step in steps for sample in step.samples]


def share(hits, total):
    return sum(hits) / total


def anchors_of(index, sample):
    return [index.source_of(index.clips[sample.clip_idx]).anchors[idx] for idx in sample.anchors]


def test_ten_thousand_samples_have_the_rates_of_the_config(samples):
    total = len(samples)
    assert total == 10_000
    assert share((s.drop_text for s in samples), total) == pytest.approx(0.1, abs=0.01)
    assert share((s.drop_audio for s in samples), total) == pytest.approx(0.1, abs=0.01)
    assert share((s.drop_text and s.drop_audio for s in samples), total) == pytest.approx(0.01, abs=0.004)
    assert share((s.first_latent > 0 for s in samples), total) == pytest.approx(0.5, abs=0.015)
    assert all(s.num_known == (PREFIX_LATENTS if s.first_latent else 1) for s in samples)
    shifts = Counter(s.first_latent for s in samples if s.first_latent)
    assert set(shifts) == set(range(1, CLIP_LATENTS - WINDOW + 1))
    assert max(shifts.values()) / min(shifts.values()) < 1.15
    assert len({s.noise_seed for s in samples}) == total


@pytest.mark.parametrize(
    ("kind", "shares"), [("viewpoint", PAPER_VIEWPOINT_SHARES), ("expression", PAPER_EXPRESSION_SHARES)]
)
def test_labels_have_the_shares_of_the_papers_tables(index, samples, kind, shares):
    counts = Counter(a.label for s in samples for a in anchors_of(index, s) if a.kind == kind)
    total, whole = sum(counts.values()), sum(shares.values())
    for label, percent in shares.items():
        assert counts[label] / total == pytest.approx(percent / whole, abs=0.012), label


def test_half_of_the_anchors_come_from_inside_the_window(index, samples):
    inside = []
    for sample in samples:
        clip = index.clips[sample.clip_idx]
        first = max(0, 4 * sample.first_latent - 3) / 24
        begin = clip.start + first
        end = clip.start + (4 * (sample.first_latent + WINDOW - 1) + 1) / 24
        inside += [begin <= a.time < end for a in anchors_of(index, sample)]
    assert share(inside, len(inside)) == pytest.approx(0.5, abs=0.01)


def test_without_superset_a_sample_has_what_its_window_shows_and_nothing_else():
    index = make_index(num_sources=2)
    # One picture of each label but "left", at 1 s, which only the first clip's windows show; "left" is from elsewhere.
    times = {"global": 1.0, **dict.fromkeys((*VIEWPOINTS, *EXPRESSIONS), 1.0), "left": None}
    anchors = tuple({a.label: replace(a, time=times[a.label]) for a in index.sources[0].anchors}.values())
    index = replace(index, sources=tuple(replace(source, anchors=anchors) for source in index.sources))
    stage = {"superset": False, "inside_ratio": 1.0, "identity_anchors": "both", "steps": 300}
    counts = Counter()
    for step in draw_all(index, make_config(stage)):
        for sample in step.samples:
            drawn = anchors_of(index, sample)
            first = max(0, 4 * sample.first_latent - 3)
            if index.clips[sample.clip_idx].start > 0 or first > 24:
                assert drawn == []
                continue
            assert {a.kind for a in drawn} == {"global", "viewpoint", "expression"}
            assert "left" not in {a.label for a in drawn}
            counts.update(a.kind for a in drawn)
    assert counts["global"] > 300
    # The sizes are drawn as ever, and "left" does not lower them: 1 to 3 of the three views that are shown.
    assert counts["viewpoint"] / counts["global"] == pytest.approx(2, abs=0.15)
    assert counts["expression"] / counts["global"] == pytest.approx(2.5, abs=0.2)


def test_without_superset_is_for_anchors_that_have_a_moment(index):
    with pytest.raises(ConfigError, match=r"superset false .* inside_ratio is 0\.5: set it to 1"):
        make_config({"superset": False})
    config = make_config({"superset": False, "inside_ratio": 1.0})
    timeless = tuple(
        replace(s, anchors=tuple(replace(a, time=None) if a.kind == "viewpoint" else a for a in s.anchors))
        for s in index.sources
    )
    with pytest.raises(DatasetError, match="no training clip shows the moment of any viewpoint anchor"):
        DrawPlan(replace(index, sources=timeless), config, False).check()


def test_one_kind_per_batch_and_the_global_anchor_always(index, steps):
    types = Counter(step.batch_type for step in steps)
    assert types == {"viewpoint": NUM_STEPS // 2, "expression": NUM_STEPS // 2}
    sizes = {"viewpoint": Counter(), "expression": Counter()}
    for step in steps:
        for sample in step.samples:
            kinds = Counter(a.kind for a in anchors_of(index, sample))
            assert kinds.pop("global") == 1
            assert set(kinds) == {step.batch_type}
        sizes[step.batch_type][kinds[step.batch_type]] += 1
    assert set(sizes["viewpoint"]) == {1, 2, 3}
    assert set(sizes["expression"]) == {1, 2, 3, 4}
    for counts in sizes.values():
        assert max(counts.values()) / min(counts.values()) < 1.4


def test_samples_of_a_step_share_their_layout(index, steps):
    for step in steps[:200]:
        assert len({len(sample.anchors) for sample in step.samples}) == 1
        assert len({index.clips[sample.clip_idx].width for sample in step.samples}) == 1


def test_both_kinds_in_one_sample(index):
    for step in draw_all(index, make_config({"identity_anchors": "both", "steps": 20})):
        for sample in step.samples:
            assert {a.kind for a in anchors_of(index, sample)} == {"global", "viewpoint", "expression"}


def test_every_clip_is_visited_once_per_epoch_and_held_out_ones_never(index):
    config = make_config({"identity_anchors": "none"}, batch_size=2)
    steps = draw_all(index, replace(config, stages=(replace(config.stages[0], steps=12),)))
    train = [idx for idx, clip in enumerate(index.clips) if clip.split == "train"]
    for epoch in (steps[:6], steps[6:]):
        visits = Counter(sample.clip_idx for step in epoch for sample in step.samples)
        assert visits == dict.fromkeys(train, 1)
    assert steps[0:6] != steps[6:12]


def test_a_draw_depends_on_seed_and_step_alone(index, steps):
    config = make_config()
    fresh = DrawPlan(index, config, False)
    for step in (2400, 3, 77, 3):
        assert fresh.step(step) == steps[step]
    other = DrawPlan(index, replace(config, seed=1), False)
    assert [other.step(step) for step in range(5)] != steps[:5]


def test_noise_levels_are_stratified_over_steps_and_batch(index):
    for batch in (1, 4, 16):
        config = make_config({"steps": 64}, batch_size=batch, timesteps={"shift": 1.0})
        sigmas = [s.sigma for step in draw_all(index, config) for s in step.samples]
        num = max(batch, 8)
        for start in range(0, len(sigmas), num):
            assert sorted(int(sigma * num) for sigma in sigmas[start : start + num]) == list(range(num))


def test_a_stage_without_a_start_image_sometimes_knows_nothing(index):
    steps = draw_all(index, make_config({"prefix_probability": 0.0, "start_probability": 0.25}))
    known = Counter(sample.num_known for step in steps for sample in step.samples)
    assert set(known) == {0, 1}
    assert known[1] / sum(known.values()) == pytest.approx(0.25, abs=0.015)


def test_image_to_video_bases_always_have_a_first_frame_or_a_prefix(index):
    with pytest.raises(ConfigError, match="start_probability"):
        draw_all(index, make_config({"start_probability": 0.5}), image_channels=True)
    steps = draw_all(index, make_config({"steps": 50}), image_channels=True)
    assert {sample.num_known for step in steps for sample in step.samples} == {1, PREFIX_LATENTS}


def test_a_window_of_one_picture_never_gives_that_picture(index):
    pictures = {"prefix_probability": 0.0, "steps": 50}
    config = make_config(pictures, data={"cache": "c", "frames": [1]})
    drawn = [sample for step in draw_all(index, config) for sample in step.samples]
    drawn += DrawPlan(index, config, False).validation()
    assert {(sample.num_latents, sample.num_known) for sample in drawn} == {(1, 0)}
    with pytest.raises(ConfigError, match="nothing to learn from windows of 1 frame"):
        draw_all(index, config, image_channels=True)


def test_a_kind_that_no_source_has_is_left_to_the_other_or_refused():
    only = make_index(kinds=("expression",))
    assert {step.batch_type for step in draw_all(only, make_config({"steps": 20}))} == {"expression"}
    with pytest.raises(DatasetError, match="wants viewpoint and expression anchors"):
        draw_all(only, make_config({"identity_anchors": "both"}))
    with pytest.raises(DatasetError, match="anchors, but no training source has them"):
        draw_all(make_index(kinds=()), make_config())


def test_what_the_dataset_lacks_is_refused_before_the_run():
    with pytest.raises(DatasetError, match="No training clip is long enough"):
        draw_all(make_index(), make_config(data={"cache": "c", "frames": [4 * CLIP_LATENTS - 3]}))
    with pytest.raises(DatasetError, match="no clip of the dataset does"):
        draw_all(make_index(audio=False), make_config())
    with pytest.raises(ConfigError, match="needs more than its 4 given latents"):
        draw_all(make_index(), make_config(data={"cache": "c", "frames": [13]}))
    full = make_config({"prefix_probability": 0.0, "steps": 2}, data={"cache": "c", "frames": [4 * CLIP_LATENTS - 3]})
    assert draw_all(make_index(), full)[0].samples[0].num_latents == CLIP_LATENTS


def test_a_clip_takes_the_longest_window_that_fits(index):
    config = make_config({"steps": 8}, data={"cache": "c", "frames": [61, 41, 29, 17]})
    assert {s.num_latents for step in draw_all(index, config) for s in step.samples} == {11}


def test_validation_draws_are_fixed_and_on_held_out_clips(index):
    plan = DrawPlan(index, make_config(), False)
    draws = plan.validation()
    assert draws == DrawPlan(index, make_config(), False).validation()
    assert {index.clips[draw.clip_idx].split for draw in draws} == {"validation"}
    assert len({draw.sigma for draw in draws}) == 8
    assert not any(draw.drop_text or draw.drop_audio for draw in draws)


@pytest.mark.parametrize("size", range(9))
def test_subsets_include_each_label_as_often_as_its_share_says(size):
    expected = inclusion_probabilities(PAPER_EXPRESSION_SHARES, size)
    assert sum(expected.values()) == pytest.approx(size)
    rng, counts = Random(0), Counter()
    for _ in range(4000):
        labels = draw_labels(PAPER_EXPRESSION_SHARES, size, rng)
        assert len(set(labels)) == size
        counts.update(labels)
    for label, probability in expected.items():
        assert counts[label] / 4000 == pytest.approx(probability, abs=0.03)


def test_a_dominating_label_is_always_in_and_the_rest_keep_their_proportions():
    expected = inclusion_probabilities({"a": 90.0, "b": 6.0, "c": 3.0}, 2)
    assert expected == {"a": 1.0, "b": pytest.approx(2 / 3), "c": pytest.approx(1 / 3)}
