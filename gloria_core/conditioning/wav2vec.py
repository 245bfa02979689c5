"""Speech of any length -> wav2vec2 hidden states at the video's frame rate, in overlapped windows at bounded memory.

wav2vec2 makes one token per `TOKEN_STRIDE` samples (50 Hz); token `i` sees the samples
`[320 i, 320 i + 400)`, so its centre is sample `320 i + 200`. Video frame `k` is shown from `k / fps` to
`(k + 1) / fps`, so its centre is sample `16000 (k + 1/2) / fps`. A frame takes the hidden states at its
centre, linearly between the two tokens around it; before the centre of token 0 it takes token 0.

Windows are cut at multiples of the stride, so their tokens are the tokens of the whole file. What wav2vec2
takes from the whole file (zero mean and unit variance of the waveform in large models, the group norm over
time of the first convolution in base models) is measured over the whole file first. What remains of the
window is the reach of its attention, which the context on both sides keeps away from the tokens that are used.

Legend: N samples, T tokens of one window, F video frames, L hidden states, C width, K channels of a convolution.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import AudioError
from ..media.read_audio import SAMPLE_RATE, exact_fps

TOKEN_STRIDE = 320
TOKEN_FIELD = 400
# 16 s of tokens that are used and 2 s on both sides: 20 s, the longest crop that wav2vec2 was trained on.
WINDOW_TOKENS = 800
CONTEXT_TOKENS = 100

_VARIANCE_EPS = 1e-7

HiddenStates = Callable[[Tensor], tuple[Tensor, ...]]
OnWindow = Callable[[int, int], None]


@dataclass(frozen=True)
class SpeechEncoder:
    """A wav2vec2 model as the core sees it, whoever wrote it.

    Args:
        hidden_states: waveform [1, N] on `device` -> hidden states, each [1, T, C], without any normalization.
        first_conv: the first layer of the feature extractor, with parts `conv` and `layer_norm`.
        normalize: whether the model expects zero mean and unit variance over the whole file.
        device: where the waveform has to be.
    """

    hidden_states: HiddenStates
    first_conv: nn.Module
    normalize: bool
    device: torch.device


class Window(NamedTuple):
    """Tokens `start..stop` are used, tokens `context_start..context_stop` are computed."""

    start: int
    stop: int
    context_start: int
    context_stop: int

    @property
    def samples(self) -> slice:
        """Samples that the computed tokens see."""
        return slice(self.context_start * TOKEN_STRIDE, samples_for_tokens(self.context_stop))


def samples_for_tokens(num_tokens: int) -> int:
    """Samples that exactly `num_tokens` tokens see."""
    return (num_tokens - 1) * TOKEN_STRIDE + TOKEN_FIELD


def tokens_for_samples(num_samples: int) -> int:
    """Tokens that wav2vec2 makes of `num_samples` samples; what is left at the end is not seen."""
    return max(0, (num_samples - TOKEN_FIELD) // TOKEN_STRIDE + 1)


def token_positions(num_frames: int, fps: float) -> Tensor:
    """Position of every video frame's centre on the axis of tokens, float64 [F]."""
    samples_per_frame = SAMPLE_RATE / exact_fps(fps)
    centers_F = (torch.arange(num_frames, dtype=torch.float64) + 0.5) * float(samples_per_frame)
    return ((centers_F - TOKEN_FIELD / 2) / TOKEN_STRIDE).clamp_min(0)


def tokens_at(states: tuple[Tensor, ...], positions_F: Tensor) -> Tensor:
    """Hidden states, each [1, T, C], linearly interpolated at `positions_F` -> float32 [F, L, C]."""
    last = states[0].shape[1] - 1
    below_F = positions_F.floor().long().clamp_max(last)
    above_F = (below_F + 1).clamp_max(last)
    weight_F1 = (positions_F - below_F).clamp(0, 1).float().unsqueeze(1)
    below_F, above_F, weight_F1 = (x.to(states[0].device) for x in (below_F, above_F, weight_F1))
    return torch.stack([torch.lerp(x[0, below_F].float(), x[0, above_F].float(), weight_F1) for x in states], dim=1)


def plan_windows(num_tokens: int, window_tokens: int, context_tokens: int) -> list[Window]:
    """Windows whose used spans cover every token once; all compute the same number of tokens, as far as there are."""
    span = window_tokens + 2 * context_tokens
    if num_tokens <= span:
        return [Window(0, num_tokens, 0, num_tokens)]
    windows = []
    for start in range(0, num_tokens, window_tokens):
        context_start = min(max(0, start - context_tokens), num_tokens - span)
        stop = min(start + window_tokens, num_tokens)
        windows.append(Window(start, stop, context_start, context_start + span))
    return windows


