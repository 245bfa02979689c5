"""Runners, parts and bad files: equal bytes, nothing lost, nothing twice, an error row for what cannot be used.

Run: python -m pytest tests/core/extraction/test_units.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from toy_scene import toy_source, write_joints_file, write_smpl_file, write_toy_video

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.data.manifest import read_manifest
from gloria_core.errors import DatasetError, GloriaError
from gloria_core.extraction import units, view_stage
from gloria_core.extraction.__main__ import main
from gloria_core.extraction.backends import Backends, Verdict
from gloria_core.extraction.collect import REPORT_NAME
from gloria_core.extraction.extract import extract, read_settings, run_stages
from gloria_core.extraction.footage_stages import Probe
from gloria_core.extraction.pipeline import fingerprint, make_stages
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.records import Record, Span, cut
from gloria_core.extraction.runners import LocalRunner, RayRunner
from gloria_core.extraction.stage import Resources
from gloria_core.extraction.transformers_backends import PersonModel
from gloria_core.extraction.units import PartStore, find_videos

REPO = Path(__file__).resolve().parents[3]
SETTINGS_YAML = """\
clip_frames: 49
hold_out_every: 0
footage: {shots: none, min_side: 64}
anchors: {min_body_height: 64, min_head_height: 48, full_body_height: 100, full_head_height: 64}
"""
FACINGS = ((0.0, "front"), (1.2, "left"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Six short videos; tests copy them."""
    folder = tmp_path_factory.mktemp("small")
    for index in range(6):
        source = toy_source(index, facings=FACINGS, moods=((0.0, "happy"),), seconds=4.0, size=128)
        write_toy_video(folder / f"v{index}.mp4", source, audio=index != 1)
        (write_smpl_file if index % 2 else write_joints_file)(
            folder / f"v{index}.{'smpl' if index % 2 else 'joints'}.npz", source
        )
    (folder / "v0.txt").write_text("a toy character turns to the left", encoding="utf-8")
    return folder


@pytest.fixture
def footage(small, tmp_path):
    folder = tmp_path / "footage"
    shutil.copytree(small, folder)
    (tmp_path / "settings.yaml").write_text(SETTINGS_YAML)
    return folder


def settings_of(folder):
    return read_settings(folder.parent / "settings.yaml")


def poses():
    files = PoseFiles()
    return Backends(body=files, people=files, faces=files)


def run(folder, runner=None):
    extract(folder, settings_of(folder), poses(), runner or LocalRunner())
    return (folder / "dataset.json").read_bytes()


def errors_of(folder):
    report = json.loads((folder / "extraction" / REPORT_NAME).read_text())
    return {row["video"]: row["message"] for row in report["errors"]}


def parts_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "extraction" / "parts").glob("*.json")}


def test_a_second_run_does_nothing_and_changes_nothing(footage):
    first = run(footage)
    stamps = {path: path.stat().st_mtime_ns for path in (footage / "extraction" / "parts").iterdir()}
    runner = LocalRunner()
    assert run(footage, runner) == first
    assert {path: path.stat().st_mtime_ns for path in (footage / "extraction" / "parts").iterdir()} == stamps
    assert not any(runner.seconds.values())


def test_other_settings_make_all_parts_anew(footage):
    run(footage)
    before = parts_of(footage)
    (footage.parent / "settings.yaml").write_text(SETTINGS_YAML.replace("49", "33"))
    run(footage)
    after = parts_of(footage)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_order_and_interruption_do_not_matter(footage, small):
    whole = run(footage)
    other = footage.parent / "other"
    shutil.copytree(small, other)
    settings = settings_of(footage)
    store = PartStore(other / "extraction" / "parts", fingerprint(settings, poses()))
    videos = find_videos(other)
    LocalRunner().run(other, videos[::-1][:2], make_stages(other, settings, poses()), store, lambda *_: None)
    assert len(parts_of(other)) == 2
    assert run(other) == whole
    assert parts_of(other) == parts_of(footage)


