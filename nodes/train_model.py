"""A dataset and a Wan base -> a LoRA or a whole model, trained in a process of its own."""

from pathlib import Path
from typing import Any

from comfy import model_management
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from safetensors.torch import load_file

from ..gloria_core.data.cache_index import read_index
from ..gloria_core.errors import ConfigError
from ..gloria_core.model.checkpoint import holds_gloria_weights
from ..gloria_core.training.config import TrainConfig, config_from_dict
from ..gloria_core.training.presets import merge_settings, preset_names, share_out_steps
from ..gloria_core.training.presets import preset as read_preset
from ..gloria_core.training.run_folder import read_metrics
from .bridge.model import WEIGHTS_FOLDER, list_models, model_path
from .bridge.training_process import DETACHED, TrainingProcess
from .bridge.training_runs import how_it_begins, living_runs, publish_results, run_path, training_device
from .bridge.training_view import LiveView
from .bridge.yaml_text import yaml_values
from .load_model import NO_WEIGHTS
from .types import GloriaDataset

WAIT = "wait"
DEFAULT_PRESET = "lora_24gb"


class GloriaTrainModel(io.ComfyNode):
    """Gloria Train."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaTrainModel",
            display_name="Gloria Train",
            category="Gloria/training",
            description="Trains a character LoRA (or the whole model) with anchors and speech. It runs in a process of "
            "its own and saves as it goes: Cancel finishes the step and saves, queueing the same graph again goes on. "
            "The results appear in the stock Load LoRA node and in Load Gloria Model.",
            search_aliases=["finetune", "train lora", "character training", "dreambooth"],
            inputs=_inputs(),
            outputs=[
                io.Custom("LORA_MODEL").Output(
                    display_name="lora",
                    tooltip="For the stock Load LoRA Model or Save LoRA; empty after full training.",
                ),
                io.Custom("LOSS_MAP").Output(display_name="loss_map", tooltip="For the stock Plot Loss Graph."),
                io.Int.Output(display_name="steps", tooltip="Steps that are done."),
                io.String.Output(
                    display_name="files", tooltip="The results by kind, as the loaders list them, one per line."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            # The run folder decides what is left to do, not ComfyUI's cache.
            not_idempotent=True,
        )

    @classmethod
    def execute(
        cls,
        dataset: Path,
        base: str,
        gloria_weights: str,
        run_name: str,
        preset: str,
        steps: int,
        learning_rate: float,
        rank: int,
        seed: int,
        mode: str = WAIT,
        settings: str = "",
        vae: Any | None = None,
    ) -> io.NodeOutput:
        config = _config(dataset, base, gloria_weights, run_name, preset, steps, learning_rate, rank, seed, settings)
        folder = Path(config.output)
        others = living_runs(besides=folder)
        if others:
            raise ConfigError(
                f"Another training uses this machine: {', '.join(others)}. Stop it with Gloria Train Monitor, or wait."
            )
        opening = how_it_begins(folder, config, read_index(dataset))
        view = LiveView(folder, config.total_steps, opening, cls.hidden.unique_id, vae)
        process = TrainingProcess(folder)
        process.start(config)
        status, is_cancelled = process.follow(view, only_its_start=mode == DETACHED)
        if mode == DETACHED and not is_cancelled:
            text = view.say(f"{folder.name} is training on its own; follow it with Gloria Train Monitor")
            # There is nothing yet for the nodes that want results: ComfyUI leaves them out.
            nothing = ExecutionBlocker(None)
            return io.NodeOutput(nothing, nothing, nothing, text, ui=ui.PreviewText(text))
        names = publish_results(status.get("results", {}))
        if is_cancelled:
            is_saved = status.get("state") in ("stopped", "finished")
            view.say(f"{'saved' if is_saved else 'ended at once'}; queue again to go on", status)
            model_management.interrupt_current_processing(True)
            model_management.throw_exception_if_processing_interrupted()
        files = "\n".join(f"{role}: {name}" for role, name in names.items())
        return _output(folder, status, files, view.finish(status, files))


def _config(
    dataset: Path, base: str, gloria_weights: str, run_name: str, preset_name: str, steps: int, learning_rate: float,
    rank: int, seed: int, text: str,
) -> TrainConfig:  # fmt: skip
    """The preset, then the node's widgets, then the user's own YAML; strictly checked as a whole."""
    values = read_preset(preset_name)
    if steps:
        values["stages"] = share_out_steps(values["stages"], steps)
    changes: dict[str, Any] = {"optimizer": {"lr": learning_rate}} if learning_rate else {}
    if rank and values["method"] == "lora":
        changes["lora"] = {"rank": rank, "alpha": float(rank)}
    values = merge_settings(values, changes)
    values = merge_settings(values, yaml_values(text, "batch_size: 2"))
    gloria = None if gloria_weights == NO_WEIGHTS else str(model_path(WEIGHTS_FOLDER, gloria_weights))
    # What the node's sockets and combos say cannot be overruled by text: it stays inside ComfyUI's folders.
    fixed: dict[str, Any] = {
        "name": run_name,
        "base": str(model_path("diffusion_models", base)),
        "gloria": gloria,
        "seed": seed,
    }
    fixed |= {"data": {"cache": str(dataset)}, "output": "", "device": training_device()}
    values = merge_settings(values, fixed)
    if values.get("validation", {}).get("vae"):
        raise ConfigError("settings: validation.vae is a path and not for the node; connect a VAE instead.")
    index = read_index(dataset)
    trains_audio = any(stage.get("train", "all") != "lora" for stage in values["stages"])
    has_weights = gloria is not None or holds_gloria_weights(Path(values["base"]))
    if index.audio_shape is None or not (has_weights or trains_audio):
        # No speech to learn from, or nothing that would learn it.
        values["audio_branch"] = False
        values["stages"] = [{**stage, "audio": False} for stage in values["stages"]]
    config = config_from_dict(values, "settings")
    return config_from_dict({**values, "output": str(run_path(config, index))}, "settings")


def _output(folder: Path, status: dict[str, Any], files: str, text: str) -> io.NodeOutput:
    losses = [line["loss"] for line in read_metrics(folder)[0] if line.get("loss") is not None]
    lora = status.get("results", {}).get("lora")
    tensors = load_file(lora) if lora else {}
    return io.NodeOutput(tensors, {"loss": losses}, status.get("step", 0), files, ui=ui.PreviewText(text))


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        GloriaDataset.Input("dataset", tooltip="From Gloria Dataset, built with the encoders of this base."),
        io.Combo.Input(
            "base",
            options=list_models("diffusion_models"),
            tooltip="Wan base from models/diffusion_models in 16 bit (fp16 or bf16, not fp8_scaled), or a merged "
            "Gloria file. Use the result with the same base.",
        ),
        io.Combo.Input(
            "gloria_weights",
            options=[NO_WEIGHTS, *list_models(WEIGHTS_FOLDER)],
            tooltip="Gloria weights to start from. 'none' starts with a fresh audio branch that changes nothing yet.",
        ),
        io.String.Input(
            "run_name",
            default="my_character",
            tooltip="Name of the run folder in output/gloria/training and of the results: letters, digits, '-', '_'.",
        ),
        io.Combo.Input(
            "preset",
            options=list(preset_names()),
            default=DEFAULT_PRESET,
            tooltip="Settings for a kind of machine: lora_24gb and lora_16gb for 14B bases, lora_5b for TI2V-5B, "
            "full_8x80gb and paper_stages for labs, lora_demo for the demo model on a CPU, debug_cpu to try the way.",
        ),
        io.Int.Input(
            "steps", default=0, min=0, max=1_000_000,
            tooltip="Steps in all, shared out over the preset's stages; 0 keeps the preset's. More steps go on where a "
            "finished run ended.",
        ),
        io.Float.Input(
            "learning_rate", default=0.0, min=0.0, max=1.0, step=1e-6, round=False, tooltip="0 keeps the preset's.",
        ),
        io.Int.Input("rank", default=0, min=0, max=1024, tooltip="Size of the LoRA; 0 keeps the preset's."),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False,
            tooltip="Decides every draw of the training: equal seeds and inputs give equal results.",
        ),
        io.Combo.Input(
            "mode", options=[WAIT, DETACHED], default=WAIT, optional=True, advanced=True,
            tooltip="wait: this node shows the run and ends with it. detached: it returns when the first step begins, "
            "and the run goes on by itself, also without ComfyUI.",
        ),
        io.String.Input(
            "settings", default="", multiline=True, optional=True, advanced=True,
            tooltip="Any setting of docs/training.md as YAML, for example streamed_blocks under memory. Unknown names "
            "are errors.",
        ),
        io.Vae.Input(
            "vae", optional=True,
            tooltip="Decodes the validation clips while training; without it the panel shows the colors of their "
            "latents. It works on the same GPU: leave it empty on a small one.",
        ),
    ]  # fmt: skip
