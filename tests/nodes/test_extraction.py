"""Footage of a toy character through Extract, Relabel and Crop: against the truth, resumed, mended, confined.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_extraction.py
"""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_api.latest import InputImpl, io

sys.path.append(str(Path(__file__).resolve().parents[1] / "core" / "extraction"))

from toy_scene import boxes, noisy, toy_source, true_view, write_joints_file, write_toy_video

from gloria_pack.gloria_core.data.manifest import read_manifest
from gloria_pack.gloria_core.data.read_clip import read_picture
from gloria_pack.gloria_core.errors import AnchorError, ConfigError, DatasetError
from gloria_pack.gloria_core.extraction import units
from gloria_pack.nodes.bridge import extraction
from gloria_pack.nodes.bridge.dataset import LINKED, footage_path
from gloria_pack.nodes.bridge.extraction import EXTRACTIONS_FOLDER, linked_footage
from gloria_pack.nodes.bridge.paths import MissingFileError
from gloria_pack.nodes.crop_character import GloriaCropBody, GloriaCropHead
from gloria_pack.nodes.extract_anchors import GloriaExtractAnchors
from gloria_pack.nodes.relabel_anchors import GloriaRelabelAnchors

SETTINGS = """\
clip_frames: 41
hold_out_every: 0
footage: {min_side: 64}
anchors: {min_body_height: 64, full_body_height: 100, num_global: 4}
"""
VIEWS = ("front", "back", "left", "right")


@pytest.fixture(scope="module")
def footage(base_directory):
    """Two toy videos in the input folder, 3D joints beside the first, and the truth about it."""
    folder = base_directory / "input" / "toy"
    source = noisy(toy_source(0, seconds=14.0, size=128), seed=70)
    write_toy_video(folder / "walk.mp4", source)
    write_joints_file(folder / "walk.joints.npz", source, noise=4.0)
    write_toy_video(folder / "other.mp4", toy_source(3, seconds=4.0, size=128))
    yield folder, source
    shutil.rmtree(folder)


@pytest.fixture
def extract(footage, output_directory):
    folder, _ = footage

    def run(**changes):
        arguments = {
            "name": "anna", "find_viewpoints": True, "per_label": 2, "find_cuts": False,
            "pose_file": "toy/walk.joints.npz", "expression_classifier": "none", "settings": SETTINGS,
            "video": InputImpl.VideoFromFile(str(folder / "walk.mp4")), **changes,
        }  # fmt: skip
        return run_node(GloriaExtractAnchors, **arguments)

    return run


def run_node(node, **inputs):
    locked = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "7"}})
    with torch.inference_mode():
        return locked.execute(**inputs).args


def views_of(folder):
    return [a for source in read_manifest(folder).sources for a in source.anchors if a.kind == "viewpoint"]


def test_footage_becomes_labelled_anchors_with_a_sheet_and_reasons(extract, footage, output_directory):
    _, source = footage
    anchors, sheet, report, folder = extract()
    assert folder == output_directory / EXTRACTIONS_FOLDER / "anna"
    views = views_of(folder)
    assert len(views) >= 4
    assert all(view.label == true_view(source, view.time) for view in views)
    shown = {anchor.label: anchor.image_HWC for anchor in anchors.anchors}
    assert set(shown) == {view.label for view in views} | {"global"}
    first = next(view for view in views if view.label == "front")
    assert torch.equal(shown["front"], read_picture(folder / "footage.mp4", first.time, first.box))
    assert sheet.ndim == 4
    assert sheet.shape[1] > 200
    assert "s show no viewpoint" in report
    assert "expressions are not read" in report
    assert str(folder / "extraction" / "contact_sheet.html") in report
    assert (folder / "extraction" / "contact_sheet.html").is_file()


