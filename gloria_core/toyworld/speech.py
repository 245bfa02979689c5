"""A seed enters, speech-like sound leaves; any speech enters, the opening of a mouth that speaks it leaves.

Sound has phrases with pauses between, phrases have syllables: a hiss or a silence, then a voiced vowel with formants.
The mouth of synthetic and of real speech is found by the same function from the sound itself.

Legend: N samples at 16 kHz, T video frames, K harmonics, S syllables.
"""

from dataclasses import dataclass

import numpy as np

from ..media.read_audio import SAMPLE_RATE

_STREAM = 41
# Formant frequencies and how far the mouth is open, "a" to "u".
_VOWELS = {
    "a": ((850, 1610, 2650), 1.0),
    "e": ((590, 1900, 2600), 0.7),
    "i": ((300, 2300, 3000), 0.4),
    "o": ((500, 900, 2500), 0.75),
    "u": ((320, 800, 2400), 0.4),
}
_FORMANT_WIDTHS = (90.0, 120.0, 170.0)
_HOP = 80
_NUM_HARMONICS = 30
# The pitch glides to a new place about three times a second.
_MELODY_HOPS = 60
_PEAK = 0.5
# The mouth follows loudness over about this long, and never less than a frame and a half.
_WINDOW_SECONDS = 0.07
_WINDOW_FRAMES = 1.5
# Loudness that opens the mouth fully: what one in twenty moments of the speech exceeds.
_LOUD_PERCENTILE = 95
_SILENCE_BELOW_LOUD = 0.03
_OPENING_EXPONENT = 0.6
_ABSOLUTE_SILENCE = 1e-3


@dataclass(frozen=True)
class Syllable:
    """One voiced vowel."""

    start: float
    seconds: float
    vowel: str
    loudness: float
    hiss: float
    """Loudness of the consonant before it."""


def make_speech(seed: int, seconds: float, talkative: float = 0.75) -> np.ndarray:
    """Speech-like sound of this number: float32 [N] in -1..1.

    Args:
        talkative: about how much of the time is spoken.
    """
    rng = np.random.default_rng((_STREAM, seed))
    num_samples = round(seconds * SAMPLE_RATE)
    syllables = random_syllables(rng, seconds, talkative)
    pitch, size = rng.uniform(110, 240), rng.uniform(0.9, 1.15)
    num_hops = num_samples // _HOP + 2
    loudness, hiss, formants = _tracks(syllables, num_hops, size)
    samples = _voice(rng, pitch, loudness, formants, num_samples) + _hiss(rng, hiss, num_samples)
    peak = np.abs(samples).max()
    return (samples * (_PEAK / peak) if peak > 0 else samples).astype(np.float32)


def random_syllables(rng: np.random.Generator, seconds: float, talkative: float) -> list[Syllable]:
    """Phrases of syllables with pauses between."""
    syllables: list[Syllable] = []
    time = rng.uniform(0.0, 0.6)
    vowels = tuple(_VOWELS)
    while True:
        stress = rng.uniform(0.7, 1.0)
        for _ in range(rng.integers(3, 12)):
            length = rng.uniform(0.11, 0.24)
            if time + length > seconds - 0.05:
                return syllables
            hiss = rng.uniform(0.03, 0.10) if rng.uniform() < 0.4 else 0.0
            loudness = stress * rng.uniform(0.55, 1.0)
            syllables.append(Syllable(time, length, vowels[rng.integers(len(vowels))], loudness, hiss))
            time += length + rng.uniform(0.03, 0.09)
        time += rng.uniform(0.3, 1.2) * 2 * (1 - talkative) / 0.5


