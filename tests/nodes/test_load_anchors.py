"""Gloria Anchors. Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_load_anchors.py"""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from gloria_pack.gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS, AnchorSet
from gloria_pack.gloria_core.errors import AnchorError
from gloria_pack.nodes.load_anchors import GloriaLoadAnchors

INPUTS = ["global_image", *VIEWPOINTS, *EXPRESSIONS]


def image(value=0.5, batch=1):
    return torch.full((batch, 40, 48, 3), value)


def load(**images):
    return GloriaLoadAnchors.execute(**images).result[0]


def test_the_public_contract_of_the_node():
    schema = GloriaLoadAnchors.define_schema()
    assert schema.node_id == "GloriaLoadAnchors"
    assert [i.id for i in schema.inputs] == [
        "global_image", "front", "back", "left", "right",
        "surprise", "angry", "disgust", "fear", "contempt", "sad", "neutral", "happy", "board",
    ]  # fmt: skip
    assert all(i.optional and i.get_io_type() == ("STRING" if i.id == "board" else "IMAGE") for i in schema.inputs)
    assert [o.get_io_type() for o in schema.outputs] == ["GLORIA_ANCHORS"]
    assert schema.description
    assert all(part.tooltip for part in (*schema.inputs, *schema.outputs))


def test_every_input_becomes_the_anchor_of_its_own_slot():
    images = {name: image(idx / 20) for idx, name in enumerate(INPUTS)}
    anchors = load(**images)
    assert isinstance(anchors, AnchorSet)
    assert anchors.slots() == (
        ("global", "global"),
        *(("viewpoint", label) for label in VIEWPOINTS),
        *(("expression", label) for label in EXPRESSIONS),
    )
    for anchor, name in zip(anchors.anchors, INPUTS, strict=True):
        assert torch.equal(anchor.image_HWC, images[name][0])


def test_a_batch_gives_several_anchors_of_one_label():
    pair = torch.cat([image(0.1), image(0.9)])
    anchors = load(happy=pair, left=image())
    assert anchors.slots() == (("viewpoint", "left"), ("expression", "happy"), ("expression", "happy"))
    assert [anchor.image_HWC[0, 0, 0].item() for anchor in anchors.of_kind("expression")] == pytest.approx([0.1, 0.9])


def test_unconnected_inputs_that_arrive_as_none_are_no_anchors():
    assert load(front=image(), back=None, global_image=None).slots() == (("viewpoint", "front"),)


def test_no_image_at_all_says_what_to_do():
    with pytest.raises(AnchorError, match="at least one image"):
        load()


def test_two_global_images_are_refused():
    with pytest.raises(AnchorError, match="2 global anchors"):
        load(global_image=image(batch=2))


def test_too_many_images_are_refused():
    with pytest.raises(AnchorError, match=r"17 anchors.*at most 16"):
        load(neutral=image(batch=17))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 1, 1, 3), "the fear anchor is 1x1 pixels"),
        (torch.zeros(1, 64, 64), r"The fear input got a tensor of shape \[1, 64, 64\]"),
        (torch.full((1, 64, 64, 3), float("nan")), "the fear anchor .*not finite"),
    ],
)
def test_errors_name_the_input(bad, message):
    with pytest.raises(AnchorError, match=message):
        load(front=image(), fear=bad)


@pytest.fixture
def input_folder(base_directory):
    return base_directory / "input"


def write(folder, name, value, size=(48, 40)):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def board(**files):
    return json.dumps(files)


def gray_of(anchor):
    return round(anchor.image_HWC[0, 0, 0].item() * 255)


def test_files_of_the_board_become_anchors_as_linked_images_do(input_folder, base_directory):
    write(input_folder, "her/front.png", 10)
    write(base_directory / "output", "smile.png", 20)
    write(base_directory / "temp", "scene.png", 30)
    files = board(happy="smile.png [output]", front="her/front.png", **{"global": "scene.png [temp]"})
    anchors = load(board=files)
    assert anchors.slots() == (("global", "global"), ("viewpoint", "front"), ("expression", "happy"))
    assert [gray_of(anchor) for anchor in anchors.anchors] == [30, 10, 20]
    linked = load(front=torch.from_numpy(np.full((1, 40, 48, 3), 10, np.float32) / 255))
    assert torch.equal(load(board=board(front="her/front.png")).anchors[0].image_HWC, linked.anchors[0].image_HWC)


def test_a_linked_image_is_used_instead_of_the_file_in_its_slot_which_may_be_gone(input_folder):
    write(input_folder, "sad.png", 40)
    files = board(front="gone.png", sad="sad.png")
    output = GloriaLoadAnchors.execute(front=image(batch=2), board=files)
    assert output.result[0].slots() == (("viewpoint", "front"), ("viewpoint", "front"), ("expression", "sad"))
    assert [json.loads(text) for text in output.ui["gloria_anchors"]] == [{"front": "link", "sad": "sad.png"}]


@pytest.mark.parametrize("name", ["a.png [output]", "../outside.png", "/etc/passwd", "folder", "gone.png", "link.png"])
def test_a_file_that_is_gone_or_outside_is_named_with_what_to_do(input_folder, base_directory, name):
    write(base_directory, "outside.png", 50)
    (input_folder / "folder").mkdir(exist_ok=True)
    link = input_folder / "link.png"
    if not link.is_symlink():
        link.symlink_to(base_directory / "outside.png")
    with pytest.raises(AnchorError, match="the back picture on the anchor board, is not in ComfyUI's folders"):
        load(board=board(back=name))


def test_a_file_that_is_no_picture_is_named(input_folder):
    (input_folder / "notes.png").write_text("not a picture")
    with pytest.raises(AnchorError, match=r"'notes\.png' is not a picture"):
        load(board=board(back="notes.png"))


def test_a_board_that_cannot_be_read_stops_the_queue_and_a_good_one_does_not():
    assert GloriaLoadAnchors.validate_inputs(board='{"nose": "a.png"}').startswith("The anchor board has a slot 'nose'")
    assert GloriaLoadAnchors.validate_inputs(board=board(front="gone.png")) is True
    assert GloriaLoadAnchors.validate_inputs() is True


def test_the_fingerprint_follows_the_content_of_files_and_nothing_else(input_folder):
    path = write(input_folder, "a.png", 60)
    first = GloriaLoadAnchors.fingerprint_inputs(board=board(front="a.png"))
    os.utime(path, (1, 1))
    path.rename(input_folder / "b.png")
    assert GloriaLoadAnchors.fingerprint_inputs(board=board(front="b.png"), front=None, happy=None) == first
    assert GloriaLoadAnchors.fingerprint_inputs(board=board(back="b.png")) != first
    write(input_folder, "b.png", 61)
    assert GloriaLoadAnchors.fingerprint_inputs(board=board(front="b.png")) != first
    assert GloriaLoadAnchors.fingerprint_inputs(board=board(front="gone.png")) != first


def test_the_page_is_told_to_draw_the_text_as_a_board():
    options = GloriaLoadAnchors.INPUT_TYPES()["optional"]["board"]
    assert options[0] == "STRING"
    assert options[1]["widgetType"] == "GLORIA_ANCHOR_BOARD"
