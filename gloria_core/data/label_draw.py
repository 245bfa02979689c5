"""Shares of labels and a subset size enter, the labels of one sample leave: each as often as its share says."""

import math
from collections.abc import Mapping
from random import Random


def draw_labels(shares: Mapping[str, float], size: int, rng: Random) -> tuple[str, ...]:
    """`size` different labels, each drawn with probability `size` x its share of the whole.

    Systematic sampling: labels lie in random order on a line, as long as their probability, and are picked at equal
    steps. A label whose probability would pass 1 is always in, and the others share what is left.
    """
    probabilities = inclusion_probabilities(shares, size)
    order = list(probabilities)
    rng.shuffle(order)
    position, picked = rng.random(), []
    end = 0.0
    for label in order:
        end += probabilities[label]
        # The nudge keeps a sum of floats from missing the last mark by a rounding error.
        while position < end - 1e-12 and len(picked) < size:
            picked.append(label)
            position += 1.0
    picked += [label for label in order if label not in picked][: size - len(picked)]
    return tuple(sorted(picked, key=list(shares).index))


def inclusion_probabilities(shares: Mapping[str, float], size: int) -> dict[str, float]:
    """How often each label is in a subset of `size`; they sum to `size`."""
    if not 0 <= size <= len(shares):
        raise ValueError(f"cannot draw {size} of {len(shares)} labels")
    certain: set[str] = set()
    while True:
        rest = {label: share for label, share in shares.items() if label not in certain}
        total, left = math.fsum(rest.values()), size - len(certain)
        over = {label for label, share in rest.items() if left * share > total}
        if not over:
            break
        certain |= over
    scaled = {label: left * share / total if left else 0.0 for label, share in rest.items()}
    return {label: 1.0 if label in certain else scaled[label] for label in shares}
