"""Gloria Audio: speech of any length -> features per video frame, and how many frames it lasts."""

from typing import Any

from comfy_api.latest import io

from ..gloria_core.media.read_audio import normalize_loudness as normalize_speech
from .bridge.audio_encoder import encode_with_comfy, speech_from_comfy
from .types import GloriaAudio


class GloriaEncodeAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaEncodeAudio",
            display_name="Gloria Audio",
            category="Gloria/conditioning",
            description=(
                "Turns speech of any length into features for Gloria Conditioning, one set per video frame. Long "
                "recordings are encoded in overlapping windows, so memory does not grow with their length."
            ),
            search_aliases=["speech", "lip sync", "talking", "wav2vec", "audio encoder", "voice"],
            inputs=[
                io.AudioEncoder.Input(
                    "audio_encoder", tooltip="A wav2vec2 model from Load Audio Encoder. Whisper does not fit."
                ),
                io.Audio.Input(
                    "audio", tooltip="Speech at any sample rate, mono or stereo. Pauses keep the mouth at rest."
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frame rate of the video. Gloria is trained at 24; set Gloria Decode Video to the same.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "normalize_loudness",
                    default=True,
                    tooltip="Bring quiet and loud recordings to one speech level first. A silent track stays silent.",
                    advanced=True,
                ),
            ],
            outputs=[
                GloriaAudio.Output(display_name="audio_features", tooltip="Speech features for Gloria Conditioning."),
                io.Int.Output(
                    display_name="frames",
                    tooltip="Video frames that cover the whole speech, the last one included even if only in part.",
                ),
            ],
        )

    @classmethod
    def execute(cls, audio_encoder: Any, audio: dict[str, Any], fps: float, normalize_loudness: bool) -> io.NodeOutput:
        speech = speech_from_comfy(audio)
        if normalize_loudness:
            speech = normalize_speech(speech)
        features = encode_with_comfy(audio_encoder, speech, fps)
        return io.NodeOutput(features, features.num_frames)
