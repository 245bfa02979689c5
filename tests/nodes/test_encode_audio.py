"""Gloria Audio on ComfyUI's own wav2vec2.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_encode_audio.py
"""

import comfy.audio_encoders.audio_encoders as comfy_audio
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import pytest
import torch
from comfy.audio_encoders.wav2vec2 import ConvFeatureEncoder, FeatureProjection, Wav2Vec2Model
from comfy_extras.nodes_audio_encoder import AudioEncoderEncode

from gloria_pack.gloria_core.conditioning import wav2vec
from gloria_pack.gloria_core.conditioning.audio import features_from_encoder_output
from gloria_pack.gloria_core.errors import AudioError
from gloria_pack.nodes.encode_audio import GloriaEncodeAudio

WIDTH, CONV_WIDTH, LAYERS = 32, 16, 2
# Half a step of bfloat16, relative.
BF16 = 2**-8

both_kinds = pytest.mark.parametrize("large", [False, True], ids=["base", "large"])


def make_transformers_model(large):
    from transformers import Wav2Vec2Config
    from transformers import Wav2Vec2Model as TransformersModel

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        conv_dim=(CONV_WIDTH,) * 7,
        feat_extract_norm="layer" if large else "group",
        conv_bias=large,
        do_stable_layer_norm=large,
    )
    return TransformersModel(config).eval()


def make_audio_encoder(large):
    """What Load Audio Encoder returns, around ComfyUI's own parts in a small size and with transformers' weights."""
    settings = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.manual_cast}
    model = Wav2Vec2Model(
        embed_dim=WIDTH,
        num_heads=2,
        num_layers=LAYERS,
        do_normalize=large,
        do_stable_layer_norm=large,
        **settings,
    )
    # Their width is fixed in Wav2Vec2Model, and takes most of the time.
    model.feature_extractor = ConvFeatureEncoder(CONV_WIDTH, conv_norm=large, conv_bias=large, **settings)
    model.feature_projection = FeatureProjection(CONV_WIDTH, WIDTH, **settings)
    model.load_state_dict(make_transformers_model(large).state_dict())
    encoder = object.__new__(comfy_audio.AudioEncoderModel)
    encoder.model = model.eval()
    encoder.load_device = comfy.model_management.text_encoder_device()
    encoder.patcher = comfy.model_patcher.ModelPatcher(model, encoder.load_device, torch.device("cpu"))
    encoder.model_sample_rate = 16000
    return encoder


def make_audio(seconds, sample_rate=16000, channels=1):
    t = torch.arange(round(seconds * sample_rate)) / sample_rate
    noise = torch.randn(channels, len(t), generator=torch.Generator().manual_seed(1))
    waveform = 0.05 * (1 + torch.sin(20 * t)) * (torch.sin(900 * t) + 0.2 * noise)
    return {"waveform": waveform[None], "sample_rate": sample_rate}


def encode(audio_encoder, audio, fps=24.0, normalize_loudness=False):
    return GloriaEncodeAudio.execute(audio_encoder, audio, fps, normalize_loudness).result


@both_kinds
def test_features_through_comfyui_equal_the_core_with_transformers_on_the_same_weights(large):
    audio = make_audio(2.0)
    features, frames = encode(make_audio_encoder(large), audio)
    reference = wav2vec.transformers_encoder(make_transformers_model(large), normalize=large)
    expected = wav2vec.encode_speech(reference, audio["waveform"][0, 0], 48, 24.0)
    assert frames == 48
    assert features.features_FLC.shape == (48, LAYERS + 1, WIDTH)
    torch.testing.assert_close(features.features_FLC.float(), expected.float(), rtol=2 * BF16, atol=1e-4)


@both_kinds
def test_features_equal_those_of_the_stock_encoder_node_up_to_the_padded_end(large):
    audio_encoder, audio = make_audio_encoder(large), make_audio(3.0)
    (stock_output,) = AudioEncoderEncode.execute(audio_encoder, audio).result
    stock = features_from_encoder_output(stock_output, 24.0)
    features, frames = encode(audio_encoder, audio)
    assert stock.num_frames == frames == 72
    # The positional convolution carries the added silence 64 tokens back, attention a little of it everywhere.
    difference = (features.features_FLC.float() - stock.features_FLC.float()).abs()
    scale = stock.features_FLC.float().std()
    assert difference[:30, 0].max() < 2 * BF16 * stock.features_FLC.float().abs().max()
    assert difference[:30].mean() / scale < 0.01