def test_ray_makes_the_same_bytes(footage, small, monkeypatch):
    pytest.importorskip("ray.data", reason="Ray is the extra 'scale'")
    # Workers must find this checkout as the cluster's machines would find the installed package.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    other = footage.parent / "other"
    shutil.copytree(small, other)
    for folder in (footage, other):
        (folder / "broken.mp4").write_bytes(b"no video")
    local = run(footage)
    # Another need in the middle makes three groups of processes.
    monkeypatch.setattr(view_stage, "resources_of", lambda *_: Resources(cpus=0.5))
    assert run(other, RayRunner(workers=1)) == local
    assert parts_of(other) == parts_of(footage)
    assert (other / "extraction" / REPORT_NAME).read_bytes() == (footage / "extraction" / REPORT_NAME).read_bytes()
    # What a worker cannot load is said as it is said here.
    nobody = Backends(body=PoseFiles(), people=PersonModel(footage / "none"))
    for runner in (LocalRunner(), RayRunner(workers=1)):
        with pytest.raises(GloriaError, match="There is no model in"):
            extract(other, settings_of(footage), nobody, runner)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(("options", "kills"), [([], (1, 3, 5)), (["--ray", "--workers", "1"], (1, 3))])
def test_kill_9_and_rerun_loses_nothing_and_does_nothing_twice(footage, small, options, kills):
    if options:
        pytest.importorskip("ray.data", reason="Ray is the extra 'scale'")
    whole = run(footage)
    other = footage.parent / "other"
    shutil.copytree(small, other)
    arguments = [str(other), "--settings", str(footage.parent / "settings.yaml"), *options]
    command = [sys.executable, "-m", "gloria_core.extraction", *arguments]
    parts = other / "extraction" / "parts"
    for kept in kills:
        process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(parts.glob("*.json"))) < kept:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = {path: path.stat().st_mtime_ns for path in parts.glob("*.json")}
        assert len(done) >= kept
        for path in done:
            json.loads(path.read_bytes())
    assert main(arguments) == 0
    assert (other / "dataset.json").read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert parts_of(other) == parts_of(footage)


class StoppedError(Exception):
    """Somebody pressed Cancel."""


def test_a_stopped_video_goes_on_behind_its_last_finished_stage(footage, small, monkeypatch):
    whole = run(footage)
    other = footage.parent / "other"
    shutil.copytree(small, other)
    settings = settings_of(footage)
    looked_at = Counter()
    monkeypatch.setattr(units, "_KEEP_SECONDS", 0.0)

    def run_until(stop_at, runner):
        stages = make_stages(other, settings, poses())
        for stage in stages:
            stage.on_picture = partial(watch, stage.name, stop_at)
        return run_stages(other, settings, poses(), stages, runner)

    def watch(name, stop_at):
        if name == stop_at:
            raise StoppedError
        looked_at[name] += 1

    for stop_at in ("people", "choose"):
        with pytest.raises(StoppedError):
            run_until(stop_at, LocalRunner(stop_on=(StoppedError,)))
        assert not parts_of(other), "no part says that it is finished"
    run_until(None, LocalRunner())
    assert (other / "dataset.json").read_bytes() == whole
    assert parts_of(other) == parts_of(footage)
    assert not list(other.rglob("*.partial"))
    stopped = Counter(looked_at)
    shutil.rmtree(other / "extraction")
    (other / "dataset.json").unlink()
    looked_at.clear()
    run_until(None, LocalRunner())
    assert stopped == looked_at, "no stage looked at a picture twice"


class Sure:
    """A classifier that sees the same in every face."""

    name = "sure"

    def setup(self):
        pass

    def classify(self, crops):
        return [{name: float(name == "happy") for name in EXPRESSIONS} for _ in crops]


class Late:
    """A judge that is out at first."""

    name = "late"
    is_there = False

    def setup(self):
        pass

    def judge(self, crop_HWC, label):
        outcome = "keep" if self.is_there else "no answer"
        return Verdict(outcome=outcome, label=label, reason=outcome, attempts=1, judge=self.name)


def test_a_judge_that_was_out_is_asked_again_and_nothing_before_it_is_done_again(footage):
    for path in footage.glob("v[1-5]*"):
        path.unlink()
    text = SETTINGS_YAML.replace("min_head_height: 48", "min_head_height: 16") + "expressions: {min_distinct: 1}\n"
    (footage.parent / "settings.yaml").write_text(text)
    settings, judge = settings_of(footage), Late()
    backends = replace(poses(), expressions=Sure(), judge=judge)

    def happy_anchors():
        runner = LocalRunner()
        (source,) = extract(footage, settings, backends, runner).found.sources
        return [anchor for anchor in source.anchors if anchor.label == "happy"], runner.seconds

    found, _ = happy_anchors()
    assert not found
    judge.is_there = True
    found, seconds = happy_anchors()
    assert found
    assert {name for name, spent in seconds.items() if spent} == {"judge", "choose", "globals"}
    assert not list(footage.rglob("*.partial"))
    assert not any(happy_anchors()[1].values())


