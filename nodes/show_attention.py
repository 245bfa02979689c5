"""The LATENT of the long sampler in; curves and a report of which anchor was looked at when out."""

from typing import Any

from comfy_api.latest import io, ui

from ..gloria_core.analysis.attention_chart import draw_film_attention
from ..gloria_core.analysis.attention_curves import read_film_attention
from ..gloria_core.analysis.attention_report import describe_film_attention
from ..gloria_core.sampling.job_folder import read_plan
from .bridge.attention import film_folder
from .bridge.progress import show_text
from .bridge.timeline import film_timing
from .bridge.training_samples import image_tensor


class GloriaShowAttention(io.ComfyNode):
    """Gloria Anchor Attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaShowAttention",
            display_name="Gloria Anchor Attention",
            category="Gloria/analysis",
            description="Shows which anchor the model looked at, and when, in a film that was sampled with a Gloria "
            "Attention Probe: one curve for each anchor over the seconds of the film.",
            search_aliases=["attention curves", "attention plot", "which anchor", "anchor use"],
            inputs=[io.Latent.Input("latent", tooltip="From Gloria Long Video Sampler, directly.")],
            outputs=[
                io.Image.Output(
                    display_name="curves",
                    tooltip="Share of the video's attention for each anchor over time; lines mark where chunks begin.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="For each anchor its share, how that compares with even attention, when it was looked at "
                    "most, and its mean in every chunk.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        folder = film_folder(latent)
        plan, fps = read_plan(folder), float(film_timing(latent)[1])
        attention = read_film_attention(folder, plan)
        report = describe_film_attention(attention, plan, fps)
        show_text(report.splitlines()[0], cls.hidden.unique_id)
        curves = image_tensor(draw_film_attention(attention, plan, fps))
        return io.NodeOutput(curves, report, ui=ui.PreviewImage(curves, cls=cls))
