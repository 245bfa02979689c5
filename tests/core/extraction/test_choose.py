"""Sync maths, quality and choice in closed form; decisions and the contact sheet.

Run: python -m pytest tests/core/extraction/test_choose.py
"""

import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))

from toy_scene import toy_source, write_joints_file, write_toy_video

from gloria_core.conditioning.anchors import EXPRESSIONS, MAX_ANCHORS
from gloria_core.data.manifest import read_manifest
from gloria_core.data.read_clip import read_picture
from gloria_core.errors import DatasetError
from gloria_core.extraction.__main__ import main
from gloria_core.extraction.anchor_set import anchor_set
from gloria_core.extraction.anchor_stages import Choose, JudgeExpressions, spread, without
from gloria_core.extraction.backends import Backends, Box, Verdict
from gloria_core.extraction.choose import diverse_best, fitted_crop, quality_score
from gloria_core.extraction.decisions import decisions_of_text
from gloria_core.extraction.expression_stage import smoothed, stretches
from gloria_core.extraction.extract import decide, extract, reopen
from gloria_core.extraction.frames import exposure, sharpness
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.records import Candidate, Record, Span
from gloria_core.extraction.runners import LocalRunner
from gloria_core.extraction.settings import AnchorThresholds, ExtractionSettings, FootageThresholds
from gloria_core.extraction.sync import distances, score_embeddings


@pytest.mark.parametrize("lag", [-15, -4, 0, 3, 15])
def test_a_planted_lag_is_found(lag):
    rng = np.random.default_rng(lag + 20)
    sound = rng.normal(size=(120, 32))
    lips = np.roll(sound, -lag, axis=0)
    score = score_embeddings(lips, sound)
    assert score.offset == lag
    assert score.distance == pytest.approx(0, abs=1e-12)
    # Independent Gaussian vectors lie sqrt(2 D) apart.
    assert score.confidence == pytest.approx(np.sqrt(64), rel=0.05)


def test_sync_distances_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    lips, sound = rng.normal(size=(2, 40, 8))
    found = distances(lips, sound, 5)
    for place, shift in enumerate(range(-5, 6)):
        pairs = [np.linalg.norm(lips[i] - sound[i + shift]) for i in range(40) if 0 <= i + shift < 40]
        assert found[place] == pytest.approx(np.mean(pairs))


def test_the_same_everywhere_is_no_agreement():
    score = score_embeddings(np.ones((40, 8)), np.ones((40, 8)))
    assert score.confidence == 0
    with pytest.raises(ValueError, match="more than 15 frames"):
        score_embeddings(np.ones((15, 8)), np.ones((15, 8)))


def test_quality_is_a_geometric_mean():
    assert quality_score([0.5, 0.5]) == pytest.approx(0.5)
    assert quality_score([1.0, 0.25]) == pytest.approx(0.5)
    assert quality_score([1.0, 1.0, 0.0]) == 0
    assert quality_score([2.0, 1.0]) == 1


def test_a_blurred_picture_is_less_sharp_and_gray_is_well_lit():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    blurred = torch.nn.functional.avg_pool2d(noise.float().movedim(-1, 0)[None], 5, 1, 2)[0].movedim(0, -1).byte()
    assert sharpness(noise) > 10 * sharpness(blurred) > 0
    # One white row on black: the Laplacian is -510 on the row, 255 beside it, 0 elsewhere.
    row = torch.zeros(12, 12, 3, dtype=torch.uint8)
    row[6] = 255
    values = np.array([255.0, -510.0, 255.0] + [0.0] * 7)
    assert sharpness(row) == pytest.approx(values.var(), rel=1e-4)
    levels = {value: exposure(torch.full((8, 8, 3), value, dtype=torch.uint8)) for value in (0, 64, 128, 255)}
    assert levels[0] == pytest.approx(0, abs=1e-6)
    assert levels[255] == pytest.approx(0, abs=1e-5)
    assert levels[128] > 0.99 > levels[64] > 0.9


@pytest.mark.parametrize(
    ("box", "expected", "cut_off"),
    [
        (Box(40, 30, 60, 70), (38, 26, 24, 48), None),
        (Box(1, 30, 21, 70), (0, 26, 23, 48), "left"),
        (Box(40, 60, 60, 100), (38, 56, 24, 44), "bottom"),
        (Box(80, 60, 100, 100), (78, 56, 22, 44), "right"),
        (Box(40, 0, 60, 40), (38, 0, 24, 44), "top"),
    ],
)
def test_crops_stay_inside_and_say_where_the_body_ends(box, expected, cut_off):
    assert fitted_crop(box, 0.1, (100, 100), 0.02) == (expected, cut_off)


