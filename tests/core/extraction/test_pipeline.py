"""From toy footage to a dataset: labels against the truth, splits, rejects, and the way into the dataset's build.

Run: python -m pytest tests/core/extraction/test_pipeline.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from toy_classifier import toy_faces
from toy_scene import (
    FPS,
    noisy,
    toy_source,
    true_view,
    write_joints_file,
    write_smpl_file,
    write_toy_video,
)

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.data.manifest import MAX_GLOBAL_CANDIDATES, read_manifest
from gloria_core.data.read_clip import read_clip, read_picture
from gloria_core.errors import DatasetError
from gloria_core.extraction.backends import Backends, SyncScore
from gloria_core.extraction.collect import REPORT_NAME
from gloria_core.extraction.extract import extract
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.runners import LocalRunner
from gloria_core.extraction.settings import (
    AnchorThresholds,
    ExtractionSettings,
    FootageThresholds,
)

TOY_ANCHORS = AnchorThresholds(min_body_height=128, min_head_height=96, full_body_height=200, full_head_height=120)
SETTINGS = ExtractionSettings(
    clip_frames=121, hold_out_every=0, footage=FootageThresholds(shots="none"), anchors=TOY_ANCHORS
)


def toy_backends(**changes):
    poses = PoseFiles()
    return Backends(**{"body": poses, "people": poses, "faces": poses, **changes})


def make_footage(folder, index, source=None, suffix="joints", noise=4.0, **video):
    source = source or toy_source(index)
    path = write_toy_video(folder / f"toy_{index}.mp4", source, **video)
    write = write_joints_file if suffix == "joints" else write_smpl_file
    write(folder / f"toy_{index}.{suffix}.npz", source, noise=noise, seed=index)
    return source, path


def report_of(folder):
    return json.loads((folder / "extraction" / REPORT_NAME).read_text())


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Four videos with random turns, pose files of both formats, 4 degrees of noise on every frame."""
    folder = tmp_path_factory.mktemp("footage")
    sources = {}
    for index in range(4):
        source = noisy(toy_source(index, seconds=24.0), seed=70 + index)
        source, path = make_footage(folder, index, source, suffix="joints" if index % 2 else "smpl")
        sources[path.name] = source
    return folder, sources


def test_viewpoints_of_random_turns_are_right(footage):
    folder, sources = footage
    extract(folder, SETTINGS, toy_backends(), LocalRunner())
    manifest = read_manifest(folder)
    judged = []
    for source in manifest.sources:
        for anchor in source.anchors:
            if anchor.kind == "viewpoint":
                judged.append(anchor.label == true_view(sources[source.video], anchor.time))
    assert len(judged) >= 30
    assert sum(judged) / len(judged) >= 0.98
    labels = {anchor.label for source in manifest.sources for anchor in source.anchors if anchor.kind == "viewpoint"}
    assert labels == {"front", "back", "left", "right"}


def test_expressions_are_read_with_a_classifier_made_for_toy_faces(tmp_path):
    right, found = 0, []
    truth = {}
    for index in range(2):
        moods = [(2.0 * k, EXPRESSIONS[(3 * k + index) % 8]) for k in range(8)]
        source = toy_source(10 + index, facings=((0.0, "front"),), moods=moods, seconds=16.0)
        source, path = make_footage(tmp_path, 10 + index, source)
        truth[path.name] = source
    extract(tmp_path, SETTINGS, toy_backends(expressions=toy_faces()), LocalRunner())
    for source in read_manifest(tmp_path).sources:
        for anchor in source.anchors:
            if anchor.kind == "expression":
                found.append(anchor)
                right += anchor.label == truth[source.video].program.expression_at(anchor.time)
                assert read_picture(tmp_path / source.video, anchor.time, anchor.box).shape[0] >= 96
    assert len(found) >= 12
    assert right / len(found) >= 0.9
    assert len({anchor.label for anchor in found}) == 8