def test_an_error_does_not_stop_the_run_unless_it_says_so(footage):
    stages = make_stages(footage, settings_of(footage), poses())

    def cancel():
        raise StoppedError("stop")

    stages[2].on_picture = cancel
    with pytest.raises(DatasetError, match="No footage is left"):
        run_stages(footage, settings_of(footage), poses(), stages, LocalRunner())
    assert set(errors_of(footage).values()) == {"StoppedError: stop"}


def test_another_pose_file_or_caption_makes_the_part_anew(footage):
    run(footage)
    before = parts_of(footage)
    (footage / "v0.txt").write_text("somebody else")
    mended = toy_source(2, facings=FACINGS, seconds=4.0, size=128)
    write_joints_file(footage / "v2.joints.npz", mended, noise=1.0)
    run(footage)
    after = parts_of(footage)
    changed = {json.loads(after[name])["video"] for name in after if after[name] != before[name]}
    assert changed == {"v0.mp4", "v2.mp4"}
    assert read_manifest(footage).sources[0].caption == "somebody else"


def test_bad_files_become_error_rows_and_the_others_go_on(footage):
    (footage / "corrupt.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (footage / "empty.mp4").write_bytes(b"")
    with av.open(str(footage / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        container.start_encoding()
    with av.open(str(footage / "voice.mp4"), "w") as container:
        track = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux([*track.encode(frame), *track.encode()])
    whole = (footage / "v2.mp4").read_bytes()
    (footage / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    shutil.copy(footage / "v3.mp4", footage / "w3.mp4")
    shutil.copy(footage / "v3.smpl.npz", footage / "w3.smpl.npz")
    (footage / "v4.joints.npz").unlink()
    (footage / "sound.mp4").write_bytes((footage / "v5.mp4").read_bytes() + b"\0" * 8)
    (footage / "sound.smpl.npz").write_bytes(b"no pose")
    run(footage)
    errors = errors_of(footage)
    assert set(errors) == {
        "corrupt.mp4", "empty.mp4", "none.mp4", "voice.mp4", "cut.mp4", "w3.mp4", "v4.mp4", "sound.mp4"
    }
    assert "not a readable video" in errors["corrupt.mp4"]
    assert "same as 'v3.mp4'" in errors["w3.mp4"]
    assert "has no pose file" in errors["v4.mp4"]
    assert "sound.smpl.npz" in errors["sound.mp4"]
    sources = read_manifest(footage).sources
    assert [source.video for source in sources] == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4", "v5.mp4"]
    assert sources[0].caption == "a toy character turns to the left"
    assert all({anchor.label for anchor in source.anchors} >= {"front", "left"} for source in sources)


def test_an_error_is_tried_again_and_mended_footage_is_used(footage):
    shutil.move(footage / "v4.joints.npz", footage / "later")
    run(footage)
    assert set(errors_of(footage)) == {"v4.mp4"}
    shutil.move(footage / "later", footage / "v4.joints.npz")
    run(footage)
    assert not errors_of(footage)


def test_the_command_writes_a_dataset_and_a_sheet(footage, caplog):
    arguments = [str(footage), "--settings", str(footage.parent / "settings.yaml")]
    assert main(arguments) == 0
    assert read_manifest(footage).sources
    for name in ("contact_sheet.html", "contact_sheet.png", "report.json"):
        assert (footage / "extraction" / name).stat().st_size > 1000
    assert main([str(footage.parent / "nothing")]) == 1
    assert "There are no videos" in caplog.text


def test_unknown_settings_are_named(tmp_path):
    (tmp_path / "settings.yaml").write_text("views: {half_widht: 20}")
    with pytest.raises(ValueError, match="unknown field.*half_widht"):
        read_settings(tmp_path / "settings.yaml")


def test_samples_with_a_verdict_are_cut_and_short_rests_refused():
    record = Record(id="a", video="a.mp4", seconds=10, spans=(Span(start=0, end=6), Span(start=7, end=10)))
    times = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    verdicts = [None, None, None, "dark", None, "dark", None, None, None]
    after = cut(record, "quality", times, verdicts, 2.0)
    assert after.spans == (Span(start=0, end=3), Span(start=7, end=10))
    kept = [(each.start, each.end, each.reason) for each in after.rejects]
    assert kept == [(3, 4, "dark"), (4, 5, "shorter than 2 s"), (5, 6, "dark")]


def test_a_stage_that_breaks_is_a_row_too(footage, monkeypatch):
    def broken(_self, _record):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Probe, "process", broken)
    with pytest.raises(DatasetError, match="No footage is left"):
        run(footage)
    assert set(errors_of(footage).values()) == {"RuntimeError: a bug"}
