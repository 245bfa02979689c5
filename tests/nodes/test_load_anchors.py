"""Gloria Anchors. Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_load_anchors.py"""

import pytest
import torch

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
        "surprise", "angry", "disgust", "fear", "contempt", "sad", "neutral", "happy",
    ]  # fmt: skip
    assert all(i.optional and i.get_io_type() == "IMAGE" for i in schema.inputs)
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