@both_kinds
def test_the_stock_node_gives_the_same_before_and_after(large):
    audio_encoder, audio = make_audio_encoder(large), make_audio(1.0)
    before = AudioEncoderEncode.execute(audio_encoder, audio).result[0]["encoded_audio"]
    encode(audio_encoder, audio)
    assert torch.equal(AudioEncoderEncode.execute(audio_encoder, audio).result[0]["encoded_audio"], before)


@pytest.mark.parametrize(("sample_rate", "channels"), [(8000, 1), (22050, 2), (44100, 2), (48000, 6)])
def test_any_rate_and_channel_count_gives_the_frames_of_its_duration(sample_rate, channels):
    features, frames = encode(make_audio_encoder(True), make_audio(1.02, sample_rate, channels))
    assert frames == features.num_frames == 25  # 24.48 rounded up


def test_loudness_no_longer_matters_with_normalization_on():
    audio_encoder, loud = make_audio_encoder(False), make_audio(1.0)
    quiet = {"waveform": loud["waveform"] * 0.02, "sample_rate": 16000}
    features = [encode(audio_encoder, x, normalize_loudness=True)[0].features_FLC.float() for x in (loud, quiet)]
    assert (features[0] - features[1]).abs().max() < 0.02  # bfloat16 steps at values up to 4
    unequal = [encode(audio_encoder, x)[0].features_FLC.float() for x in (loud, quiet)]
    assert (unequal[0] - unequal[1]).abs().max() > 0.2


@both_kinds
def test_a_silent_track_is_encoded(large):
    features, frames = encode(
        make_audio_encoder(large), {"waveform": torch.zeros(1, 2, 44100), "sample_rate": 44100}, normalize_loudness=True
    )
    assert frames == 24
    assert torch.isfinite(features.features_FLC).all()
    assert features.features_FLC.any()


def test_long_audio_goes_through_windows_of_bounded_length_with_progress(monkeypatch):
    audio_encoder = make_audio_encoder(True)
    lengths, updates = [], []
    audio_encoder.model.feature_extractor.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[-1]))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: updates.append((value, total)))
    _, frames = encode(audio_encoder, make_audio(42.0))
    assert frames == 42 * 24
    assert len(lengths) == 3
    assert max(lengths) <= 20 * 16000 + 400
    assert updates[-1] == (3, 3)


def test_cancel_stops_within_a_window_and_leaves_the_model_as_it_was():
    audio_encoder = make_audio_encoder(False)
    calls = []

    def press_cancel(*_):
        calls.append(1)
        comfy.model_management.interrupt_current_processing()

    audio_encoder.model.encoder.layers[0].register_forward_hook(press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode(audio_encoder, make_audio(42.0))
    assert len(calls) == 1
    assert not audio_encoder.model.feature_extractor.conv_layers[0].layer_norm._forward_hooks


def test_whisper_is_refused_before_it_is_loaded():
    encoder = object.__new__(comfy_audio.AudioEncoderModel)
    encoder.model = comfy_audio.WhisperLargeV3(
        n_audio_state=16, n_audio_head=1, n_audio_layer=1, operations=comfy.ops.manual_cast
    )
    with pytest.raises(AudioError, match="this audio encoder is WhisperLargeV3"):
        encode(encoder, make_audio(1.0))


def test_stock_output_of_whisper_is_refused():
    model = comfy_audio.WhisperLargeV3(
        n_audio_state=16, n_audio_head=1, n_audio_layer=1, dtype=torch.float32, operations=comfy.ops.manual_cast
    ).eval()
    with torch.no_grad():
        _, layers = model(make_audio(1.0)["waveform"])
    with pytest.raises(AudioError, match="looks like Whisper"):
        features_from_encoder_output({"encoded_audio_all_layers": layers, "audio_samples": 16000}, 24.0)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (None, "no audio track"),
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 16000}, "no samples"),
        ({"waveform": torch.zeros(2, 1, 100), "sample_rate": 16000}, "one recording"),
        ({"waveform": torch.zeros(1, 100), "sample_rate": 16000}, "one recording"),
        ({"waveform": torch.full((1, 1, 100), float("nan")), "sample_rate": 16000}, "NaN"),
    ],
)
def test_bad_audio_is_refused(audio, message):
    with pytest.raises(AudioError, match=message):
        encode(make_audio_encoder(True), audio)


def test_schema_explains_every_input_and_output_and_keeps_its_order():
    schema = GloriaEncodeAudio.define_schema()
    assert [x.id for x in schema.inputs] == ["audio_encoder", "audio", "fps", "normalize_loudness"]
    assert [x.io_type for x in schema.outputs] == ["GLORIA_AUDIO", "INT"]
    assert all(x.tooltip for x in [*schema.inputs, *schema.outputs])
