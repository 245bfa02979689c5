"""Speech features of a film and their windows. Run: python -m pytest tests/core/test_audio_windows.py"""

import math

import pytest
import torch
from torch import nn

from gloria_core.conditioning.audio import (
    AudioFeatures,
    features_from_encoder_output,
    features_from_speech,
    frame_windows,
    null_audio,
)
from gloria_core.conditioning.wav2vec import SpeechEncoder
from gloria_core.errors import AudioError, GloriaError
from gloria_core.media.read_audio import speech_from_waveform
from gloria_core.shapes import latent_frames_for, pixel_frames_for

LAYERS, CHANNELS = 3, 2


def numbered_features(num_frames):
    """Every frame's features are its own index."""
    return torch.arange(num_frames).float()[:, None, None].expand(num_frames, LAYERS, CHANNELS)


def window_frames(features_FLC, first_latent, num_latents):
    windows = frame_windows(features_FLC, first_latent, num_latents)
    assert windows.shape == (num_latents, 4, *features_FLC.shape[1:])
    return windows[:, :, 0, 0].int().tolist()


class EnergyEncoder(nn.Module):
    """Two hidden states at the tokens of wav2vec2: the energy that each token sees, and ones."""

    layer_norm = nn.LayerNorm(1)

    def forward(self, waveform_1N):
        energy = waveform_1N.unfold(1, 400, 320).square().mean(dim=-1)
        return (torch.stack([energy, energy], dim=-1), torch.ones(*energy.shape, 2))


def energy_encoder():
    model = EnergyEncoder()
    return SpeechEncoder(model, model, normalize=False, device=torch.device("cpu"))


def stock_output(num_samples, num_layers=LAYERS, width=CHANNELS, batch=1):
    num_tokens = (num_samples - 400) // 320 + 1
    layers = tuple(torch.randn(batch, num_tokens, width) for _ in range(num_layers))
    return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": num_samples}


def test_latent_g_hears_the_four_frames_it_decodes_to_and_the_first_hears_frame_0():
    assert window_frames(numbered_features(9), 0, 3) == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_windows_of_a_chunk_are_those_of_the_whole_film():
    features = numbered_features(81)
    whole = frame_windows(features, 0, 21)
    assert torch.equal(frame_windows(features, 7, 6), whole[7:13])
    # A chunk that starts in the middle has no single-frame latent.
    assert window_frames(features, 7, 1) == [[25, 26, 27, 28]]


