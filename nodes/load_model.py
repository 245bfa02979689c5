"""Wan base + Gloria weights -> MODEL that every stock sampler and patch node understands."""

import torch
from comfy_api.latest import io

from .bridge.model import WEIGHTS_FOLDER, list_models, load_gloria_model, model_path

NO_WEIGHTS = "none"
_OPTIONS_BY_DTYPE = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


class GloriaLoadModel(io.ComfyNode):
    """Load Gloria Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaLoadModel",
            display_name="Load Gloria Model",
            category="Gloria/loaders",
            description="Loads a Wan video model and, on top of it, Gloria weights (anchors and speech). The result "
            "is a normal MODEL: KSampler, LoRA loaders, EasyCache and torch.compile nodes work on it.",
            search_aliases=["wan loader", "gloria checkpoint", "character model", "unet loader"],
            inputs=[
                io.Combo.Input(
                    "base",
                    options=list_models("diffusion_models"),
                    tooltip="Wan 2.1 or 2.2 model from models/diffusion_models: T2V, I2V or TI2V-5B, also fp8; "
                    "or a merged Gloria file.",
                ),
                io.Combo.Input(
                    "gloria_weights",
                    options=[NO_WEIGHTS, *list_models(WEIGHTS_FOLDER)],
                    tooltip="Gloria weights trained on this base, from models/gloria. 'none' keeps the base as it is: "
                    "anchors then are tokens it was never trained on, and speech cannot move the lips.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(_OPTIONS_BY_DTYPE),
                    default="default",
                    advanced=True,
                    tooltip="How weights are kept in memory. fp8 halves the memory of a 16-bit file at some loss of "
                    "quality; 'default' keeps the file's own type.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for Gloria Long Video Sampler or any stock sampler.")],
        )

    @classmethod
    def execute(cls, base: str, gloria_weights: str, weight_dtype: str) -> io.NodeOutput:
        gloria = None if gloria_weights == NO_WEIGHTS else model_path(WEIGHTS_FOLDER, gloria_weights)
        options = dict(_OPTIONS_BY_DTYPE[weight_dtype])
        return io.NodeOutput(load_gloria_model(model_path("diffusion_models", base), gloria, options))