def test_the_same_footage_goes_on_and_other_footage_needs_another_name(extract, footage):
    folder = extract()[3]
    parts = {path: path.stat().st_mtime_ns for path in (folder / "extraction" / "parts").iterdir()}
    before = (folder / "dataset.json").read_bytes()
    extract()
    assert (folder / "dataset.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "extraction" / "parts").iterdir()} == parts
    other = InputImpl.VideoFromFile(str(footage[0] / "other.mp4"))
    with pytest.raises(DatasetError, match="holds the extraction of other footage"):
        extract(video=other)
    assert not list(folder.glob(".incoming*"))
    # A cut of a video is other footage too, and is cut.
    cut = InputImpl.VideoFromFile(str(footage[0] / "walk.mp4"), start_time=1.0, duration=4.0)
    found = read_manifest(extract(video=cut, name="cut", find_viewpoints=False, pose_file="none")[3])
    assert [len(source.clips) for source in found.sources] == [2]


@pytest.mark.parametrize("canceled_work", ["shots", "crops"])
def test_cancel_ends_the_node_and_the_same_queue_goes_on(extract, monkeypatch, canceled_work):
    monkeypatch.setattr(units, "_KEEP_SECONDS", 0.0)
    with_cuts = SETTINGS.replace("footage: {", "footage: {shots: detect, ")
    unbroken = (extract(name="unbroken", settings=with_cuts)[3] / "dataset.json").read_bytes()
    looked_at = Counter()
    original = extraction.Watch.on_picture

    def press_cancel(self, work):
        looked_at[work] += 1
        if work == canceled_work and looked_at[work] == 3:
            model_management.interrupt_current_processing()
        original(self, work)

    monkeypatch.setattr(extraction.Watch, "on_picture", press_cancel)
    with pytest.raises(model_management.InterruptProcessingException):
        extract(settings=with_cuts)
    assert not model_management.processing_interrupted()
    before = Counter(looked_at)
    assert before[canceled_work] == 3, "not one more picture"
    folder = extract(settings=with_cuts)[3]
    assert (folder / "dataset.json").read_bytes() == unbroken
    assert looked_at["shots"] - before["shots"] == (0 if canceled_work == "crops" else 336)


def test_images_are_footage_as_well(extract, footage):
    _, source = footage
    frames = source.frames(0, 240)
    anchors, _, _, folder = extract(video=None, images=frames, fps=24.0, name="frames")
    views = views_of(folder)
    assert views
    assert all(view.label == true_view(source, view.time) for view in views)
    (scene,) = anchors.of_kind("global")
    fronts = [view.time for view in views if view.label == "front"]
    times = [a.time for a in read_manifest(folder).sources[0].anchors if a.kind == "global"]
    facing = min(times, key=lambda time: min(abs(time - front) for front in fronts))
    assert float((scene.image_HWC - frames[int(facing * 24 + 1e-3)]).abs().mean()) < 0.02
    for wrong in ({"images": frames}, {"video": None}):
        with pytest.raises(DatasetError, match="either a video or images"):
            extract(**wrong)


def test_what_is_missing_is_said_before_any_work_and_the_rest_can_still_be_done(extract, output_directory):
    with pytest.raises(DatasetError, match=r"how the body is turned.*pose_file.*SDPose.*find_viewpoints off.*shots"):
        extract(pose_file="none")
    assert not list(output_directory.rglob("*.mp4"))
    anchors, _, report, folder = extract(pose_file="none", find_viewpoints=False)
    assert {anchor.kind for anchor in anchors.anchors} == {"global"}
    assert "viewpoints are not looked for" in report
    assert read_manifest(folder).sources[0].clips
    with pytest.raises(DatasetError, match="connect a face_detector"):
        (output_directory.parent / "models" / "classifiers" / "eight").mkdir(parents=True, exist_ok=True)
        (output_directory.parent / "models" / "classifiers" / "eight" / "config.json").write_text("{}")
        extract(pose_file="none", find_viewpoints=False, expression_classifier="eight")
    with pytest.raises(DatasetError, match="pose_model needs pose_vae"):
        extract(pose_file="none", pose_model=object())
    with pytest.raises(ConfigError, match="unknown field.*half_widht"):
        extract(settings="views: {half_widht: 3}")


def test_names_from_a_workflow_stay_inside_comfyuis_folders(extract, footage, output_directory, tmp_path):
    for name in ("../out", "a/b", "", ".", "x" * 65):
        with pytest.raises(DatasetError, match="cannot be used as a folder name"):
            extract(name=name)
    for pose_file in ("../../secret.npz", "/etc/passwd", "toy/nothing.npz"):
        with pytest.raises(MissingFileError):
            extract(pose_file=pose_file)
    (output_directory / EXTRACTIONS_FOLDER).mkdir(parents=True)
    (output_directory / EXTRACTIONS_FOLDER / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="outside ComfyUI's output folder"):
        extract(name="link")
    for wrong in ("/etc", str(output_directory), tmp_path, output_directory / "x", None):
        with pytest.raises(DatasetError, match="takes the footage output"):
            linked_footage(wrong)
    with pytest.raises(DatasetError, match="Nothing is connected to footage"):
        footage_path(LINKED)


def test_another_pose_file_is_looked_at_anew(extract, footage, base_directory):
    folder = extract()[3]
    turned = base_directory / "input" / "toy" / "turned.npz"
    arrays = dict(np.load(footage[0] / "walk.joints.npz"))
    middle = arrays["joints"].mean(1, keepdims=True)
    arrays["joints"] = middle + (arrays["joints"] - middle) * [-1, 1, -1]  # half a turn about gravity
    np.savez(turned, **arrays)
    opposite = {"front": "back", "back": "front", "left": "right", "right": "left"}
    extract(pose_file="toy/turned.npz", settings=f"{SETTINGS}views: {{max_head_psi: 180}}", name="turned")
    views = views_of(folder.with_name("turned"))
    assert views
    assert all(opposite[view.label] == true_view(footage[1], view.time) for view in views)
    before = (folder / "dataset.json").read_bytes()
    extract(pose_file="toy/turned.npz")
    assert (folder / "dataset.json").read_bytes() != before
    assert GloriaExtractAnchors.fingerprint_inputs(pose_file="toy/turned.npz") != (
        GloriaExtractAnchors.fingerprint_inputs(pose_file="toy/walk.joints.npz")
    )


def test_relabelling_is_saved_and_the_same_lines_once_more_change_nothing(extract, output_directory):
    folder = extract()[3]
    total = len(views_of(folder))
    _, sheet, _, same = run_node(GloriaRelabelAnchors, footage=folder, decisions="1 back\n2 drop")
    assert same == folder
    assert len(views_of(folder)) == total - 1
    once = (folder / "dataset.json").read_bytes()
    again = run_node(GloriaRelabelAnchors, footage=folder, decisions="1 back\n2 drop")
    assert (folder / "dataset.json").read_bytes() == once
    assert torch.equal(again[1], sheet)
    # What the page saves is taken too, and a later extraction keeps all of it.
    left = next(view for view in views_of(folder) if view.label == "left")
    source = read_manifest(folder).sources[0].id
    decision = {"source": source, "kind": "viewpoint", "label": "left", "time": left.time, "action": "drop"}
    run_node(GloriaRelabelAnchors, footage=folder, decisions=json.dumps({"schema": 1, "decisions": [decision]}))
    mended = (folder / "dataset.json").read_bytes()
    assert mended != once
    extract()
    assert (folder / "dataset.json").read_bytes() == mended
    with pytest.raises(DatasetError, match="does not start with a number"):
        run_node(GloriaRelabelAnchors, footage=folder, decisions="first back")


def test_crops_hold_the_largest_subject_with_its_margin(footage):
    _, source = footage
    images = source.frames(0, 2)
    truth = boxes(source, [0.0, 1 / 24])
    as_dict = [
        {"x": left, "y": top, "width": right - left, "height": bottom - top} for left, top, right, bottom in truth
    ]
    small = {"x": 0, "y": 0, "width": 9, "height": 9}
    (crop,) = run_node(GloriaCropBody, image=images[:1], margin=0.06, bboxes=[[small, as_dict[0]]])
    left, top, right, bottom = truth[0]
    assert crop.shape[1] == pytest.approx((bottom - top) * 1.12, abs=2)
    column = int(left - 0.06 * (right - left))
    row = int(top - 0.06 * (bottom - top))
    assert torch.equal(crop[0], images[0, row : row + crop.shape[1], column : column + crop.shape[2]])
    (several,) = run_node(GloriaCropHead, image=images, margin=0.0, bboxes=[[each] for each in as_dict])
    assert several.shape[0] == 2
    (shared,) = run_node(GloriaCropHead, image=images, margin=0.0, bboxes=as_dict[0])
    assert shared.shape[1:] == several.shape[1:]
    with pytest.raises(AnchorError, match="no person in picture 2 of 2"):
        run_node(GloriaCropBody, image=images, margin=0.1, bboxes=[[as_dict[0]], []])
    with pytest.raises(AnchorError, match="boxes for 3 pictures"):
        run_node(GloriaCropBody, image=images, margin=0.1, bboxes=[[small]] * 3)
    for node, what in ((GloriaCropBody, "person_detector"), (GloriaCropHead, "face_detector")):
        with pytest.raises(AnchorError, match=what):
            run_node(node, image=images, margin=0.1)
