"""How often to look out; the long sampler then notes which anchor the model attends to while it samples."""

from comfy_api.latest import io

from ..gloria_core.analysis.attention_probe import ProbeSettings
from .types import GloriaProbe


class GloriaProbeAttention(io.ComfyNode):
    """Gloria Attention Probe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaProbeAttention",
            display_name="Gloria Attention Probe",
            category="Gloria/analysis",
            description="Connect it to 'probe' of Gloria Long Video Sampler, and the sampler notes how much of its "
            "attention the video gives to each anchor, to the chunk's start and to itself. The video stays the same, "
            "bit for bit. Bypass this node to switch it off.",
            search_aliases=["attention map", "which anchor", "anchor attention", "analyze anchors", "interpretability"],
            inputs=[
                io.Int.Input(
                    "blocks",
                    default=4,
                    min=1,
                    max=100,
                    tooltip="How many of the model's blocks to look at, spread evenly over its depth. Each costs "
                    "about what its own attention costs, in the chosen steps only.",
                ),
                io.Int.Input(
                    "steps",
                    default=3,
                    min=1,
                    max=1000,
                    tooltip="How many of the sampler's steps to look at, spread evenly. More than there are means all.",
                ),
            ],
            outputs=[
                GloriaProbe.Output(display_name="probe", tooltip="For 'probe' of Gloria Long Video Sampler.")
            ],
        )

    @classmethod
    def execute(cls, blocks: int, steps: int) -> io.NodeOutput:
        return io.NodeOutput(ProbeSettings(num_blocks=blocks, num_steps=steps))
