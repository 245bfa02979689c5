"""wav2vec2 in windows against `transformers`. Run: python -m pytest tests/core/test_wav2vec.py"""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gloria_core.conditioning import wav2vec
from gloria_core.conditioning.wav2vec import (
    CONTEXT_TOKENS,
    TOKEN_STRIDE,
    WINDOW_TOKENS,
    encode_speech,
    load_transformers_encoder,
    plan_windows,
    samples_for_tokens,
    token_positions,
    tokens_at,
    tokens_for_samples,
    transformers_encoder,
    whole_file_group_norm,
)
from gloria_core.errors import AudioError

REPO = Path(__file__).resolve().parents[2]
NUM_LAYERS = 3
# bfloat16 keeps 8 bits: half a step, relative.
BF16 = 2**-8

both_kinds = pytest.mark.parametrize("large", [False, True], ids=["base", "large"])


def make_model(large, **changes):
    """Random weights in the two architectures that are published: base (group norm) and large (layer norms)."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "feat_extract_norm": "layer" if large else "group",
        "conv_bias": large,
        "do_stable_layer_norm": large,
    }
    return Wav2Vec2Model(Wav2Vec2Config(**(settings | changes))).eval()


def make_encoder(large):
    return transformers_encoder(make_model(large), normalize=large)


def make_speech(seconds):
    """Noisy syllables with pauses; quiet, so that a model that expects normalized input notices."""
    t = torch.arange(int(seconds * 16000)) / 16000
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(1))
    syllables = (torch.sin(4.4 * t) > -0.3) * (1 + torch.sin(25 * t))
    return 0.03 * syllables * (torch.sin(880 * t) + 0.3 * noise)


def transformers_features(model, waveform_N, normalize, num_frames, fps):
    """The same answer with `transformers` and numpy only: the whole file at once, silence added for the last frame."""
    import numpy as np
    from transformers import Wav2Vec2FeatureExtractor

    processor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    values = processor(waveform_N.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    centers = (np.arange(num_frames) + 0.5) / fps
    seen = 400
    while seen < len(waveform_N) or (seen - 200) / 16000 < centers[-1]:
        seen += 320
    with torch.no_grad():
        output = model(torch.nn.functional.pad(values, (0, seen - len(waveform_N))), output_hidden_states=True)
    token_centers = (np.arange(output.last_hidden_state.shape[1]) * 320 + 200) / 16000
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    layers = [[np.interp(centers, token_centers, column) for column in x[0].numpy().T] for x in states]
    return torch.from_numpy(np.array(layers)).permute(2, 0, 1).float()


@both_kinds
@pytest.mark.parametrize(("seconds", "fps"), [(2, 24.0), (2, 25.0), (2, 29.97), (2, 60.0), (0.01, 24.0), (0.01, 8.0)])
def test_features_equal_transformers_hidden_states_at_the_frame_centers(large, seconds, fps):
    model, waveform_N, num_frames = make_model(large), make_speech(seconds), math.ceil(seconds * fps)
    expected = transformers_features(model, waveform_N, large, num_frames, fps)
    features = encode_speech(transformers_encoder(model, large), waveform_N, num_frames, fps)
    assert features.dtype == torch.bfloat16
    assert features.shape == (num_frames, NUM_LAYERS + 1, 32)
    torch.testing.assert_close(features.float(), expected, rtol=BF16, atol=1e-4)


@both_kinds
def test_encoding_leaves_the_model_as_it_was(large):
    model, waveform_N = make_model(large), make_speech(1.0)
    with torch.no_grad():
        before = model(waveform_N[None]).last_hidden_state
        encode_speech(transformers_encoder(model, large), waveform_N, 24, 24.0)
        assert torch.equal(model(waveform_N[None]).last_hidden_state, before)


def test_an_error_in_the_middle_leaves_the_model_as_it_was():
    model = make_model(large=False)

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_speech(transformers_encoder(model, False), make_speech(1.0), 24, 24.0, on_window=cancel)
    assert not model.feature_extractor.conv_layers[0].layer_norm._forward_hooks


@both_kinds
def test_convolutions_of_windows_are_those_of_the_whole_file(large):
    encoder, model = make_encoder(large), make_model(large)
    encoder = replace(encoder, first_conv=model.feature_extractor.conv_layers[0])
    waveform_N = torch.nn.functional.pad(make_speech(45.0), (0, samples_for_tokens(2250) - 45 * 16000))
    with torch.no_grad(), whole_file_group_norm(encoder, waveform_N):
        whole = model.feature_extractor(waveform_N[None])
        for window in plan_windows(2250, WINDOW_TOKENS, CONTEXT_TOKENS):
            part = model.feature_extractor(waveform_N[None, window.samples])
            # Threads share a convolution by its length, so the last bit may differ; a wrong cut differs far more.
            expected = whole[:, :, window.context_start : window.context_stop]
            torch.testing.assert_close(part, expected, rtol=0, atol=1e-5)


def test_file_statistics_of_the_group_norm_equal_its_own_over_the_whole_file():
    model = make_model(large=False)
    waveform_N = make_speech(45.0)
    with torch.no_grad():
        expected = model.feature_extractor(waveform_N[None])
        with whole_file_group_norm(transformers_encoder(model, False), waveform_N):
            torch.testing.assert_close(model.feature_extractor(waveform_N[None]), expected, rtol=0, atol=1e-5)


@both_kinds
def test_windows_equal_the_whole_file(large):
    """The first hidden state (convolutions, positional convolution of 64 tokens reach) is exact.

    Attention is global in its window, so the later ones differ by what attention gives to tokens beyond
    2 s. With these random weights, which attend everywhere, that is within a few bfloat16 steps.
    """
    encoder, waveform_N, num_frames = make_encoder(large), make_speech(50.0), 50 * 24
    whole = encode_speech(encoder, waveform_N, num_frames, 24.0, window_tokens=10**6).float()
    windowed = encode_speech(encoder, waveform_N, num_frames, 24.0).float()
    assert torch.equal(windowed[:, 0], whole[:, 0])
    error = (windowed - whole).abs() / whole.std()
    assert error.max() < 0.05
    assert error.mean() < 0.002


def test_context_is_what_keeps_window_edges_right():
    encoder, waveform_N = make_encoder(large=False), make_speech(50.0)
    whole = encode_speech(encoder, waveform_N, 1200, 24.0, window_tokens=10**6).float()
    windowed = encode_speech(encoder, waveform_N, 1200, 24.0, context_tokens=1).float()
    assert (windowed - whole).abs().max() / whole.std() > 0.5


@pytest.mark.parametrize("num_tokens", [1, 2, 999, 1000, 1001, 1800, 2401, 30_000])
def test_windows_cover_every_token_once_within_a_bounded_span(num_tokens):
    windows = plan_windows(num_tokens, WINDOW_TOKENS, CONTEXT_TOKENS)
    assert [x for window in windows for x in range(window.start, window.stop)] == list(range(num_tokens))
    for window in windows:
        assert window.context_stop - window.context_start == min(num_tokens, WINDOW_TOKENS + 2 * CONTEXT_TOKENS)
        assert 0 <= window.context_start <= window.start < window.stop <= window.context_stop <= num_tokens
        assert window.context_start == 0 or window.start - window.context_start >= CONTEXT_TOKENS
        assert window.context_stop == num_tokens or window.context_stop - window.stop >= CONTEXT_TOKENS


@pytest.mark.parametrize("num_samples", [400, 719, 720, 16_000, 480_000])
def test_token_counts_are_those_of_the_model(num_samples):
    tokens = make_model(large=True).feature_extractor(torch.zeros(1, num_samples)).shape[-1]
    assert tokens_for_samples(num_samples) == tokens
    assert samples_for_tokens(tokens) <= num_samples < samples_for_tokens(tokens + 1)


def test_an_impulse_lands_in_the_video_frame_that_is_shown_when_it_sounds():
    """End to end on time: a click 10 ms into frame k moves frame k most, over 10 minutes without drift."""

    class Loudness(torch.nn.Module):
        def forward(self, waveform_1N):
            return (waveform_1N.unfold(1, 400, TOKEN_STRIDE).abs().sum(dim=-1, keepdim=True),)

    encoder = wav2vec.SpeechEncoder(Loudness(), make_encoder(True).first_conv, False, torch.device("cpu"))
    for frame in (0, 1, 1000, 14_399):
        waveform_N = torch.zeros(600 * 16_000)
        waveform_N[(2 * frame + 1) * 16_000 // 48] = 1.0
        features = encode_speech(encoder, waveform_N, 14_400, 24.0)
        assert features[:, 0, 0].argmax() == frame


def test_frame_centers_map_to_token_centers():
    # At 25 fps frame k is centred on sample 640 k + 320, token i on sample 320 i + 200.
    torch.testing.assert_close(token_positions(3, 25.0), torch.tensor([0.375, 2.375, 4.375], dtype=torch.float64))
    # At 60 fps the first frame's centre lies before that of token 0.
    assert token_positions(1, 60.0).item() == 0
    states = (torch.tensor([[[0.0], [1.0], [4.0]]]),)
    torch.testing.assert_close(tokens_at(states, torch.tensor([0.0, 0.5, 1.25, 9.0]))[:, 0, 0],
                               torch.tensor([0.0, 0.5, 1.75, 4.0]))  # fmt: skip


@both_kinds
@pytest.mark.parametrize("num_samples", [1, 399, 401, 667, 668, 16_001])
def test_short_and_odd_lengths_give_every_frame_real_features(large, num_samples):
    num_frames = -(-num_samples * 24 // 16_000)
    features = encode_speech(make_encoder(large), torch.full((num_samples,), 0.1), num_frames, 24.0)
    assert len(features) == num_frames
    assert torch.isfinite(features).all()


def test_the_tail_is_heard():
    encoder, waveform_N = make_encoder(large=True), torch.zeros(16_000 + 300)
    louder = waveform_N.clone()
    louder[-100:] = 0.5
    first, second = (encode_speech(encoder, x, 25, 24.0)[-1].float() for x in (waveform_N, louder))
    assert (first - second).abs().max() > 0.1


@both_kinds
def test_silence_is_encoded_and_not_zeroed(large):
    features = encode_speech(make_encoder(large), torch.zeros(32_000), 48, 24.0).float()
    assert torch.isfinite(features).all()
    assert (features.abs().amax(dim=(1, 2)) > 0.1).all()


@pytest.mark.parametrize("level", [0.0, 0.1, -1.0])
def test_normalization_makes_any_constant_recording_exact_silence(level):
    assert not wav2vec._prepare(torch.full((160_000,), level), True, 160_400).any()


def test_nan_weights_are_reported():
    model = make_model(large=True)
    with torch.no_grad():
        model.encoder.layers[0].final_layer_norm.weight[0] = float("nan")
    with pytest.raises(AudioError, match="NaN"):
        encode_speech(transformers_encoder(model, True), make_speech(1.0), 24, 24.0)


def test_an_encoder_with_another_token_rate_is_refused():
    encoder = replace(make_encoder(True), hidden_states=lambda waveform_1N: (torch.zeros(1, 7, 32),))
    with pytest.raises(AudioError, match="50 tokens per second"):
        encode_speech(encoder, make_speech(1.0), 24, 24.0)


def test_adapter_models_are_refused():
    with pytest.raises(AudioError, match="adapter"):
        transformers_encoder(make_model(True, add_adapter=True), True)


@both_kinds
def test_a_local_folder_is_loaded_with_its_normalization(large, tmp_path):
    model = make_model(large)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": large, "sampling_rate": 16000}))
    encoder = load_transformers_encoder(tmp_path)
    assert encoder.normalize is large
    waveform_N = make_speech(1.0)
    expected = encode_speech(transformers_encoder(model, large), waveform_N, 24, 24.0)
    assert torch.equal(encode_speech(encoder, waveform_N, 24, 24.0), expected)


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(missing, tmp_path):
    make_model(True).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / missing).unlink()
    with pytest.raises(AudioError, match="not a complete wav2vec2 folder"):
        load_transformers_encoder(tmp_path)


def test_a_folder_with_missing_or_cut_off_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_model(True).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    weights_path = tmp_path / "model.safetensors"
    weights = {name: x for name, x in load_file(weights_path).items() if "encoder.layers.1." not in name}
    save_file(weights, weights_path, {"format": "pt"})
    with pytest.raises(AudioError, match="lacks 16 wav2vec2 weights"):
        load_transformers_encoder(tmp_path)
    weights_path.write_bytes(weights_path.read_bytes()[:-100])
    with pytest.raises(AudioError, match="not a complete wav2vec2 folder"):
        load_transformers_encoder(tmp_path)


MEASURE_PEAK = """
import resource, sys
sys.path.append(sys.argv[1])
import torch
from gloria_core.conditioning.wav2vec import SpeechEncoder, encode_speech