def test_a_box_outside_has_no_crop():
    assert fitted_crop(Box(120, 10, 140, 30), 0.0, (100, 100), 0.02) is None


def test_the_best_comes_first_then_the_most_different_never_close_in_time():
    features = torch.tensor([[0.0, 0], [0, 0.1], [5, 0], [0, 5], [0, 0]])
    qualities = [0.9, 0.8, 0.7, 0.7, 1.0]
    times = [0.0, 2.0, 4.0, 6.0, 0.5]
    assert diverse_best(qualities, times, features, 3, 1.0) == [4, 2, 3]
    assert diverse_best(qualities, times, features, 9, 1.0) == [4, 2, 3, 1]


def test_globals_lie_where_they_should():
    spans = (Span(start=0, end=10), Span(start=12, end=20))
    clips = [Span(start=0, end=5), Span(start=12, end=17)]
    assert without(spans, clips) == [Span(start=5, end=10), Span(start=17, end=20)]
    assert without(spans, [Span(start=0, end=10), Span(start=12, end=20)]) == []
    times = spread(clips, 40, random.Random(0))
    assert len(times) == 40
    assert all(any(clip.start <= time < clip.end for clip in clips) for time in times)
    assert sum(time < 5 for time in times) == 20


def test_neighbours_smooth_and_faces_out_of_view_do_not_count():
    sure = {name: float(name == "sad") for name in EXPRESSIONS}
    other = {name: float(name == "happy") for name in EXPRESSIONS}
    means = smoothed([sure, other, sure, None, sure])
    assert means[1]["sad"] == pytest.approx(2 / 3)
    assert means[3] is None
    assert means[4]["sad"] == 1
    assert stretches(["sad", "sad", None, "sad", "happy", "happy"], 2) == [("sad", 0, 2), ("happy", 4, 6)]


class Judge:
    """Keeps sad, turns happy into neutral, drops the rest."""

    name = "by name"

    def setup(self):
        pass

    def judge(self, crop_HWC, label):
        outcomes = {"sad": ("keep", "sad"), "happy": ("relabel", "neutral")}
        outcome, to = outcomes.get(label, ("drop", None))
        return Verdict(outcome=outcome, label=to, reason=f"was {label}", attempts=2, judge=self.name)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    source = toy_source(0, facings=((0.0, "front"), (1.5, "left")), moods=((0.0, "sad"),), seconds=6.0, size=128)
    write_toy_video(folder / "v.mp4", source)
    write_joints_file(folder / "v.joints.npz", source)
    return folder


def expression(label, time, quality=0.5):
    return Candidate(kind="expression", label=label, time=time, box=(30, 5, 60, 60), quality=quality)


def test_verdicts_are_recorded_and_only_a_shortlist_is_judged(video):
    candidates = [expression("sad", 0.5 + idx / 10, 0.9 - idx / 10) for idx in range(4)]
    candidates += [expression("happy", 2.0), expression("fear", 3.0)]
    record = Record(id="a", video="v.mp4", candidates=tuple(candidates), spans=(Span(start=0, end=6),))
    stage = JudgeExpressions(video, AnchorThresholds(shortlist=2), Judge())
    (after,) = stage.process(record)
    kept, second, third, _, relabelled, dropped = after.candidates
    assert kept.rejected is None
    assert kept.evidence["verdict"] == "keep"
    assert second.rejected is None
    assert third.rejected == "2 better ones of this label were judged"
    assert (relabelled.label, relabelled.rejected) == ("neutral", None)
    assert (relabelled.evidence["classified"], relabelled.evidence["judge"]) == ("happy", "by name")
    assert dropped.rejected == "judge: was fear"


def test_choose_refuses_the_rest_with_a_reason(video):
    candidates = tuple(expression("sad", 0.5 + 1.2 * idx, 0.9 - idx / 10) for idx in range(4))
    record = Record(id="a", video="v.mp4", candidates=candidates, spans=(Span(start=0, end=6),))
    (after,) = Choose(video, AnchorThresholds(per_label=2)).process(record)
    assert [each.rejected is None for each in after.candidates].count(True) == 2
    assert after.candidates[0].rejected is None
    assert {each.rejected for each in after.candidates} == {None, "better or more different ones were chosen"}


SETTINGS = ExtractionSettings(
    clip_frames=121,
    footage=FootageThresholds(shots="none", min_side=64),
    anchors=AnchorThresholds(min_body_height=64, min_head_height=48, full_body_height=100, full_head_height=64),
)


