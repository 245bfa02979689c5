"""What a chart gets of a run, however long it is. Run: python -m pytest tests/core/training/test_run_history.py"""

import random

import pytest

from gloria_core.training.progress import SMOOTHING
from gloria_core.training.run_folder import RunFolder
from gloria_core.training.run_history import MAX_POINTS, RunHistory


def losses(num_steps, seed=0):
    """Losses of steps 1, 2, ...; some are not finite, as JSON tells it."""
    draw = random.Random(seed)
    return [None if draw.random() < 0.05 else draw.random() for _ in range(num_steps)]


def write(folder, values, first=1, **more):
    text = [{"step": first + idx, "loss": loss, "lr": 1e-4, "stage": "one", **more} for idx, loss in enumerate(values)]
    for line in text:
        folder.append_metrics(line)


def smoothed(values):
    """Mean with weights SMOOTHING^age."""
    pairs = [(SMOOTHING**age, loss) for age, loss in enumerate(reversed([x for x in values if x is not None]))]
    return sum(weight * loss for weight, loss in pairs) / sum(weight for weight, _ in pairs)


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path) as folder:
        yield folder


def test_a_short_run_is_told_step_by_step(folder, tmp_path):
    values = [0.5, None, 0.25]
    write(folder, values)
    history = RunHistory(tmp_path)
    history.update("a process")
    points = history.steps_after(0)
    assert [point[:3] for point in points] == [(1, 0.5, 0.5), (2, None, None), (3, 0.25, 0.25)]
    assert [point.smooth for point in points] == pytest.approx([smoothed(values[: n + 1]) for n in range(3)])


def test_of_a_long_run_every_step_is_in_one_point_and_points_stay_few(folder, tmp_path):
    values, history = losses(4500), RunHistory(tmp_path)
    for start in range(0, 4500, 700):
        write(folder, values[start : start + 700], first=start + 1)
        history.update("a process")
    points = history.steps_after(-1)
    assert len(points) == 563 <= MAX_POINTS  # eight steps each
    for idx, point in enumerate(points):
        inside = [loss for loss in values[8 * idx : 8 * idx + 8] if loss is not None]
        assert (point.low, point.high) == (min(inside), max(inside))
        assert point.step == min(8 * idx + 8, 4500)
    assert points[-1].smooth == pytest.approx(smoothed(values))


def test_a_page_that_asks_for_what_is_new_ends_up_with_everything(folder, tmp_path):
    values, history, kept, version = losses(2600), RunHistory(tmp_path), [], None
    for start in range(0, 2600, 130):
        write(folder, values[start : start + 130], first=start + 1)
        history.update("a process")
        if version != history.version:
            kept, version = history.steps_after(-1), history.version
            continue
        news = history.steps_after(kept[-2].step)
        assert len(news) <= 130 + 2
        kept = kept[:-1] + news
    assert kept == history.steps_after(-1)


def test_a_run_that_goes_back_to_a_checkpoint_is_told_anew(folder, tmp_path):
    history = RunHistory(tmp_path)
    write(folder, losses(50))
    folder.write_validation({"step": 50, "loss": 1.0})
    history.update("a process")
    before = history.version
    folder.truncate_metrics(20)
    # As long as before, so that only the file itself tells that it is another one.
    write(folder, losses(30, seed=1), first=21)
    history.update("another process")
    assert history.version != before
    fresh = RunHistory(tmp_path)
    fresh.update("another process")
    assert history.steps_after(-1) == fresh.steps_after(-1)
    assert [point.low for point in history.steps_after(20)] == losses(30, seed=1)
    assert history.held_out_after(-1) == []


def test_stages_held_out_losses_and_the_first_and_last_loss_of_each_noise_level(folder, tmp_path):
    write(folder, [0.5, 0.5])
    write(folder, [0.4], first=3, loss_bins=[0.9, None])
    write(folder, [0.3], first=4, stage="two", loss_bins=[0.7, 0.2])
    write(folder, [0.3], first=5, stage="two", loss_bins=[0.6, 0.1])
    folder.write_validation({"step": 0, "loss": 1.0})
    folder.write_validation({"step": 3, "clips": ["step_000003_clip0.safetensors"]})
    folder.write_validation({"step": 4, "loss": 0.8})
    history = RunHistory(tmp_path)
    history.update("a process")
    assert history.stages == [(1, "one"), (4, "two")]
    assert history.held_out_after(-1) == [(0, 1.0), (4, 0.8)]
    assert history.held_out_after(0) == [(4, 0.8)]
    assert (history.first_bins, history.last_bins) == ([0.9, 0.2], [0.6, 0.1])
