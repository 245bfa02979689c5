"""ComfyUI's AUDIO and AUDIO_ENCODER as the core's speech and speech encoder."""

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model

from ...gloria_core.conditioning.audio import AudioFeatures, features_from_speech
from ...gloria_core.conditioning.wav2vec import CONTEXT_TOKENS, WINDOW_TOKENS, SpeechEncoder, samples_for_tokens
from ...gloria_core.errors import AudioError
from ...gloria_core.media.read_audio import Speech, speech_from_waveform

# The first convolutions are the peak: input, output and norm of one layer, 512 channels of float32 at 1/5 of the rate.
_WINDOW_BYTES = samples_for_tokens(WINDOW_TOKENS + 2 * CONTEXT_TOKENS) // 5 * 512 * 4 * 4


def speech_from_comfy(audio: Mapping[str, Any] | None) -> Speech:
    """Mono 16 kHz speech of a ComfyUI AUDIO (`waveform` [B, C, N], `sample_rate`) of one recording."""
    if audio is None:
        raise AudioError("There is no audio: the video it comes from has no audio track. Connect Load Audio instead.")
    waveform_BCN = audio["waveform"]
    shape = tuple(waveform_BCN.shape)
    if len(shape) != 3 or shape[0] != 1:
        raise AudioError(
            f"Expected one recording of shape [1, channels, samples], got {shape}. Encode them one by one."
        )
    return speech_from_waveform(waveform_BCN[0], audio["sample_rate"])


def encode_with_comfy(audio_encoder: Any, speech: Speech, fps: float) -> AudioFeatures:
    """Load the stock audio encoder as ComfyUI does and encode window by window, with progress and Cancel."""
    encoder = _speech_encoder(audio_encoder)
    comfy.model_management.load_models_gpu([audio_encoder.patcher], memory_required=_WINDOW_BYTES)
    progress = comfy.utils.ProgressBar(1)
    # Cancel is obeyed inside a window too: ComfyUI's layers look for it.
    return features_from_speech(encoder, speech, fps, on_window=progress.update_absolute)


def _speech_encoder(audio_encoder: Any) -> SpeechEncoder:
    model = audio_encoder.model
    if not isinstance(model, Wav2Vec2Model):
        raise AudioError(
            f"Gloria hears speech with wav2vec2, this audio encoder is {type(model).__name__}. "
            "Load a wav2vec2 model in Load Audio Encoder."
        )

    def hidden_states(waveform_1N: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The parts of the model's forward without its per-call normalization, which the core does over the whole file.
        _, states = model.encoder(model.feature_projection(model.feature_extractor(waveform_1N)))
        return states

    first_conv = model.feature_extractor.conv_layers[0]
    return SpeechEncoder(hidden_states, first_conv, model.do_normalize, audio_encoder.load_device)