def extracted(video, folder):
    for path in video.iterdir():
        if path.is_file() and path.name.startswith("v."):
            (folder / path.name).write_bytes(path.read_bytes())
    poses = PoseFiles()
    extract(folder, SETTINGS, Backends(body=poses, people=poses, faces=poses), LocalRunner())
    return read_manifest(folder)


def saved(folder, *decisions):
    path = folder / "saved.json"
    path.write_text(json.dumps({"schema": 1, "decisions": list(decisions)}))
    return path


def test_the_sheet_offers_every_anchor_and_its_decisions_change_the_manifest(video, tmp_path):
    manifest = extracted(video, tmp_path)
    page = (tmp_path / "extraction" / "contact_sheet.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    import html

    offered = [json.loads(html.unescape(text)) for text in re.findall(r'data-anchor="([^"]*)"', page)]
    (source,) = manifest.sources
    assert sorted((each["kind"], each["label"], each["time"]) for each in offered) == sorted(
        (anchor.kind, anchor.label, anchor.time) for anchor in source.anchors
    )
    with Image.open(tmp_path / "extraction" / "contact_sheet.png") as sheet:
        assert sheet.height > 160
    front = next(each for each in offered if each["label"] == "front")
    left = next(each for each in offered if each["label"] == "left")
    path = saved(tmp_path, {**front, "action": "drop"}, {**left, "action": "relabel", "to": "back"})
    assert main([str(tmp_path), "--apply", str(path)]) == 0
    (after,) = read_manifest(tmp_path).sources
    assert len(after.anchors) == len(source.anchors) - 1
    assert [anchor.label for anchor in after.anchors if anchor.time == left["time"]] == ["back"]
    # A new extraction keeps what was decided.
    poses = PoseFiles()
    extract(tmp_path, SETTINGS, Backends(body=poses, people=poses, faces=poses), LocalRunner())
    assert read_manifest(tmp_path).sources == (after,)
    # A second look at what was relabelled goes by its new label.
    again = saved(tmp_path, {**left, "label": "back", "action": "drop"})
    assert main([str(tmp_path), "--apply", str(again)]) == 0
    extract(tmp_path, SETTINGS, Backends(body=poses, people=poses, faces=poses), LocalRunner())
    assert len(read_manifest(tmp_path).sources[0].anchors) == len(source.anchors) - 2


def test_decisions_that_do_not_fit_change_nothing(video, tmp_path, caplog):
    manifest = extracted(video, tmp_path)
    before = (tmp_path / "dataset.json").read_bytes()
    (source,) = manifest.sources
    view = next(anchor for anchor in source.anchors if anchor.kind == "viewpoint")
    fits = {"source": source.id, "kind": "viewpoint", "label": view.label, "time": view.time, "action": "drop"}
    wrong = [{"time": view.time + 0.1}, {"source": "other"}, {"to": "back"}, {"action": "relabel", "to": "sad"}]
    for change in wrong:
        assert main([str(tmp_path), "--apply", str(saved(tmp_path, fits, {**fits, **change}))]) == 1
    assert (tmp_path / "dataset.json").read_bytes() == before
    assert not (tmp_path / "extraction" / "decisions.json").exists()
    assert "fit no anchor" in caplog.text
    with pytest.raises(DatasetError, match="is no viewpoint label"):
        from gloria_core.extraction.decisions import read_decisions

        read_decisions(saved(tmp_path, {**fits, "label": "sad"}))


def lines_of(folder, text):
    return decide(folder, decisions_of_text(text, reopen(folder).found))


def numbers_of(page, word):
    """Numbers of the sheet whose card is labelled `word`."""
    return [int(number) for number in re.findall(rf"<b>(\d+) {word}</b>", page)]


def test_numbers_of_the_sheet_decide_and_stay_the_same_whatever_is_decided(video, tmp_path):
    extracted(video, tmp_path)
    page = tmp_path / "extraction" / "contact_sheet.html"
    dataset, before = tmp_path / "dataset.json", (tmp_path / "dataset.json").read_bytes()
    fronts, lefts = numbers_of(page.read_text(), "front"), numbers_of(page.read_text(), "left")
    total = sum(len(source.anchors) for source in read_manifest(tmp_path).sources)
    assert sorted(numbers_of(page.read_text(), r"\w+")) == list(range(1, total + 1))
    text = f"{fronts[0]} drop\n\n {lefts[0]}  BACK \n"
    decided = lines_of(tmp_path, text)
    once = dataset.read_bytes()
    assert once != before
    assert numbers_of(page.read_text(), "back") == [lefts[0]]
    assert "found as left" in page.read_text()
    assert "dropped by eye" in page.read_text()
    assert sum(len(source.anchors) for source in decided.decided.sources) == total - 1
    assert lines_of(tmp_path, text).decided == decided.decided
    assert dataset.read_bytes() == once
    # The newest line about an anchor counts; what no line names stays decided.
    lines_of(tmp_path, f"{lefts[0]} keep")
    assert numbers_of(page.read_text(), "left") == lefts
    assert sum(len(source.anchors) for source in read_manifest(tmp_path).sources) == total - 1
    lines_of(tmp_path, f"{fronts[0]} drop\n{fronts[0]} front")
    assert dataset.read_bytes() == before


def test_lines_that_cannot_be_read_say_what_was_expected_and_change_nothing(video, tmp_path):
    extracted(video, tmp_path)
    before = (tmp_path / "dataset.json").read_bytes()
    wrong = {
        "1 drop\nback": "does not start with a number",
        "999 back": "does not start with a number",
        "0 drop": "does not start with a number",
        "1 drop\n1 sad": "a viewpoint anchor, which can become front, back, left, right, drop or keep",
        "1": "drop or keep",
        "{1 drop": "not the file that the contact sheet saves",
    }
    for text, message in wrong.items():
        with pytest.raises(DatasetError, match=message):
            lines_of(tmp_path, text)
    assert (tmp_path / "dataset.json").read_bytes() == before


def test_anchors_for_a_video_are_one_scene_and_the_best_of_each_label_first(video, tmp_path):
    extracted(video, tmp_path)
    extraction = reopen(tmp_path)
    anchors = anchor_set(extraction)
    (source,) = extraction.decided.sources
    assert [anchor.kind for anchor in anchors.anchors].count("global") == 1
    assert {anchor.label for anchor in anchors.anchors} == {anchor.label for anchor in source.anchors}
    for label in ("front", "left"):
        best = next(each for each in source.anchors if each.label == label)
        shown = next(each for each in anchors.anchors if each.label == label)
        assert torch.equal(shown.image_HWC, read_picture(tmp_path / "v.mp4", best.time, best.box))
        assert (shown.origin.source, shown.origin.time) == ("v.mp4", best.time)
    views = tuple(anchor for anchor in source.anchors if anchor.kind == "viewpoint")
    many = replace(source, anchors=(*source.anchors, *views * 9))
    crowded = anchor_set(replace(extraction, decided=replace(extraction.decided, sources=(many,))))
    assert len(crowded.anchors) == MAX_ANCHORS


class Looks:
    """Everything looks alike but what is seen late."""

    name = "late is different"

    def __init__(self):
        self.seen = []

    def setup(self):
        pass

    def embed(self, crop_HWC):
        self.seen.append(crop_HWC)
        return torch.tensor([float(len(self.seen) > 2), 1.0])


def test_an_encoder_of_looks_decides_what_differs(video):
    candidates = tuple(expression("sad", 0.5 + 1.2 * idx, 0.9 - idx / 10) for idx in range(4))
    record = Record(id="a", video="v.mp4", candidates=candidates, spans=(Span(start=0, end=6),))
    (after,) = Choose(video, AnchorThresholds(per_label=2), Looks()).process(record)
    assert [idx for idx, each in enumerate(after.candidates) if each.rejected is None] == [0, 2]


@pytest.mark.parametrize(("end", "outside"), [(20.0, 5), (10.95, 2), (10.0, 0)])
def test_little_footage_outside_gives_few_globals_there(end, outside):
    from gloria_core.data.manifest import ManifestClip
    from gloria_core.extraction.anchor_stages import GlobalCandidates

    clips = (ManifestClip(start=0.0, frames=121), ManifestClip(start=5.0, frames=121))
    record = Record(id="a", video="v.mp4", spans=(Span(start=0, end=end),), clips=clips)
    (after,) = GlobalCandidates(Path(), 24.0, AnchorThresholds()).process(record)
    places = [each.evidence["place"] for each in after.candidates]
    assert (len(places), places.count("outside")) == (10, outside)
    assert GlobalCandidates(Path(), 24.0, AnchorThresholds()).process(record) == [after]


def test_the_dataset_build_takes_the_manifest(video, tmp_path):
    from toy_footage import CountingEncoders

    from gloria_core.data.precompute import CacheSettings, build_cache

    footage = tmp_path / "footage"
    footage.mkdir()
    manifest = extracted(video, footage)
    counting = CountingEncoders()
    index = build_cache(manifest, footage, tmp_path / "cache", counting.encoders, CacheSettings(size="64x64"))
    (source,) = index.sources
    kinds = [(anchor.kind, anchor.label) for anchor in source.anchors]
    assert sorted(kinds) == sorted((anchor.kind, anchor.label) for anchor in manifest.sources[0].anchors)
    assert len(index.clips) == len(manifest.sources[0].clips) == 1
