"""Text and speech encoders of the demo model. Run: pytest tests/core/demo/test_demo_encoders_core.py"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gloria_core.demo.audio_encoder import load_audio_encoder, random_sound, speech_features, train_audio_encoder
from gloria_core.demo.encoder_file import read_encoder
from gloria_core.demo.sizes import TINY
from gloria_core.demo.text_encoder import load_text_encoder, random_captions, train_text_encoder
from gloria_core.demo.vocabulary import END, UNKNOWN, Vocabulary
from gloria_core.errors import CheckpointError
from gloria_core.media.read_audio import SAMPLE_RATE
from gloria_core.toyworld.captions import VOCABULARY

TAUGHT = replace(TINY, encoders=replace(TINY.encoders, text_width=32, text_steps=60, audio_steps=20))


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.safetensors"
    return path, train_text_encoder(TAUGHT, path)


@pytest.fixture(scope="module")
def audio_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "audio.safetensors"
    return path, train_audio_encoder(TAUGHT, path)


def test_every_caption_is_made_of_known_words():
    vocabulary = Vocabulary()
    numbers = [vocabulary.encode(text) for text in random_captions(0, 200)]
    assert all(UNKNOWN not in prompt and prompt[-1] == END for prompt in numbers)
    used = {number for prompt in numbers for number in prompt}
    assert {vocabulary.words.index(word) for word in VOCABULARY} <= used, "a word that no caption has is never learned"


def test_words_come_back_and_case_and_commas_do_not_count():
    vocabulary = Vocabulary()
    assert vocabulary.decode(vocabulary.encode("The character, TURNS!")) == "the character turns"


def test_a_minute_teaches_words_and_places(text_file):
    _, figures = text_file
    chance = 1 / len(Vocabulary().words)
    assert figures["words"] > 5 * chance
    assert figures["places"] > 5 / TAUGHT.text_tokens


def test_equal_words_in_another_order_are_other_features(text_file):
    encoder = load_text_encoder(text_file[0])
    first, second = encoder("feels happy then sad"), encoder("feels sad then happy")
    assert first.shape == (TAUGHT.text_tokens, 32)
    assert (first[5:] == 0).all(), "behind the four words and the end"
    # The word "then" is in the same place in both; only its neighbours differ.
    assert (first[2] - second[2]).norm() > 0.1 * first[2].norm()


def test_prompts_longer_than_usual_are_not_cut(text_file):
    assert load_text_encoder(text_file[0])("happy " * 50).shape[0] == 51


def test_speech_training_lowers_the_error_of_the_mouth(audio_file, tmp_path):
    untaught = train_audio_encoder(
        replace(TAUGHT, encoders=replace(TAUGHT.encoders, audio_steps=1)), tmp_path / "audio.safetensors"
    )
    for name, explained in audio_file[1].items():
        assert explained > untaught[name], name


def test_features_are_one_set_per_video_frame_at_any_rate(audio_file):
    encoder, sound = load_audio_encoder(audio_file[0]), random_sound(0, 0)
    for fps in (8.0, 24.0):
        features_FLC = speech_features(encoder, sound, fps)
        assert features_FLC.shape == (round(4 * fps), TAUGHT.encoders.audio_layers + 1, TAUGHT.encoders.audio_width)
        assert torch.isfinite(features_FLC.float()).all()


def test_silence_has_finite_features(audio_file):
    silent = speech_features(load_audio_encoder(audio_file[0]), np.zeros(12 * SAMPLE_RATE, dtype=np.float32), 8.0)
    assert torch.isfinite(silent.float()).all()
    # Nothing is heard, so every frame is like the others but for the edges, which the positions reach 1.3 s into.
    middle = silent[16:-16].float()
    assert torch.allclose(middle, middle[:1].expand_as(middle), atol=0.05)


def test_files_say_what_they_are(text_file, audio_file, tmp_path):
    with pytest.raises(CheckpointError, match="no audio encoder"):
        read_encoder(text_file[0], "audio")
    with pytest.raises(CheckpointError, match="no text encoder"):
        read_encoder(audio_file[0], "text")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(text_file[0].read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable"):
        read_encoder(broken, "text")


def test_equal_seeds_give_equal_files(text_file, tmp_path):
    path = tmp_path / "again.safetensors"
    train_text_encoder(TAUGHT, path)
    assert path.read_bytes() == text_file[0].read_bytes()
