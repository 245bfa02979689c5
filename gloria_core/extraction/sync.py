"""Embeddings of lips and of sound enter, how far apart they are in time and how surely leaves (SyncNet's measure).

Weights are the user's: a `SyncScorer` embeds a stretch with any network and calls `score_embeddings`.
Legend: T video frames, D width.
"""

import numpy as np

from .backends import SyncScore

MAX_SHIFT = 15


def distances(lips_TD: np.ndarray, sound_TD: np.ndarray, max_shift: int = MAX_SHIFT) -> np.ndarray:
    """Mean distance of every picture to the sound `s` frames later, for s from -max_shift to max_shift.

    Raises:
        ValueError: The stretch is not longer than the shifts.
    """
    num = len(lips_TD)
    if num <= max_shift or lips_TD.shape != sound_TD.shape:
        raise ValueError(
            f"Got embeddings {list(lips_TD.shape)} and {list(sound_TD.shape)}, expected equal shapes of more than "
            f"{max_shift} frames."
        )
    mean = []
    for shift in range(-max_shift, max_shift + 1):
        first, stop = max(0, -shift), min(num, num - shift)
        mean.append(np.linalg.norm(lips_TD[first:stop] - sound_TD[first + shift : stop + shift], axis=-1).mean())
    return np.array(mean)


def score_embeddings(lips_TD: np.ndarray, sound_TD: np.ndarray, max_shift: int = MAX_SHIFT) -> SyncScore:
    """Offset at the smallest distance; confidence is how far that lies below the median distance."""
    mean = distances(lips_TD, sound_TD, max_shift)
    best = int(mean.argmin())
    return SyncScore(best - max_shift, float(np.median(mean) - mean[best]), float(mean[best]))
