"""A training run, alive or ended -> its loss curve, validation clips and status; and a way to ask it for something."""

import time
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..gloria_core.training.loss_chart import draw_loss_chart
from ..gloria_core.training.run_folder import is_running, read_metrics, read_validation, request
from .bridge.training_runs import GONE, how_it_is, named_run, publish_results, run_names
from .bridge.training_samples import decode_new_samples, image_tensor, sample_videos, video_strip
from .bridge.training_view import status_text

NEWEST = "newest"
WATCH = "watch"
_ACTIONS = {WATCH: None, "save and stop": "stop", "save now": "save", "sample now": "sample"}


class GloriaMonitorTraining(io.ComfyNode):
    """Gloria Train Monitor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaMonitorTraining",
            display_name="Gloria Train Monitor",
            category="Gloria/training",
            description="Shows a training run that is going on or has ended, also after ComfyUI was restarted, and can "
            "ask it to stop, save or make validation clips. The panel is live; queue the node to hand curve and clips "
            "to others and to list the run's results in the loaders.",
            search_aliases=["training progress", "loss curve", "training status"],
            inputs=[
                io.Combo.Input(
                    "run",
                    options=[NEWEST, *run_names()],
                    default=NEWEST,
                    tooltip="A folder of output/gloria/training. Refresh the page to see new ones.",
                ),
                io.Combo.Input(
                    "action",
                    options=list(_ACTIONS),
                    default=WATCH,
                    tooltip="What to ask of a run when this node is queued, like the panel's buttons; it is done after "
                    "the present step. 'save and stop' loses nothing: queue Gloria Train again to go on.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the newest validation clips. Not connected: the panel shows the colors of their "
                    "latents, and the output 'clips' is the curve.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="loss_curve", tooltip="Raw, smoothed and held-out loss over the steps."),
                io.Image.Output(
                    display_name="clips", tooltip="Frames of the newest validation clip; the curve when there is none."
                ),
                io.Custom("LOSS_MAP").Output(display_name="loss_map", tooltip="For the stock Plot Loss Graph."),
                io.String.Output(display_name="status", tooltip="State, step, speed, time left and memory."),
            ],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> float:
        return time.time()

    @classmethod
    def execute(cls, run: str, action: str, vae: Any | None = None) -> io.NodeOutput:
        names = run_names()
        folder = named_run(names[0] if run == NEWEST and names else run)
        news = _ask(folder, action)
        if vae is not None:
            decode_new_samples(folder, vae)
        state, status = how_it_is(folder)
        published = publish_results(status.get("results", {}))
        lines = [folder.name, news, status_text(status), *_what_went_wrong(state, status)]
        text = "\n".join(line for line in [*lines, *(f"{role}: {name}" for role, name in published.items())] if line)
        metrics, validation = read_metrics(folder)[0], read_validation(folder)[0]
        curve = draw_loss_chart(metrics, validation)
        videos = sample_videos(folder)
        clip = video_strip(videos[-1]) if videos else None
        losses = [line["loss"] for line in metrics if line.get("loss") is not None]
        pictures = image_tensor(curve), image_tensor(clip or curve)
        return io.NodeOutput(*pictures, {"loss": losses}, text, ui=ui.PreviewText(text))


def _ask(folder: Path, action: str) -> str:
    """Hand an action over to the run; what became of it."""
    asked = _ACTIONS[action]
    if asked is None:
        return ""
    if not is_running(folder):
        return f"it is not running, so there is nothing to do for '{action}'"
    request(folder, asked)
    return f"asked for '{action}': done after the present step"


def _what_went_wrong(state: str, status: dict[str, Any]) -> list[str]:
    if state == "failed":
        return [str(status.get("error"))]
    if state == GONE:
        return ["its process is gone; queue Gloria Train again: it goes on from the last checkpoint"]
    return []