def test_clips_are_five_seconds_and_globals_lie_inside_and_outside(tmp_path):
    make_footage(tmp_path, 0, noise=0.0)
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    (source,) = read_manifest(tmp_path).sources
    assert [clip.start for clip in source.clips] == pytest.approx([0, 121 / 24, 242 / 24], abs=1e-4)
    assert read_clip(tmp_path / source.video, source.clips[-1].start, 121, FPS, 32, 32).shape[0] == 121
    times = [anchor.time for anchor in source.anchors if anchor.kind == "global"]
    inside = [any(clip.start <= time < clip.start + 121 / 24 for clip in source.clips) for time in times]
    assert (len(times), sum(inside)) == (MAX_GLOBAL_CANDIDATES, MAX_GLOBAL_CANDIDATES // 2)
    views = [anchor for anchor in source.anchors if anchor.kind == "viewpoint"]
    per_label = {label: [each.time for each in views if each.label == label] for label in ("front", "back", "left")}
    assert all(1 <= len(group) <= TOY_ANCHORS.per_label for group in per_label.values())
    for group in per_label.values():
        assert all(abs(a - b) >= 1 for a in group for b in group if a != b)


def test_body_crops_hold_the_body(tmp_path):
    source, _ = make_footage(tmp_path, 3, noise=0.0)
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    (found,) = read_manifest(tmp_path).sources
    for anchor in found.anchors:
        if anchor.kind == "viewpoint":
            left, top, width, height = anchor.box
            poses = source.program.poses([anchor.time])
            scale = source.height / 1.16 * poses.camera_T3[0, 2].item()
            assert height == pytest.approx(1.12 * scale, rel=0.06)
            center = (poses.x_T - poses.camera_T3[0, 0]).item() * scale + source.width / 2
            assert left + width / 2 == pytest.approx(center, abs=3)
            assert top >= 0


def test_a_single_expression_makes_no_expression_anchors(tmp_path):
    source = toy_source(20, facings=((0.0, "front"),), moods=((0.0, "happy"),), seconds=7.0)
    make_footage(tmp_path, 20, source)
    extract(tmp_path, SETTINGS, toy_backends(expressions=toy_faces()), LocalRunner())
    (found,) = read_manifest(tmp_path).sources
    assert not [anchor for anchor in found.anchors if anchor.kind == "expression"]
    reasons = {row["reason"] for row in report_of(tmp_path)["rejected_anchors"] if row["kind"] == "expression"}
    assert reasons == {"1 expression in this source, 2 are needed"}


def test_shots_are_cut_and_belong_to_one_person_only_if_said(tmp_path):
    first, second = toy_source(0), toy_source(5)
    path = tmp_path / "film.mp4"
    write_toy_video(path, _Joined(first, second, 168))
    write_joints_file(tmp_path / "film.joints.npz", first, noise=0.0)
    settings = ExtractionSettings(clip_frames=121, hold_out_every=0, anchors=TOY_ANCHORS)
    extract(tmp_path, settings, toy_backends(), LocalRunner())
    sources = read_manifest(tmp_path).sources
    assert [source.clips[0].start for source in sources] == [0.0, pytest.approx(7.0, abs=0.05)]
    for source, (start, end) in zip(sources, [(0, 7), (7, 14)], strict=True):
        assert all(start <= anchor.time <= end for anchor in source.anchors)
    (tmp_path / "dataset.json").unlink()
    one = ExtractionSettings(
        clip_frames=121, hold_out_every=0, anchors=TOY_ANCHORS, footage=FootageThresholds(one_person=True)
    )
    extract(tmp_path, one, toy_backends(), LocalRunner())
    (source,) = read_manifest(tmp_path).sources
    assert [clip.start for clip in source.clips] == pytest.approx([0.0, 7.0], abs=0.05)


class _Joined:
    """Two sources one behind the other, each so many frames long."""

    def __init__(self, first, second, num):
        self.parts, self.num = (first, second), num
        self.height, self.width, self.num_frames = first.height, first.width, 2 * num

    def frames(self, start, count):
        part = self.parts[start // self.num]
        first = start % self.num
        kept = min(count, self.num - first)
        pieces = [part.frames(first, kept)]
        if kept < count:
            pieces.append(self.parts[1].frames(0, count - kept))
        return torch.cat(pieces)


class TwoPeopleFrom:
    """A detector that sees a second person in one stretch."""

    name = "two people"

    def __init__(self, start, end):
        self.start, self.end, self.poses = start, end, PoseFiles()

    def setup(self):
        pass

    def people(self, moment):
        (box,) = self.poses.people(moment)
        return [box, box] if self.start <= moment.time < self.end else [box]


class Sync:
    """A scorer with a fixed answer."""

    def __init__(self, score):
        self.answer, self.name = score, f"sync {score}"

    def setup(self):
        pass

    def score(self, video, start, end):
        return self.answer


def test_a_second_person_cuts_the_footage_and_is_reported(tmp_path):
    make_footage(tmp_path, 0, noise=0.0)
    extract(tmp_path, SETTINGS, toy_backends(people=TwoPeopleFrom(6, 8)), LocalRunner())
    (source,) = read_manifest(tmp_path).sources
    assert [clip.start for clip in source.clips] == pytest.approx([0.0, 8.0], abs=0.01)
    assert not [anchor for anchor in source.anchors if 6 <= anchor.time < 8]
    (row,) = [row for row in report_of(tmp_path)["rejected_footage"] if row["stage"] == "people"]
    assert (row["start"], row["end"], row["reason"]) == (6.0, 8.0, "more than one person")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (SyncScore(0, 7.0, 6.0), None),
        (SyncScore(4, 7.0, 6.0), "the sound is +4 frames late"),
        (SyncScore(0, 1.0, 9.0), "lips and sound agree only to 1.0"),
        (None, None),
    ],
)
def test_footage_out_of_sync_is_left_out(tmp_path, score, reason):
    make_footage(tmp_path, 0, toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),)))
    backends = toy_backends(sync=Sync(score))
    if reason is None:
        extract(tmp_path, SETTINGS, backends, LocalRunner())
        assert len(read_manifest(tmp_path).sources) == 1
        return
    with pytest.raises(DatasetError, match="No footage is left"):
        extract(tmp_path, SETTINGS, backends, LocalRunner())