class FirstConv(torch.nn.Module):
    # The memory of wav2vec2 is in its first convolution: the same kernel, stride and group norm, 32 channels.
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 32, 10, 5)
        self.layer_norm = torch.nn.GroupNorm(32, 32)
    def forward(self, waveform_1N):
        x = torch.nn.functional.gelu(self.layer_norm(self.conv(waveform_1N[:, None])))
        return (torch.nn.functional.avg_pool1d(x, 79, 64).transpose(1, 2),)

torch.set_num_threads(1)
first_conv = FirstConv()
minutes = int(sys.argv[2])
waveform_N = torch.randn(minutes * 60 * 16000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encoder = SpeechEncoder(first_conv, first_conv, True, torch.device("cpu"))
encode_speech(encoder, waveform_N, minutes * 60 * 24, 24.0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_ten_minutes_need_no_more_memory_than_one_besides_copies_of_the_waveform():
    one, ten = (
        int(subprocess.run([sys.executable, "-c", MEASURE_PEAK, str(REPO), str(minutes)],
                           capture_output=True, text=True, check=True).stdout)
        for minutes in (1, 10)
    )  # fmt: skip
    waveform_megabytes = 600 * 16_000 * 4 / 2**20
    # In one pass the first convolution alone takes 32 channels / 5 = 6.4 times the waveform, several times over.
    assert ten - one < 4 * waveform_megabytes
