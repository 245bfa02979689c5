"""Speech features of a whole film, and the window of four video frames that each latent frame hears.

Legend: F video frames, L hidden states of wav2vec2, C their width, N latent frames, W frames per window.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..errors import AudioError
from ..media.read_audio import SAMPLE_RATE, Speech, exact_fps
from ..shapes import TEMPORAL_STRIDE, pixel_span_of_latent
from .wav2vec import OnWindow, SpeechEncoder, encode_speech, token_positions, tokens_at, tokens_for_samples

# Whisper large v3: hidden states, width, and the tokens of its fixed 30 seconds.
_WHISPER_SHAPE = (33, 1280)


@dataclass(frozen=True)
class AudioFeatures:
    """wav2vec2 hidden states of one film, one set per video frame.

    Args:
        features_FLC: bfloat16 on the CPU.
        num_frames: F, the video frames that cover the speech.
        seconds: exact duration of the speech, at most `num_frames / fps`.
    """

    features_FLC: Tensor
    fps: float
    num_frames: int
    seconds: float

    def __post_init__(self) -> None:
        shape = tuple(self.features_FLC.shape)
        if len(shape) != 3 or shape[0] != self.num_frames or self.num_frames < 1:
            raise AudioError(f"Expected features of shape [{self.num_frames}, layers, channels], got {shape}.")


def features_from_speech(
    encoder: SpeechEncoder, speech: Speech, fps: float, on_window: OnWindow | None = None
) -> AudioFeatures:
    """Encode speech of any length at bounded memory."""
    num_frames = speech.num_frames(fps)
    features_FLC = encode_speech(encoder, speech.waveform_N, num_frames, fps, on_window)
    return AudioFeatures(features_FLC, fps, num_frames, float(speech.seconds))


def features_from_encoder_output(output: Mapping[str, Any], fps: float) -> AudioFeatures:
    """Take the AUDIO_ENCODER_OUTPUT of ComfyUI's stock encoder node (whole file in one pass, no padding at the end)."""
    states = output.get("encoded_audio_all_layers")
    num_samples = output.get("audio_samples")
    if not states or not num_samples:
        raise AudioError(
            f"This audio encoder output has only {sorted(output)}; hidden states of all layers and their number of "
            "samples are needed. Use a wav2vec2 encoder, or connect the Gloria Audio node instead."
        )
    batch, num_tokens, width = states[0].shape
    if batch != 1:
        raise AudioError(f"This audio encoder output holds {batch} recordings, a film has one. Encode them one by one.")
    expected = tokens_for_samples(num_samples)
    if num_tokens != expected or (len(states), width) == _WHISPER_SHAPE:
        raise AudioError(
            f"This audio encoder output has {num_tokens} tokens of width {width} for {num_samples} samples; wav2vec2 "
            f"makes {expected}. It looks like Whisper: load a wav2vec2 model in Load Audio Encoder."
        )
    seconds = Fraction(num_samples, SAMPLE_RATE)
    num_frames = math.ceil(seconds * exact_fps(fps))
    features_FLC = tokens_at(states, token_positions(num_frames, fps))
    if not torch.isfinite(features_FLC).all():
        raise AudioError("This audio encoder output holds NaN or infinite values. Check the audio and the encoder.")
    return AudioFeatures(features_FLC.to("cpu", torch.bfloat16), fps, num_frames, float(seconds))


def frame_windows(features_FLC: Tensor, first_latent: int, num_latents: int) -> Tensor:
    """Window of each latent frame -> [N, W, L, C]: the video frames that it decodes to.

    The first latent of a film covers one video frame, which fills its window. Past the end of the speech
    the last frame is repeated.

    Args:
        first_latent: global index of the first latent, counted from the start of the film.
    """
    if first_latent < 0 or num_latents < 1:
        raise AudioError(f"Expected at least 1 latent from latent 0 on, got {num_latents} from latent {first_latent}.")
    last_frame = features_FLC.shape[0] - 1
    windows = []
    for latent_idx in range(first_latent, first_latent + num_latents):
        start, stop = pixel_span_of_latent(latent_idx)
        frames = list(range(start, stop)) * (TEMPORAL_STRIDE // (stop - start))
        windows.append([min(frame, last_frame) for frame in frames])
    return features_FLC[torch.tensor(windows, device=features_FLC.device)]


def null_audio(features_FLC: Tensor) -> Tensor:
    """All-zero features of the same shape for the unconditional half of CFG; they take no memory."""
    return features_FLC.new_zeros(()).expand(features_FLC.shape)
