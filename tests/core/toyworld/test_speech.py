"""Sound that opens mouths. Run: python -m pytest tests/core/toyworld/test_speech.py"""

import numpy as np
import pytest

from gloria_core.media.read_audio import SAMPLE_RATE
from gloria_core.toyworld.speech import articulation, make_speech, mouth_opening_of, random_syllables


@pytest.mark.parametrize("seed", range(4))
def test_the_opening_found_from_the_sound_follows_the_syllables_it_was_made_of(seed):
    seconds = 12.0
    samples = make_speech(seed, seconds)
    syllables = random_syllables(np.random.default_rng((41, seed)), seconds, 0.75)
    times = (np.arange(round(seconds * 24)) + 0.5) / 24
    opening = mouth_opening_of(samples, 24, len(times))
    truth = articulation(syllables, times)
    correlation = [np.corrcoef(np.roll(opening, lag), truth)[0, 1] for lag in range(-4, 5)]
    assert correlation[4] == max(correlation) > 0.88
    # In the pauses between phrases the mouth is closed.
    silent = np.convolve(truth, np.ones(9), "same") == 0
    assert silent.sum() > 5
    assert opening[silent].max() == 0


def test_a_tone_opens_the_mouth_exactly_while_it_sounds():
    tone = 0.3 * np.sin(np.arange(2 * SAMPLE_RATE) * 2 * np.pi * 200 / SAMPLE_RATE)
    tone[: SAMPLE_RATE // 2] = tone[-SAMPLE_RATE // 2 :] = 0
    opening = mouth_opening_of(tone, 24, 48)
    np.testing.assert_allclose(opening[14:34], 1, atol=0.01)
    assert not opening[:10].any()
    assert not opening[38:].any()
    # Both edges fall between frames 11 and 12, 35 and 36: the frames around them mirror each other.
    np.testing.assert_allclose(opening[10:14], opening[34:38][::-1], atol=0.02)


def test_loudness_of_the_recording_does_not_matter():
    samples = make_speech(5, 4)
    np.testing.assert_allclose(mouth_opening_of(samples, 24, 96), mouth_opening_of(0.25 * samples, 24, 96), atol=1e-5)


def test_sound_that_starts_later_opens_the_mouth_later():
    samples = make_speech(6, 4)
    delayed = np.concatenate([np.zeros(SAMPLE_RATE // 2), samples])
    first, second = mouth_opening_of(samples, 24, 96), mouth_opening_of(delayed, 24, 108)
    np.testing.assert_allclose(second[12:], first, atol=1e-5)


def test_silence_and_the_time_behind_the_sound_keep_the_mouth_shut():
    assert not mouth_opening_of(np.zeros(SAMPLE_RATE), 24, 24).any()
    assert not mouth_opening_of(np.zeros(0), 24, 24).any()
    assert not mouth_opening_of(make_speech(1, 2), 24, 96)[50:].any()


def test_speech_is_sound_with_a_pitch_and_formants():
    samples = make_speech(2, 10)
    assert samples.dtype == np.float32
    assert len(samples) == 10 * SAMPLE_RATE
    assert np.abs(samples).max() == pytest.approx(0.5)
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    assert spectrum[(hertz > 80) & (hertz < 4000)].sum() > 0.95 * spectrum.sum()
    np.testing.assert_array_equal(samples, make_speech(2, 10))
    assert not np.array_equal(samples, make_speech(3, 10))