def mouth_opening_of(samples: np.ndarray, fps: float, num_frames: int) -> np.ndarray:
    """Opening of the mouth [T], 0 to 1, from the loudness around the middle of each video frame.

    Args:
        samples: the whole speech at 16 kHz; its own loud moments open the mouth fully.
    """
    if not len(samples):
        return np.zeros(num_frames, dtype=np.float32)
    per_ms = SAMPLE_RATE // 1000
    padded = np.pad(np.asarray(samples, dtype=np.float64), (0, -len(samples) % per_ms))
    power = (padded**2).reshape(-1, per_ms).mean(1)
    level = np.sqrt(np.convolve(power, _window(fps), mode="full")[_window_ms(fps) // 2 :][: len(power)])
    heard = level[level > max(_ABSOLUTE_SILENCE, level.max(initial=0) * _SILENCE_BELOW_LOUD)]
    if not heard.size:
        return np.zeros(num_frames, dtype=np.float32)
    loud = np.percentile(heard, _LOUD_PERCENTILE)
    middles = np.floor((np.arange(num_frames) + 0.5) / fps * 1000).astype(np.int64)
    share = np.where(middles < len(level), level[np.minimum(middles, len(level) - 1)], 0) / loud
    share = np.clip((share - _SILENCE_BELOW_LOUD) / (1 - _SILENCE_BELOW_LOUD), 0, 1)
    return (share**_OPENING_EXPONENT).astype(np.float32)


def articulation(syllables: list[Syllable], times: np.ndarray) -> np.ndarray:
    """How far the vowels themselves open the mouth at each time, 0 to 1."""
    opening = np.zeros(times.shape)
    for each in syllables:
        place = (times - each.start) / each.seconds
        opening = np.maximum(opening, _VOWELS[each.vowel][1] * each.loudness * _bump(place))
    return opening


def _window_ms(fps: float) -> int:
    return 2 * round(max(_WINDOW_SECONDS, _WINDOW_FRAMES / fps) * 500) + 1


def _window(fps: float) -> np.ndarray:
    window = np.hanning(_window_ms(fps) + 2)[1:-1]
    return window / window.sum()


def _bump(place: np.ndarray) -> np.ndarray:
    return np.where((place > 0) & (place < 1), np.sin(np.pi * np.clip(place, 0, 1)) ** 0.7, 0.0)


def _tracks(syllables: list[Syllable], num_hops: int, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loudness, hiss and formants [hops, 3] at every hop."""
    times = np.arange(num_hops) * _HOP / SAMPLE_RATE
    loudness, hiss = np.zeros(num_hops), np.zeros(num_hops)
    middles, targets = [], []
    for each in syllables:
        formants, opening = _VOWELS[each.vowel]
        place = (times - each.start) / each.seconds
        # Open vowels are the loud ones, which is why loudness tells the mouth.
        loudness = np.maximum(loudness, each.loudness * opening**0.8 * _bump(place))
        hiss = np.maximum(hiss, each.hiss * _bump((times - each.start + 0.07) / 0.09))
        middles.append(each.start + each.seconds / 2)
        targets.append(formants)
    if not syllables:
        return loudness, hiss, np.zeros((num_hops, 3)) + _VOWELS["a"][0]
    formants = np.stack([np.interp(times, middles, column) for column in np.array(targets, dtype=float).T], -1)
    return loudness, hiss, formants * size


def _voice(
    rng: np.random.Generator, pitch: float, loudness: np.ndarray, formants: np.ndarray, num_samples: int
) -> np.ndarray:
    """Harmonics of a gliding pitch, each as loud as the formants say."""
    num_hops = len(loudness)
    knots = np.arange(0, num_hops + _MELODY_HOPS, _MELODY_HOPS)
    melody = np.interp(np.arange(num_hops), knots, rng.normal(size=len(knots)))
    pitch_hops = pitch * 2 ** (0.15 * melody + 0.1 * loudness)
    order = np.arange(1, _NUM_HARMONICS + 1)
    frequencies = pitch_hops[:, None] * order
    gains = np.zeros_like(frequencies)
    for idx, width in enumerate(_FORMANT_WIDTHS):
        gains += (1.0, 0.6, 0.3)[idx] / (1 + ((frequencies - formants[:, idx, None]) / width) ** 2)
    gains += 0.15 / order
    gains *= (frequencies < 0.45 * SAMPLE_RATE) * loudness[:, None]
    phase = 2 * np.pi / SAMPLE_RATE * np.cumsum(_per_sample(pitch_hops))
    # Harmonics of one phase are powers of one rotation.
    step = np.exp(1j * phase).astype(np.complex64)
    rotation, samples = step.copy(), np.zeros(len(step), dtype=np.float32)
    for idx in range(_NUM_HARMONICS):
        samples += _per_sample(gains[:, idx]).astype(np.float32) * rotation.imag
        rotation *= step
    return samples[:num_samples]


def _per_sample(hops: np.ndarray) -> np.ndarray:
    """Straight lines between the hops."""
    share = np.arange(_HOP) / _HOP
    return (hops[:-1, None] + np.diff(hops)[:, None] * share).ravel()


def _hiss(rng: np.random.Generator, hiss: np.ndarray, num_samples: int) -> np.ndarray:
    noise = np.diff(rng.normal(size=num_samples + 1))
    return noise * _per_sample(hiss)[:num_samples]
