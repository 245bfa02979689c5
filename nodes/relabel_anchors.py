"""Footage with anchors and what a person saw on its contact sheet -> the same footage, mended."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..gloria_core.extraction.anchor_set import anchor_set
from ..gloria_core.extraction.decisions import decisions_of_text
from ..gloria_core.extraction.extract import decide, reopen
from .bridge.extraction import linked_footage, report_text, sheet_image
from .types import GloriaAnchors, GloriaFootage


class GloriaRelabelAnchors(io.ComfyNode):
    """Gloria Relabel Anchors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaRelabelAnchors",
            display_name="Gloria Relabel Anchors",
            category="Gloria/footage",
            description="Mends what Gloria Extract Anchors found: give an anchor another label or drop it, by its "
            "number on the contact sheet. Saved with the footage, for training and for later extractions.",
            search_aliases=["fix labels", "drop anchors", "correct viewpoints", "contact sheet", "decisions"],
            inputs=[
                GloriaFootage.Input("footage", tooltip="From Gloria Extract Anchors."),
                io.String.Input(
                    "decisions",
                    default="",
                    multiline=True,
                    tooltip="One on a line: '12 back', '7 drop', '9 keep' (as it was found). Or what the page of the "
                    "contact sheet shows or saves. Numbers stay the same whatever is decided.",
                ),
            ],
            outputs=[
                GloriaAnchors.Output(display_name="anchors", tooltip="The mended anchors, for Gloria Conditioning."),
                io.Image.Output(display_name="contact_sheet", tooltip="As it is now, with the same numbers."),
                io.String.Output(display_name="report", tooltip="As of Gloria Extract Anchors."),
                GloriaFootage.Output(display_name="footage", tooltip="The same footage, for Gloria Dataset."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, footage: Path, decisions: str) -> io.NodeOutput:
        folder = linked_footage(footage)
        found = reopen(folder).found
        extraction = decide(folder, decisions_of_text(decisions, found))
        text = report_text(extraction)
        return io.NodeOutput(
            anchor_set(extraction), sheet_image(extraction), text, folder, ui=ui.PreviewText(text)
        )
