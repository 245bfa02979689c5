"""Pictures of a character and where it is -> crops as anchors need them: the head, or the whole body."""

from typing import Any

import torch
from comfy_api.latest import io

from ..gloria_core.extraction.settings import AnchorThresholds
from .bridge.crops import boxes_of_faces, boxes_of_link, boxes_of_people, cropped

BoundingBox = io.Custom("BOUNDING_BOX")
_USUAL = AnchorThresholds()


class GloriaCropHead(io.ComfyNode):
    """Gloria Crop Head."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaCropHead",
            display_name="Gloria Crop Head",
            category="Gloria/footage",
            description="Cuts the head out of a picture, hair and chin included, as expression anchors need it.",
            search_aliases=["face crop", "head crop", "expression anchor", "portrait"],
            inputs=[
                _image_input(),
                io.Custom("FACE_DETECTION_MODEL").Input(
                    "face_detector", optional=True, tooltip="Load Face Detection Model (MediaPipe): finds the faces."
                ),
                _boxes_input("Faces from brows to chin, from a detection node"),
                _margin_input(_USUAL.head_margin, "face"),
            ],
            outputs=[_crops_output("an expression slot")],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, margin: float, face_detector: Any | None = None, bboxes: Any | None = None
    ) -> io.NodeOutput:
        linked = None if bboxes is None else boxes_of_link(bboxes, len(image))
        boxes = linked or boxes_of_faces(image, face_detector)
        return io.NodeOutput(cropped(image, boxes, margin, "face"))


class GloriaCropBody(io.ComfyNode):
    """Gloria Crop Body."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaCropBody",
            display_name="Gloria Crop Body",
            category="Gloria/footage",
            description="Cuts the whole person out of a picture, as viewpoint anchors need it.",
            search_aliases=["person crop", "body crop", "viewpoint anchor", "character crop"],
            inputs=[
                _image_input(),
                io.Model.Input(
                    "person_detector", optional=True, tooltip="RT-DETR v4 (Load Diffusion Model): finds the people."
                ),
                _boxes_input("People, from a detection node"),
                _margin_input(_USUAL.body_margin, "person"),
            ],
            outputs=[_crops_output("a viewpoint slot")],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, margin: float, person_detector: Any | None = None, bboxes: Any | None = None
    ) -> io.NodeOutput:
        linked = None if bboxes is None else boxes_of_link(bboxes, len(image))
        boxes = linked or boxes_of_people(image, person_detector)
        return io.NodeOutput(cropped(image, boxes, margin, "person"))


def _image_input() -> io.Input:
    return io.Image.Input("image", tooltip="One or more pictures; the largest subject of each is cut out.")


def _boxes_input(what: str) -> io.Input:
    # Without this the page makes it a widget whose own box would hide the detector's.
    only_linked = {"forceInput": True}
    tooltip = f"{what}. Used instead of the detector."
    return BoundingBox.Input("bboxes", optional=True, tooltip=tooltip, extra_dict=only_linked)


def _margin_input(usual: float, what: str) -> io.Input:
    return io.Float.Input(
        "margin", default=usual, min=0.0, max=2.0, step=0.01,
        tooltip=f"Added on every side, in parts of the {what}'s box, as far as the picture reaches.",
    )  # fmt: skip


def _crops_output(slot: str) -> io.Output:
    return io.Image.Output(
        display_name="crop",
        tooltip=f"For {slot} of Gloria Anchors. Several pictures get the size of the first crop.",
    )