def test_a_video_without_sound_is_not_asked_for_sync(tmp_path):
    source = toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),))
    make_footage(tmp_path, 0, source, audio=False)
    extract(tmp_path, SETTINGS, toy_backends(sync=Sync(SyncScore(9, 0.0, 9.0))), LocalRunner())
    assert len(read_manifest(tmp_path).sources) == 1


def test_bad_stretches_are_taken_away_with_their_reason(tmp_path):
    source = toy_source(0, seconds=16.0)

    class Spoilt:
        height, width, num_frames = source.height, source.width, source.num_frames

        def frames(self, start, count):
            frames = source.frames(start, count).clone()
            for idx in range(count):
                time = (start + idx) / FPS
                if 6 <= time < 8:
                    frames[idx] = 0.01
                elif 10 <= time < 15:
                    frames[idx] = source.frames(240, 1)[0]
            return frames

    write_toy_video(tmp_path / "v.mp4", Spoilt())
    write_joints_file(tmp_path / "v.joints.npz", source)
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    rows = [row for row in report_of(tmp_path)["rejected_footage"] if row["stage"] == "quality"]
    found = {row["reason"]: (row["start"], row["end"]) for row in rows}
    assert found["too dark or too bright"] == (6.0, 8.0)
    assert found["a still picture"] == pytest.approx((10.5, 15.0), abs=0.51)


def test_what_was_not_done_is_said(tmp_path):
    make_footage(tmp_path, 0, toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),)))
    extract(tmp_path, SETTINGS, toy_backends(faces=None), LocalRunner())
    said = " ".join(report_of(tmp_path)["not_done"])
    for word in ("people are not counted", "faces are not looked for", "lips and sound", "judged a second time"):
        assert word in said


def test_numbers_equal_to_the_eye_give_equal_manifests(tmp_path):
    make_footage(tmp_path, 0, toy_source(0, seconds=8.0))
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    first = (tmp_path / "dataset.json").read_bytes()
    for part in (tmp_path / "extraction" / "parts").iterdir():
        part.unlink()
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    assert (tmp_path / "dataset.json").read_bytes() == first


def test_a_mended_dataset_is_never_overwritten(tmp_path):
    make_footage(tmp_path, 0, toy_source(0, seconds=6.0, facings=((0.0, "front"),), moods=((0.0, "sad"),)))
    extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"caption": ""', '"caption": "by hand"'))
    with pytest.raises(DatasetError, match="mended by hand"):
        extract(tmp_path, SETTINGS, toy_backends(), LocalRunner())
    assert "by hand" in path.read_text()


