"""Curves of attention enter, pictures of 960 x 480 leave: shares over time with a legend, and maps of whole chunks.

Legend: F latent frames of a chunk, G groups (F frames, then anchors), H W pixels, C colors.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..model.anchor_tokens import Slot
from ..sampling.plan import ChunkPlan
from ..shapes import pixel_span_of_latent
from .attention_curves import PREFIX, VIDEO, FilmAttention

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 960, 480, 78, 18, 62
_FONT_SIZE, _LINE_HEIGHT = 20, 26
_BACKGROUND, _GRID, _TEXT = "#181a1e", "#343840", "#c8cdd4"
_NUM_TICKS = 8
# The page draws with the same ones (nodes/bridge/routes_films.py).
_COLORS: dict[Slot, str] = {
    ("global", "global"): "#ffb833", ("viewpoint", "front"): "#5db1ff", ("viewpoint", "back"): "#ff5c5c",
    ("viewpoint", "left"): "#4fd18b", ("viewpoint", "right"): "#c38bff", ("expression", "neutral"): "#b9c4d0",
    ("expression", "happy"): "#ff9ecb", ("expression", "surprise"): "#7ee7e7", ("expression", "sad"): "#7d95ff",
    ("expression", "angry"): "#e0457b", ("expression", "fear"): "#a5e06a", ("expression", "disgust"): "#b59058",
    ("expression", "contempt"): "#a07cc5", PREFIX: "#8a929e", VIDEO: "#5a616c",
}  # fmt: skip
_NAMES = {PREFIX: "chunk's start", VIDEO: "rest of the video"}


class Curve(NamedTuple):
    """One line of a chart; points whose y is not a number interrupt it.

    Args:
        errors: half lengths of bars around the points, or none.
    """

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float] = ()


def color_of(slot: Slot) -> str:
    """The color an anchor has in every chart; labels of other checkpoints share one."""
    return _COLORS.get(slot, "#e0e0e0")


def name_of(slot: Slot) -> str:
    """What a legend calls it."""
    return _NAMES.get(slot, slot[1])


def seconds_of_latents(num_latents: int, fps: float) -> list[float]:
    """Middle of the video frames that each latent frame of a film covers."""
    return [sum(pixel_span_of_latent(idx)) / 2 / fps for idx in range(num_latents)]


def draw_film_attention(attention: FilmAttention, plan: ChunkPlan, fps: float) -> "Image":
    """What was looked at over the seconds of a film; vertical lines are where chunks begin to add frames."""
    seconds = seconds_of_latents(plan.total_latents, fps)
    curves = [
        Curve(name_of(slot), color_of(slot), list(zip(seconds, curve_T.tolist(), strict=True)))
        for slot, curve_T in attention.curves_T.items()
        if slot != VIDEO
    ]
    marks = [pixel_span_of_latent(chunk.start + chunk.prefix)[0] / fps for chunk in plan.chunks[1:]]
    return draw_curves(curves, "seconds", marks, "share of attention", (0.0, seconds[-1]))


def draw_curves(
    curves: Sequence[Curve],
    x_name: str,
    marks: Iterable[float] = (),
    title: str = "",
    x_range: tuple[float, float] | None = None,
    min_tick: float = 0.0,
) -> "Image":
    """Lines over a common axis from zero up, with a legend that takes as many lines as it needs.

    Args:
        min_tick: the numbers along x are at least so far apart.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(_FONT_SIZE)
    seen = [(x, y) for curve in curves for x, y in curve.points if math.isfinite(y)]
    if not seen:
        draw.text((_WIDTH // 2, _HEIGHT // 2), "nothing was looked at", fill=_TEXT, anchor="mm")
        return image
    top_y = 8 + _LINE_HEIGHT * _draw_legend(draw, curves, title) + 10
    low, high = x_range or (min(x for x, _ in seen), max(x for x, _ in seen))
    peak = 1.05 * max(y for _, y in seen) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) if high > low else 0.5
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * across, _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - top_y) * y / peak

    _draw_axes(draw, place, _ticks(low, high, min_tick), peak, marks)
    draw.text((_WIDTH - _RIGHT, _HEIGHT - 6), x_name, fill=_TEXT, anchor="rs")
    for curve in curves:
        _draw_curve(draw, place, curve)
    return image


