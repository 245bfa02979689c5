"""The demo model's small text and speech encoders -> CLIP and AUDIO_ENCODER that stock nodes take."""

from comfy_api.latest import io

from .bridge.demo_encoders import load_demo_audio_encoder, load_demo_clip
from .bridge.model import list_models, model_path


class GloriaLoadDemoEncoders(io.ComfyNode):
    """Load Gloria Demo Encoders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaLoadDemoEncoders",
            display_name="Load Gloria Demo Encoders",
            category="Gloria/loaders",
            description="Loads the two small encoders that belong to the Gloria demo model. The stock loaders know "
            "only public encoders of hundreds of megabytes; with large models use those.",
            search_aliases=["demo clip", "demo text encoder", "demo wav2vec2", "demo audio encoder", "toy model"],
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=list_models("text_encoders"),
                    tooltip="gloria_demo_text_encoder.safetensors, which comes with the pack. It knows two dozen words "
                    "and names the ones it does not know in the log.",
                ),
                io.Combo.Input(
                    "audio_encoder",
                    options=list_models("audio_encoders"),
                    tooltip="gloria_demo_audio_encoder.safetensors, which comes with the pack.",
                ),
            ],
            outputs=[
                io.Clip.Output(tooltip="For CLIP Text Encode (Prompt)."),
                io.AudioEncoder.Output(display_name="audio_encoder", tooltip="For Gloria Audio."),
            ],
        )

    @classmethod
    def execute(cls, text_encoder: str, audio_encoder: str) -> io.NodeOutput:
        return io.NodeOutput(
            load_demo_clip(model_path("text_encoders", text_encoder)),
            load_demo_audio_encoder(model_path("audio_encoders", audio_encoder)),
        )
