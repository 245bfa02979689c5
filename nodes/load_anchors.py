"""Labelled images of a character -> GLORIA_ANCHORS."""

import torch
from comfy_api.latest import io

from ..gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor, AnchorSet
from ..gloria_core.errors import AnchorError
from .types import GloriaAnchors

_VIEWPOINT_TIPS = {
    "front": "The character seen from the front, cropped to the whole body.",
    "back": "The character seen from behind, cropped to the whole body: what is on the back of the clothing.",
    "left": "The character's own left side is visible (it faces the left edge of a picture), cropped to the body.",
    "right": "The character's own right side is visible (it faces the right edge of a picture), cropped to the body.",
}


def _expression_tip(label: str) -> str:
    return f"The character's face showing '{label}', sharp and cropped to the head with hair. Several are allowed."


class GloriaLoadAnchors(io.ComfyNode):
    """Gloria Anchors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaLoadAnchors",
            display_name="Gloria Anchors",
            category="Gloria/conditioning",
            description="Collects images of one character: the scene, its views and its expressions. The video keeps "
            "to them however long it gets. Connect what you have; one image is enough.",
            search_aliases=["character reference", "content anchors", "reference images", "identity", "consistency"],
            inputs=[
                io.Image.Input(
                    "global_image",
                    optional=True,
                    tooltip="One picture of the whole scene with the character in it. It is scaled and cropped to the "
                    "size of the video, which starts from it unless another start image is given.",
                ),
                *(
                    io.Image.Input(
                        label,
                        optional=True,
                        tooltip=f"{_VIEWPOINT_TIPS[label]} Same clothing in all views; several images are allowed.",
                    )
                    for label in VIEWPOINTS
                ),
                *(io.Image.Input(label, optional=True, tooltip=_expression_tip(label)) for label in EXPRESSIONS),
            ],
            outputs=[
                GloriaAnchors.Output(
                    display_name="anchors", tooltip="The labelled images, checked, for Gloria Conditioning."
                )
            ],
        )

    @classmethod
    def execute(cls, global_image: torch.Tensor | None = None, **images: torch.Tensor | None) -> io.NodeOutput:
        slots = [("global", "global", global_image)]
        slots += [("viewpoint", label, images.get(label)) for label in VIEWPOINTS]
        slots += [("expression", label, images.get(label)) for label in EXPRESSIONS]
        anchors = tuple(
            Anchor(kind, label, image_HWC)
            for kind, label, image_BHWC in slots
            if image_BHWC is not None
            for image_HWC in _images_of(image_BHWC, label)
        )
        return io.NodeOutput(AnchorSet(anchors))


def _images_of(image_BHWC: torch.Tensor, label: str) -> tuple[torch.Tensor, ...]:
    if image_BHWC.ndim != 4:
        raise AnchorError(
            f"The {label} input got a tensor of shape {list(image_BHWC.shape)}, "
            f"expected an IMAGE [batch, height, width, 3]. Convert masks to images first."
        )
    return image_BHWC.unbind(0)
