"""Lines of metrics enter, a picture of the loss leaves: raw, smoothed, held-out, and where each stage begins."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .progress import Smoothed

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 960, 480, 84, 40, 36, 16
_FONT_SIZE = 22  # still readable where the picture is shown at half its size
_BACKGROUND, _GRID, _TEXT = (24, 26, 30), (52, 56, 64), (200, 205, 212)
_RAW, _SMOOTH, _HELD_OUT = (84, 110, 145), (96, 175, 255), (255, 170, 64)
_NUM_GRID_LINES = 4

Point = tuple[int, float]


def draw_loss_chart(metrics: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]] = ()) -> "Image":
    """RGB picture of 960 x 480 pixels.

    Args:
        metrics: lines of metrics.jsonl.
        validation: lines of validation.jsonl.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(_FONT_SIZE)
    raw = [(line["step"], line["loss"]) for line in metrics if line.get("loss") is not None]
    held_out = [(line["step"], line["loss"]) for line in validation if line.get("loss") is not None]
    if not raw:
        draw.text((_LEFT, _HEIGHT // 2), "no steps yet", fill=_TEXT)
        return image
    smooth = list(_smoothed(raw))
    last = max(step for step, _ in raw + held_out)
    # Single steps may be far out: the axis follows the middle of the raw losses.
    values = sorted(loss for _, loss in raw)
    top = max(values[int(0.98 * (len(values) - 1))], *(loss for _, loss in smooth + held_out)) * 1.05 or 1.0

    def place(point: Point) -> tuple[float, float]:
        step, loss = point
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(last, 1)
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(loss / top, 1))

    for idx in range(_NUM_GRID_LINES + 1):
        value = top * idx / _NUM_GRID_LINES
        y = place((0, value))[1]
        draw.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], fill=_GRID)
        draw.text((_LEFT - 8, y), f"{value:.3g}", fill=_TEXT, anchor="rm")
    _draw_stages(draw, metrics, place)
    for points, color, width in ((raw, _RAW, 1), (smooth, _SMOOTH, 2), (held_out, _HELD_OUT, 2)):
        if len(points) > 1:
            draw.line([place(point) for point in points], fill=color, width=width)
        for point in points if len(points) == 1 or color == _HELD_OUT else ():
            x, y = place(point)
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color)
    right = _WIDTH - _RIGHT
    for text, color in ((f"step {last}", _TEXT), *_legend(bool(held_out))):
        draw.text((right, _HEIGHT - 8), text, fill=color, anchor="rs")
        right -= draw.textlength(text) + 24
    return image


def _legend(has_held_out: bool) -> list[tuple[str, tuple[int, int, int]]]:
    held_out = [("held-out loss", _HELD_OUT)] if has_held_out else []
    return [*held_out, ("smoothed", _SMOOTH), ("loss", _RAW)]


def _smoothed(points: Iterable[Point]) -> Iterable[Point]:
    smoothed = Smoothed()
    for step, loss in points:
        smoothed.add(loss)
        yield step, smoothed.value or 0.0


def _draw_stages(draw: Any, metrics: Sequence[Mapping[str, Any]], place: Any) -> None:
    before = None
    for line in metrics:
        if line.get("stage") != before:
            before = line["stage"]
            x = place((line["step"] - 1, 0.0))[0]
            draw.line([(x, _TOP), (x, _HEIGHT - _BOTTOM)], fill=_GRID)
            draw.text((x + 4, _TOP - 10), str(before), fill=_TEXT, anchor="ls")