@torch.no_grad()
def encode_speech(
    encoder: SpeechEncoder,
    waveform_N: Tensor,
    num_frames: int,
    fps: float,
    on_window: OnWindow | None = None,
    window_tokens: int = WINDOW_TOKENS,
    context_tokens: int = CONTEXT_TOKENS,
) -> Tensor:
    """Encode 16 kHz mono speech -> bfloat16 [F, L, C] on the CPU; the end is padded so that every frame has tokens.

    Args:
        on_window: called with (windows done, windows in all); an exception from it ends the work.
    """
    positions_F = token_positions(num_frames, fps)
    tokens_F = positions_F.floor().long()
    num_tokens = max(int(tokens_F[-1]) + 2, -(-(len(waveform_N) - TOKEN_FIELD) // TOKEN_STRIDE) + 1)
    waveform_N = _prepare(waveform_N, encoder.normalize, samples_for_tokens(num_tokens))
    windows = plan_windows(num_tokens, window_tokens, context_tokens)
    features_FLC = None
    with whole_file_group_norm(encoder, waveform_N):
        for idx, window in enumerate(windows):
            states = encoder.hidden_states(waveform_N[None, window.samples].to(encoder.device))
            _check_states(states, window.context_stop - window.context_start)
            first, stop = torch.searchsorted(tokens_F, torch.tensor([window.start, window.stop])).tolist()
            window_FLC = tokens_at(states, positions_F[first:stop] - window.context_start)
            if not torch.isfinite(window_FLC).all():
                raise AudioError("The audio encoder returned NaN or infinite values. Its weights are damaged.")
            if features_FLC is None:
                features_FLC = torch.empty(num_frames, *window_FLC.shape[1:], dtype=torch.bfloat16)
            features_FLC[first:stop] = window_FLC
            if on_window is not None:
                on_window(idx + 1, len(windows))
    return features_FLC


@contextmanager
def whole_file_group_norm(encoder: SpeechEncoder, waveform_N: Tensor) -> Iterator[None]:
    """Within it, a group norm over time in the first convolution uses the statistics of all of `waveform_N`."""
    norm = encoder.first_conv.layer_norm
    if not isinstance(norm, nn.GroupNorm):
        yield
        return
    mean_K1, variance_K1 = _conv_statistics(encoder, waveform_N)

    def with_file_statistics(module: nn.GroupNorm, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale_K1 = module.weight.to(output).unsqueeze(1) * (variance_K1 + module.eps).rsqrt().to(output)
        return (args[0] - mean_K1.to(output)) * scale_K1 + module.bias.to(output).unsqueeze(1)

    hook = norm.register_forward_hook(with_file_statistics)
    try:
        yield
    finally:
        hook.remove()


def transformers_encoder(model: nn.Module, normalize: bool) -> SpeechEncoder:
    """Wrap a `transformers.Wav2Vec2Model`."""
    if model.config.add_adapter:
        raise AudioError("wav2vec2 models with an adapter make fewer tokens per second. Use a model without one.")

    def hidden_states(waveform_1N: Tensor) -> tuple[Tensor, ...]:
        output = model(waveform_1N, output_hidden_states=True)
        # transformers 5 lists the last state before the final norm of large models, transformers 4 and ComfyUI after.
        return (*output.hidden_states[:-1], output.last_hidden_state)

    return SpeechEncoder(hidden_states, model.feature_extractor.conv_layers[0], normalize, model.device)


def load_transformers_encoder(folder: str | Path, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load wav2vec2 from a local Hugging Face folder (safetensors weights and preprocessor_config.json)."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    folder = Path(folder)
    # transformers would continue with default settings or random weights.
    missing = [name for name in ("config.json", "preprocessor_config.json") if not (folder / name).is_file()]
    if missing:
        raise AudioError(
            f"{folder} is not a complete wav2vec2 folder: {', '.join(missing)} is missing. Download it again."
        )
    try:
        processor = Wav2Vec2FeatureExtractor.from_pretrained(str(folder), local_files_only=True)
        model, report = Wav2Vec2Model.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise AudioError(f"{folder} is not a complete wav2vec2 folder ({error}). Download it again.") from error
    # Only used in pre-training, and absent from many files.
    absent = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if absent:
        raise AudioError(
            f"{folder} lacks {len(absent)} wav2vec2 weights, the first is {absent[0]}. "
            "It is another model or incomplete: choose a wav2vec2 folder."
        )
    return transformers_encoder(model.float().eval().to(device), processor.do_normalize)


def _prepare(waveform_N: Tensor, normalize: bool, num_samples: int) -> Tensor:
    """Normalize over the real samples, then add silence up to `num_samples`."""
    if normalize:
        # Summed in float64, so that a constant recording comes out as exact zeros.
        centered_N = waveform_N - waveform_N.mean(dtype=torch.float64).item()
        variance = centered_N.square().mean(dtype=torch.float64).item()
        waveform_N = centered_N / math.sqrt(variance + _VARIANCE_EPS)
    return nn.functional.pad(waveform_N, (0, num_samples - len(waveform_N)))


def _conv_statistics(encoder: SpeechEncoder, waveform_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over time of the first convolution's output over the whole file, float64 [K, 1]."""
    conv = encoder.first_conv.conv
    field, stride = conv.kernel_size[0], conv.stride[0]
    num_outputs = (len(waveform_N) - field) // stride + 1
    outputs_per_piece = WINDOW_TOKENS * TOKEN_STRIDE // stride
    total_K1, squares_K1 = 0.0, 0.0
    for first in range(0, num_outputs, outputs_per_piece):
        stop = min(first + outputs_per_piece, num_outputs)
        piece_N = waveform_N[first * stride : (stop - 1) * stride + field]
        output_KN = conv(piece_N[None, None].to(encoder.device))[0]
        total_K1 = total_K1 + output_KN.sum(dim=1, keepdim=True, dtype=torch.float64)
        squares_K1 = squares_K1 + output_KN.double().square().sum(dim=1, keepdim=True)
    mean_K1 = total_K1 / num_outputs
    return mean_K1, (squares_K1 / num_outputs - mean_K1.square()).clamp_min(0)


def _check_states(states: tuple[Tensor, ...], num_tokens: int) -> None:
    shapes = {tuple(x.shape) for x in states}
    if len(shapes) != 1 or next(iter(shapes))[:2] != (1, num_tokens):
        raise AudioError(
            f"The audio encoder returned hidden states of shape {sorted(shapes)}, expected [1, {num_tokens}, width]: "
            "it is not a wav2vec2 with 50 tokens per second. Load a wav2vec2 audio encoder."
        )