def draw_maps(maps_FG: Sequence[Tensor], names: Sequence[str]) -> "Image":
    """Tables of shares side by side, brightest where a row looks most; anchors stand apart at the right of each."""
    from PIL import Image, ImageDraw, ImageFont

    gap, apart, top = 10, 6, 34
    num_rows, num_columns = (max(table.shape[axis] for table in maps_FG) for axis in (0, 1))
    across = (_WIDTH - gap * (len(maps_FG) + 1)) // len(maps_FG)
    cell = max(1, min((across - apart) // num_columns, (_HEIGHT - top - gap) // num_rows))
    image = Image.new("RGB", (_WIDTH, top + gap + cell * num_rows), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(_FONT_SIZE)
    peak = max(float(table.max()) for table in maps_FG)
    for idx, (table_FG, name) in enumerate(zip(maps_FG, names, strict=True)):
        left, num_frames = gap + idx * (across + gap), len(table_FG)
        draw.text((left, 6), name, fill=_TEXT)
        for part, x in ((table_FG[:, :num_frames], left), (table_FG[:, num_frames:], left + num_frames * cell + apart)):
            if part.shape[1]:
                picture = Image.fromarray(_heat(part / peak).numpy())
                size = (part.shape[1] * cell, num_frames * cell)
                image.paste(picture.resize(size, Image.Resampling.NEAREST), (x, top))
    return image


def _heat(values_HW: Tensor) -> Tensor:
    """[H, W, C] bytes from black over red and yellow to white; the root shows what is small."""
    level = values_HW.clamp(0, 1).sqrt() * 3
    return torch.stack([(level - idx).clamp(0, 1) * 255 for idx in range(3)], dim=-1).byte()


def _draw_legend(draw: Any, curves: Sequence[Curve], title: str) -> int:
    """Names in their colors, from the left; the number of lines they took."""
    x, line = float(_LEFT), 0
    for name, color in ((title, _TEXT), *((curve.name, curve.color) for curve in curves)):
        length = draw.textlength(name)
        if x + length > _WIDTH - _RIGHT and x > _LEFT:
            x, line = float(_LEFT), line + 1
        draw.text((x, 8 + line * _LINE_HEIGHT), name, fill=color)
        x += length + 22
    return line + 1


def _draw_axes(
    draw: Any,
    place: Callable[[float, float], tuple[float, float]],
    x_ticks: Sequence[float],
    peak: float,
    marks: Iterable[float],
) -> None:
    for y in _ticks(0.0, peak):
        height = place(0.0, y)[1]
        draw.line([(_LEFT, height), (_WIDTH - _RIGHT, height)], fill=_GRID)
        draw.text((_LEFT - 10, height), f"{y:g}", fill=_TEXT, anchor="rm")
    for x in marks:
        draw.line([place(x, 0.0), place(x, peak)], fill=_GRID, width=2)
    for x in x_ticks:
        draw.text((place(x, 0.0)[0], _HEIGHT - _BOTTOM + 8), f"{x:g}", fill=_TEXT, anchor="ma")


def _draw_curve(draw: Any, place: Callable[[float, float], tuple[float, float]], curve: Curve) -> None:
    for is_drawn, points in groupby(curve.points, key=lambda point: math.isfinite(point[1])):
        placed = [place(*point) for point in points] if is_drawn else []
        if len(placed) > 1:
            draw.line(placed, fill=curve.color, width=3, joint="curve")
        for x, y in placed if len(placed) == 1 or curve.errors else ():
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=curve.color)
    for (x, y), error in zip(curve.points, curve.errors, strict=False):
        if math.isfinite(error):
            draw.line([place(x, max(0.0, y - error)), place(x, y + error)], fill=curve.color, width=2)


def _ticks(low: float, high: float, min_step: float = 0.0) -> list[float]:
    """At most `_NUM_TICKS` round numbers of a span."""
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span / _NUM_TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= _NUM_TICKS)
    step = max(step, min_step)
    first = math.ceil(low / step - 1e-9)
    return [round(idx * step, 10) for idx in range(first, math.floor(high / step + 1e-9) + 1)]
