"""The toy world's speech enters, a small wav2vec2 and its file leave.

wav2vec2-base's layout, narrower: its first norm runs over the whole recording, so loudness within it survives. It is
trained to tell the mouth's opening, at the demo's frame rate and at 24 a second, of sound that is louder, quieter,
duller and noisier than the world's own, so that real voices fall inside of what it has heard.

Legend: B recordings, N samples, T tokens, F video frames, C width.
"""

import logging
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..conditioning.wav2vec import (
    SpeechEncoder,
    encode_speech,
    samples_for_tokens,
    token_positions,
    tokens_at,
    transformers_encoder,
)
from ..media.read_audio import SAMPLE_RATE, Speech
from ..toyworld.speech import make_speech, mouth_opening_of
from .encoder_file import read_encoder, write_encoder
from .sizes import DemoSizes

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

logger = logging.getLogger(__name__)

_STREAM = 91
_BATCH, _LR, _SECONDS = 8, 1e-3, 4.0
_FINE_FPS = 24.0
_HEAD_WIDTH = 32
_HELD_OUT = 16


def train_audio_encoder(sizes: DemoSizes, path: Path) -> dict[str, float]:
    """Write the trained encoder to `path`; how well its last layer tells the mouth of speech it never heard."""
    settings = _settings(sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sizes.seed)
        model = _build(settings).train()
        readers = nn.ModuleList([nn.Linear(settings["hidden_size"], 1) for _ in range(2)])
    steps = sizes.encoders.audio_steps
    optimizer = torch.optim.AdamW([*model.parameters(), *readers.parameters()], lr=_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps + 1)
    rates = (sizes.world.fps, _FINE_FPS)
    for step in range(steps):
        sounds = [random_sound(sizes.seed, step * _BATCH + idx) for idx in range(_BATCH)]
        hidden_BTC = model(torch.from_numpy(np.stack([_with_tail(sound) for sound in sounds]))).last_hidden_state
        loss = sum(
            mse_loss(_opening(hidden_BTC, reader, fps), _wanted(sounds, fps))
            for reader, fps in zip(readers, rates, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 5) == 0:
            logger.info("audio encoder step %d of %d: loss %.4f", step + 1, steps, loss.item())
    write_encoder(path, "audio", {"config": settings}, model.state_dict())
    figures = _held_out_error(model.eval(), readers, rates, sizes.seed)
    logger.info("audio encoder: %s", ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


def load_audio_encoder(path: Path) -> SpeechEncoder:
    """The encoder of a file, on the CPU."""
    file = read_encoder(path, "audio")
    model = _build(file.sizes["config"])
    model.load_state_dict(file.weights)
    return transformers_encoder(model.eval(), normalize=False)


def speech_features(encoder: SpeechEncoder, samples_N: np.ndarray, fps: float) -> Tensor:
    """Features of a whole recording at 16 kHz, [F, layers, C], as the product makes them."""
    speech = Speech(torch.from_numpy(samples_N), Fraction(len(samples_N), SAMPLE_RATE))
    return encode_speech(encoder, speech.waveform_N, speech.num_frames(fps), fps)


def random_sound(seed: int, number: int) -> np.ndarray:
    """Speech of the toy world, four seconds, as other microphones would hear it."""
    rng = np.random.default_rng((_STREAM, seed, number))
    samples_N = make_speech(int(rng.integers(2**31)), _SECONDS, talkative=rng.uniform(0.4, 0.9))
    dullness = rng.uniform(-0.5, 0.7)
    samples_N[1:] += dullness * samples_N[:-1]
    noise_N = rng.normal(size=len(samples_N)) * 10 ** rng.uniform(-4, -2)
    gain = 10 ** rng.uniform(-0.7, 0.3)
    return (gain * (samples_N / max(np.abs(samples_N).max(), 1e-6) + noise_N)).astype(np.float32)


def _with_tail(samples_N: np.ndarray) -> np.ndarray:
    """Silence behind, so that the last frames have tokens."""
    num_tokens = int(token_positions(round(_SECONDS * _FINE_FPS), _FINE_FPS)[-1]) + 2
    return np.pad(samples_N, (0, max(0, samples_for_tokens(num_tokens) - len(samples_N))))


def _opening(hidden_BTC: Tensor, reader: nn.Module, fps: float) -> Tensor:
    positions_F = token_positions(round(_SECONDS * fps), fps)
    frames_BFC = torch.stack([tokens_at((one_TC[None],), positions_F)[:, 0] for one_TC in hidden_BTC])
    return reader(frames_BFC)[..., 0]


def _wanted(sounds: list[np.ndarray], fps: float) -> Tensor:
    openings = [mouth_opening_of(sound, fps, round(_SECONDS * fps)) for sound in sounds]
    return torch.from_numpy(np.stack(openings))


@torch.inference_mode()
def _held_out_error(model: nn.Module, readers: nn.ModuleList, rates: tuple[float, ...], seed: int) -> dict[str, float]:
    """Share of the opening's variance that is explained, 1 being all of it, at each frame rate."""
    sounds = [random_sound(seed + 1, idx) for idx in range(_HELD_OUT)]
    hidden_BTC = model(torch.from_numpy(np.stack([_with_tail(sound) for sound in sounds]))).last_hidden_state
    figures = {}
    for reader, fps in zip(readers, rates, strict=True):
        wanted = _wanted(sounds, fps)
        error = mse_loss(_opening(hidden_BTC, reader, fps), wanted)
        figures[f"explained_{fps:g}fps"] = float(1 - error / wanted.var())
    return figures


def _settings(sizes: DemoSizes) -> dict[str, Any]:
    encoders = sizes.encoders
    return {
        "hidden_size": encoders.audio_width,
        "num_hidden_layers": encoders.audio_layers,
        "num_attention_heads": max(1, encoders.audio_width // _HEAD_WIDTH),
        "conv_channels": encoders.audio_channels,
    }


def _build(settings: dict[str, Any]) -> "Wav2Vec2Model":
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    config = Wav2Vec2Config(
        **{name: settings[name] for name in names},
        intermediate_size=4 * settings["hidden_size"],
        conv_dim=(settings["conv_channels"],) * 7,
        feat_extract_norm="group",
        conv_bias=False,
        do_stable_layer_norm=False,
        apply_spec_augment=False,
        layerdrop=0.0,
        **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
    )
    return Wav2Vec2Model(config)