def test_past_the_end_of_the_speech_the_last_frame_is_repeated():
    assert window_frames(numbered_features(7), 1, 3) == [[1, 2, 3, 4], [5, 6, 6, 6], [6, 6, 6, 6]]
    assert window_frames(numbered_features(1), 0, 2) == [[0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("num_frames", [1, 2, 5, 24, 121, 122])
def test_windows_cover_every_frame_of_any_length(num_frames):
    num_latents = latent_frames_for(num_frames)
    heard = {frame for window in window_frames(numbered_features(num_frames), 0, num_latents) for frame in window}
    assert heard == set(range(num_frames))
    assert pixel_frames_for(num_latents) >= num_frames


def test_a_frame_is_heard_by_its_own_latent_only():
    features = numbered_features(21).clone()
    before = frame_windows(features, 0, 6)
    features[6] += 100
    changed = (frame_windows(features, 0, 6) != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, True, False, False, False]


def test_windows_keep_dtype_and_do_not_alias_the_features():
    features = numbered_features(9).bfloat16()
    windows = frame_windows(features, 0, 3)
    assert windows.dtype == torch.bfloat16
    windows.zero_()
    assert features[8].eq(8).all()


@pytest.mark.parametrize(("first", "num"), [(-1, 2), (0, 0)])
def test_windows_outside_the_film_are_refused(first, num):
    with pytest.raises(GloriaError, match="latent"):
        frame_windows(numbered_features(9), first, num)


def test_null_audio_is_zeros_of_the_same_shape_without_memory():
    features = numbered_features(14_400).bfloat16()
    null = null_audio(features)
    assert null.shape == features.shape
    assert null.dtype == features.dtype
    assert not null.any()
    assert null.untyped_storage().nbytes() == 2
    assert not frame_windows(null, 3, 5).any()


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("num_samples", [1, 2000, 44100, 50001])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_length_and_channel_count_gives_the_exact_number_of_frames(sample_rate, num_samples, channels):
    speech = speech_from_waveform(torch.full((channels, num_samples), 0.5), sample_rate)
    audio = features_from_speech(energy_encoder(), speech, 24.0)
    assert audio.num_frames == len(audio.features_FLC) == -(-num_samples * 24 // sample_rate)
    assert audio.seconds == num_samples / sample_rate
    assert audio.features_FLC.shape[1:] == (2, 2)
    # Ones stay ones: every frame, the last included, stands between real tokens.
    assert audio.features_FLC[:, 1].eq(1).all()


def test_the_last_frame_hears_the_last_samples():
    samples = torch.zeros(1, 48_000 + 2001)  # ends with one sample of a new frame at 48 kHz
    samples[0, -1500:] = 1.0
    audio = features_from_speech(energy_encoder(), speech_from_waveform(samples, 48_000), 24.0)
    assert audio.num_frames == 26
    assert audio.features_FLC[-1, 0, 0] > 0.01  # 27 of its 400 samples, at half weight


def test_progress_counts_windows_to_the_end():
    calls = []
    speech = speech_from_waveform(torch.zeros(1, 50 * 16_000), 16_000)
    features_from_speech(energy_encoder(), speech, 24.0, on_window=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("num_samples", [400, 16_000, 80_000, 80_123])
def test_stock_encoder_output_is_accepted(num_samples):
    output = stock_output(num_samples)
    audio = features_from_encoder_output(output, 24.0)
    assert audio.num_frames == math.ceil(num_samples * 24 / 16_000)
    assert audio.features_FLC.shape == (audio.num_frames, LAYERS, CHANNELS)
    assert audio.features_FLC.dtype == torch.bfloat16


def test_stock_encoder_output_gives_the_same_features_as_our_own_encoding_up_to_the_padded_end():
    waveform = torch.randn(1, 80_000, generator=torch.Generator().manual_seed(0))
    ours = features_from_speech(energy_encoder(), speech_from_waveform(waveform, 16_000), 24.0)
    layers = EnergyEncoder()(waveform)
    stock = features_from_encoder_output({"encoded_audio_all_layers": layers, "audio_samples": 80_000}, 24.0)
    assert stock.num_frames == ours.num_frames == 120
    assert torch.equal(stock.features_FLC[:-1], ours.features_FLC[:-1])


def whisper_output():
    output = stock_output(480_000, num_layers=33, width=1280)
    layers = tuple(torch.zeros(1, 1500, 1280) for _ in range(33))
    return output | {"encoded_audio_all_layers": layers}


@pytest.mark.parametrize("num_samples", [16_000, 480_000, 480_300])
def test_whisper_output_is_refused_by_name(num_samples):
    with pytest.raises(AudioError, match="looks like Whisper"):
        features_from_encoder_output(whisper_output() | {"audio_samples": num_samples}, 24.0)


def test_outputs_of_other_encoders_are_refused():
    with pytest.raises(AudioError, match="audio_feature"):
        features_from_encoder_output({"audio_feature": torch.zeros(1, 5, 35), "fps": 30}, 24.0)
    with pytest.raises(AudioError, match="2 recordings"):
        features_from_encoder_output(stock_output(16_000, batch=2), 24.0)
    output = stock_output(16_000)
    output["encoded_audio_all_layers"][1][0, 3, 1] = math.nan
    with pytest.raises(AudioError, match="NaN"):
        features_from_encoder_output(output, 24.0)


@pytest.mark.parametrize("shape", [(4, LAYERS), (5, LAYERS, CHANNELS), (0, LAYERS, CHANNELS)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(AudioError, match=r"Expected features of shape \[4, layers, channels\]"):
        AudioFeatures(torch.zeros(shape), 24.0, 4, 4 / 24)
