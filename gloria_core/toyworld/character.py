"""A seed enters, one toy character leaves: colors, hair, four marks and one quirk for each expression.

Marks sit on the torso's front and back and on the outer side of both sleeves, shape and color drawn independently, so
that no side can be guessed from another. A quirk is the color of the cheeks while one expression is worn.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import ToyWorldError
from .palette import MARK_COLORS, Color, from_hsv, to_lab
from .shapes2d import MARK_SHAPES

NUM_HELD_OUT = 64
# One in so many combinations of marks and quirks belongs to the held-out characters, chosen by a hash of it.
_HELD_OUT_SHARE = 64
_TRAINING_STREAM, _HELD_OUT_STREAM = 11, 12
# Lab distance below which a mark would drown in the shirt it is printed on, or the shirt in the skin.
_MIN_SHIRT_CONTRAST = 38.0
_MIN_CLOTHES_CONTRAST = 18.0

# Light to dark, all light enough to carry dark features and cheeks of every color.
_SKIN_TONES = ((0.99, 0.88, 0.80), (0.97, 0.83, 0.72), (0.93, 0.75, 0.61), (0.84, 0.64, 0.49), (0.72, 0.52, 0.39))
_HAIR_TONES = (
    (0.18, 0.14, 0.16),
    (0.36, 0.22, 0.15),
    (0.58, 0.36, 0.20),
    (0.78, 0.40, 0.20),
    (0.93, 0.78, 0.45),
    (0.82, 0.84, 0.88),
    (0.86, 0.47, 0.62),
    (0.42, 0.38, 0.72),
    (0.25, 0.52, 0.58),
)


@dataclass(frozen=True)
class Mark:
    """What is printed on one side: indices into `MARK_SHAPES` and `MARK_COLORS`."""

    shape: int
    color: int


@dataclass(frozen=True)
class HairStyle:
    """Shape of the hair, in radii of the head; `bun` and `tail` are sizes, 0 for none."""

    volume: float
    fringe: float
    """Height of the fringe's edge above the middle of the face."""
    wave: float
    """Depth of the fringe's waves."""
    strands: float
    """Waves across the fringe."""
    parting: float
    """Where the fringe is parted, -1 to 1."""
    sides: float
    """How far the hair at the sides comes forward."""
    length: float
    """How far down it hangs at the sides and the back."""
    bun: float
    tail: float


@dataclass(frozen=True)
class Character:
    """One identity."""

    name: str
    skin: Color
    hair: Color
    eyes: Color
    shirt: Color
    trousers: Color
    shoes: Color
    style: HairStyle
    marks: tuple[Mark, ...]
    """In the order of `VIEWPOINTS`."""
    quirks: tuple[int, ...]
    """Cheek colors, indices into `MARK_COLORS`, in the order of `EXPRESSIONS`."""

    def mark(self, viewpoint: str) -> Mark:
        """The mark on one of `VIEWPOINTS`."""
        return self.marks[VIEWPOINTS.index(viewpoint)]

    def quirk(self, expression: str) -> int:
        """The cheeks' color while one of `EXPRESSIONS` is worn."""
        return self.quirks[EXPRESSIONS.index(expression)]


def training_character(index: int) -> Character:
    """The character of this number; there is no last one."""
    return _character(f"training-{index}", _TRAINING_STREAM, index, lambda held_out: not held_out)


def held_out_character(index: int) -> Character:
    """One of the `NUM_HELD_OUT` characters that share their marks and quirks with no training character.

    Raises:
        ToyWorldError: No such character.
    """
    if not 0 <= index < NUM_HELD_OUT:
        raise ToyWorldError(f"There are held-out characters 0 to {NUM_HELD_OUT - 1}, not {index}.")
    return _character(f"held-out-{index}", _HELD_OUT_STREAM, index, lambda held_out: held_out)


def is_held_out(marks: tuple[Mark, ...], quirks: tuple[int, ...]) -> bool:
    """Which of the two kinds of character a combination belongs to: every combination belongs to exactly one."""
    code = bytes([value for mark in marks for value in (mark.shape, mark.color)] + list(quirks))
    return hashlib.sha256(code).digest()[0] % _HELD_OUT_SHARE == 0


def _character(name: str, stream: int, index: int, accepts: Callable[[bool], bool]) -> Character:
    if index < 0:
        raise ToyWorldError(f"Characters are numbered from 0, got {index}.")
    rng = np.random.default_rng((stream, index))
    while True:
        marks = tuple(Mark(*(int(value) for value in rng.integers(len(MARK_SHAPES), size=2))) for _ in VIEWPOINTS)
        quirks = tuple(int(value) for value in rng.integers(len(MARK_COLORS), size=len(EXPRESSIONS)))
        if accepts(is_held_out(marks, quirks)):
            break
    skin = _between(rng, _SKIN_TONES)
    shirt = _shirt(rng, [*(MARK_COLORS[mark.color] for mark in marks), skin])
    trousers = _far_from(rng, [shirt])
    return Character(
        name=name,
        skin=skin,
        hair=_near(rng, _HAIR_TONES[rng.integers(len(_HAIR_TONES))], 0.05),
        eyes=from_hsv(rng.uniform(), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.65)),
        shirt=shirt,
        trousers=trousers,
        shoes=_far_from(rng, [trousers]),
        style=_style(rng),
        marks=marks,
        quirks=quirks,
    )


def _style(rng: np.random.Generator) -> HairStyle:
    length = (-0.42, -0.65, -0.95)[rng.integers(3)]
    extra = rng.integers(3)
    return HairStyle(
        volume=rng.uniform(1.09, 1.16),
        fringe=rng.uniform(0.42, 0.58),
        wave=rng.uniform(0.0, 0.12),
        strands=rng.uniform(5.0, 12.0),
        parting=rng.uniform(-0.5, 0.5),
        sides=rng.uniform(0.05, 0.3),
        length=length + rng.uniform(-0.08, 0.08),
        bun=rng.uniform(0.3, 0.4) if extra == 1 else 0.0,
        tail=rng.uniform(0.36, 0.46) if extra == 2 else 0.0,
    )


def _shirt(rng: np.random.Generator, others: list[Color]) -> Color:
    """The shirt that stands out from marks and skin: the first good one, else the best of many."""
    best, best_contrast = None, -1.0
    for _ in range(64):
        shirt = from_hsv(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.85))
        contrast = min(_distance(shirt, other) for other in others)
        if contrast > best_contrast:
            best, best_contrast = shirt, contrast
        if contrast > _MIN_SHIRT_CONTRAST:
            break
    assert best is not None
    return best


def _far_from(rng: np.random.Generator, others: list[Color]) -> Color:
    while True:
        color = from_hsv(rng.uniform(), rng.uniform(0.15, 0.6), rng.uniform(0.22, 0.6))
        if min(_distance(color, other) for other in others) > _MIN_CLOTHES_CONTRAST:
            return color


def _between(rng: np.random.Generator, tones: tuple[Color, ...]) -> Color:
    place = rng.uniform(0, len(tones) - 1)
    lower = min(int(place), len(tones) - 2)
    weight = place - lower
    return tuple((1 - weight) * a + weight * b for a, b in zip(tones[lower], tones[lower + 1], strict=True))


def _near(rng: np.random.Generator, color: Color, spread: float) -> Color:
    return tuple(float(np.clip(value + rng.uniform(-spread, spread), 0, 1)) for value in color)


def _distance(first: Color, second: Color) -> float:
    return float(np.linalg.norm(to_lab(np.array(first)) - to_lab(np.array(second))))
