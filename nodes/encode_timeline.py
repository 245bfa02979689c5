"""CLIP, a base prompt and cues by time in; a conditioning that changes along the film out."""

from typing import Any

from comfy_api.latest import io

from ..gloria_core.conditioning.cues import parse_cues
from .bridge.timeline import Timeline

_EXAMPLE = "0:00 she speaks to the camera\n0:06 she turns around\n0:12 [happy, front] she smiles"


class GloriaEncodeTimeline(io.ComfyNode):
    """Gloria Timeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaEncodeTimeline",
            display_name="Gloria Timeline",
            category="Gloria/conditioning",
            description="What happens when: one line per cue, a time and a text, in brackets the anchors that are "
            "active meanwhile. Takes the place of CLIP Text Encode for the positive prompt; Gloria Long Video Sampler "
            "gives every chunk the cue that covers most of its new frames.",
            search_aliases=["prompt schedule", "prompt travel", "cues", "storyboard", "timeline", "keyframes"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model."),
                io.String.Input(
                    "base_prompt",
                    multiline=True,
                    default="",
                    tooltip="What stays true all the time: character, clothing, place, style. Every cue is added to "
                    "it.",
                ),
                io.String.Input(
                    "cues",
                    multiline=True,
                    default=_EXAMPLE,
                    tooltip="One cue per line: minutes:seconds, then what happens from there on. In brackets before "
                    "the text the anchors that are active beside the global one, for example [happy, front]; without "
                    "brackets all are.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="To 'positive' of Gloria Conditioning. Samplers that know no timeline see one cue of it.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, base_prompt: str, cues: str) -> io.NodeOutput:
        parsed = parse_cues(cues)
        prompts = tuple(cue.prompt(base_prompt) for cue in parsed)
        encoded = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in dict.fromkeys(prompts)}
        timeline = Timeline(parsed, prompts, tuple(encoded[text] for text in prompts))
        return io.NodeOutput(timeline.conditioning)
