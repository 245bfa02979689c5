"""Labelled images of a character, linked or as files on the node's board -> GLORIA_ANCHORS."""

import hashlib
import json

import torch
from comfy_api.latest import io

from ..gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor, AnchorSet
from ..gloria_core.conditioning.board import KIND_OF_SLOT, parse_board
from ..gloria_core.conditioning.read_anchor_image import read_anchor_image
from ..gloria_core.errors import AnchorError
from .bridge.paths import MissingFileError, annotated_file
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
            "to them however long it gets. Drop pictures on the board or connect images; one is enough.",
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
                io.String.Input(
                    "board",
                    default="",
                    optional=True,
                    socketless=True,
                    # Drawn by web/anchor_board.js; without the page it is the plain text that it saves.
                    extra_dict={"widgetType": "GLORIA_ANCHOR_BOARD"},
                    tooltip="Pictures by slot: drop or paste them, drag one onto another to swap them, press Delete to "
                    "remove one. A connected image is used instead of the picture in its slot. As text: JSON of slots "
                    "and files in ComfyUI's input folder, as the help page shows.",
                ),
            ],
            outputs=[
                GloriaAnchors.Output(
                    display_name="anchors", tooltip="The labelled images, checked, for Gloria Conditioning."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, board: str = "") -> bool | str:
        try:
            parse_board(board)
        except AnchorError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, board: str = "", **_images: None) -> str:
        """Changes with what is in the files, not with their names or dates."""
        digest = hashlib.sha256()
        for slot, name in parse_board(board).items():
            try:
                content = annotated_file(name).read_bytes()
            except MissingFileError:
                content = b""  # an error where the file is needed; a linked image may stand in for it
            digest.update(f"{slot} {len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()

    @classmethod
    def execute(
        cls, global_image: torch.Tensor | None = None, board: str = "", **images: torch.Tensor | None
    ) -> io.NodeOutput:
        files = parse_board(board)
        anchors, used = [], {}
        for slot, kind in KIND_OF_SLOT.items():
            image_BHWC = global_image if kind == "global" else images.get(slot)
            if image_BHWC is not None:
                pictures, source = _images_of(image_BHWC, slot), "link"
            elif slot in files:
                pictures, source = (_read(slot, files[slot]),), files[slot]
            else:
                continue
            anchors += [Anchor(kind, slot, image_HWC) for image_HWC in pictures]
            used[slot] = source
        # As text: ComfyUI would count an object as a file that the job made.
        return io.NodeOutput(AnchorSet(tuple(anchors)), ui={"gloria_anchors": [json.dumps(used)]})


def _read(slot: str, name: str) -> torch.Tensor:
    try:
        return read_anchor_image(annotated_file(name), name)
    except MissingFileError as error:
        raise AnchorError(
            f"'{name[:200]}', the {slot} picture on the anchor board, is not in ComfyUI's folders. Drop the picture on "
            f"the board again, or clear the slot."
        ) from error


def _images_of(image_BHWC: torch.Tensor, label: str) -> tuple[torch.Tensor, ...]:
    if image_BHWC.ndim != 4:
        raise AnchorError(
            f"The {label} input got a tensor of shape {list(image_BHWC.shape)}, "
            f"expected an IMAGE [batch, height, width, 3]. Convert masks to images first."
        )
    return image_BHWC.unbind(0)
