"""GLORIA_ANCHORS and what their creator says -> one file that other artists can load, with a picture beside it."""

from typing import Any

from comfy_api.latest import io

from ..gloria_core.characters.character import BY_HAND, Character, Profile
from ..gloria_core.characters.write_pack import CARD_SUFFIX, write_character
from ..gloria_core.conditioning.anchors import AnchorSet
from .bridge.characters import new_character_path
from .bridge.images import with_latents
from .bridge.progress import show_text
from .bridge.saved_video import saved_result
from .types import GloriaAnchors


class GloriaSaveCharacter(io.ComfyNode):
    """Gloria Save Character."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaSaveCharacter",
            display_name="Gloria Save Character",
            category="Gloria/conditioning",
            description="Saves a character as one file that can be given to others: its pictures without any loss, "
            "prompt, author, licence and notes. Gloria Load Character reads it.",
            search_aliases=["character pack", "share character", "export anchors", "save anchors", "character card"],
            inputs=_inputs(),
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        anchors: AnchorSet,
        filename_prefix: str,
        vae: Any | None = None,
        **profile: str,
    ) -> io.NodeOutput:
        character = Character(Profile(**profile), anchors if vae is None else with_latents(vae, anchors))
        path = new_character_path(filename_prefix)
        write_character(path, character)
        card = saved_result(path.with_suffix(CARD_SUFFIX))
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        show_text(f"saved {path.name} in output/{card.subfolder}, {size}", cls.hidden.unique_id)
        return io.NodeOutput(ui={"images": [card]})


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        GloriaAnchors.Input("anchors", tooltip="The pictures, from Gloria Anchors or from an extraction."),
        io.String.Input("name", default="", tooltip="Name of the character, as others will see it."),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            tooltip="Words that describe the character, for the prompt of every video: 'a woman in an orange space "
            "suit, short dark hair'. Gloria Load Character gives them out.",
        ),
        io.String.Input("author", default="", tooltip="Who made the character: you."),
        io.String.Input(
            "license",
            default="",
            tooltip="What others may do with the character, for example 'CC BY 4.0' or 'ask me first'. Share only "
            "pictures that you have the right to share.",
        ),
        io.String.Input(
            "filename_prefix",
            default="character",
            tooltip="Name of the file in the folder gloria/characters of ComfyUI's output folder, with folders of its "
            "own if you like; a counter keeps older files.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Stores viewpoints and expressions encoded by this Wan VAE too, in under 4 MB: whoever has the "
            "same VAE need not encode them again. Not connected: pictures only, for every VAE.",
        ),
        io.String.Input(
            "description",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="What the character is, for people who look for one.",
        ),
        io.String.Input(
            "notes",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Whatever else you want to say: settings that work well, a link, thanks.",
        ),
        io.String.Input(
            "provenance",
            default=BY_HAND,
            optional=True,
            advanced=True,
            tooltip="Where the pictures come from: by hand, or which footage and extraction. A report can be linked.",
        ),
        io.String.Input(
            "lora",
            default="",
            optional=True,
            advanced=True,
            tooltip="Name of a LoRA file that goes with the character. Only the name is stored.",
        ),
    ]
