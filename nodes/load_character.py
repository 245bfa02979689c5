"""A character file by name -> GLORIA_ANCHORS, the character's words for the prompt, and who made it."""

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..gloria_core.characters.card import draw_card
from ..gloria_core.characters.character import describe
from ..gloria_core.characters.read_pack import read_character
from .bridge.characters import character_path, character_state, list_characters
from .types import GloriaAnchors


class GloriaLoadCharacter(io.ComfyNode):
    """Gloria Load Character."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaLoadCharacter",
            display_name="Gloria Load Character",
            category="Gloria/conditioning",
            description="Loads a character that somebody saved as one file: its pictures, exactly as they were, and "
            "its prompt. Damaged files are refused, and nothing in a file is run.",
            search_aliases=["character pack", "import character", "load anchors", "character card", "shared character"],
            inputs=[
                io.Combo.Input(
                    "character",
                    options=list_characters(),
                    tooltip="A .safetensors file from Gloria Save Character: in models/gloria_characters, or in the "
                    "folder gloria/characters of the output folder.",
                )
            ],
            outputs=[
                GloriaAnchors.Output(
                    display_name="anchors", tooltip="The labelled images, checked, for Gloria Conditioning."
                ),
                io.String.Output(
                    display_name="prompt", tooltip="Words that describe the character, to be put into the prompt."
                ),
                io.String.Output(
                    display_name="info", tooltip="Who made it, what you may do with it, and what is inside."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, character: str) -> str:
        return character_state(character)

    @classmethod
    def execute(cls, character: str) -> io.NodeOutput:
        loaded = read_character(character_path(character))
        card_BHWC = torch.from_numpy(np.array(draw_card(loaded), np.float32))[None] / 255
        return io.NodeOutput(
            loaded.anchors, loaded.profile.prompt, describe(loaded), ui=ui.PreviewImage(card_BHWC, cls=cls)
        )
