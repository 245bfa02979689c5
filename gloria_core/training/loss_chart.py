"""Lines of metrics enter, a picture of the loss leaves: raw, smoothed, held-out, and where each stage begins."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .progress import SMOOTHING

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 480, 64, 32, 24
_BACKGROUND, _GRID, _TEXT = (24, 26, 30), (52, 56, 64), (200, 205, 212)
_RAW, _SMOOTH, _HELD_OUT = (70, 92, 120), (96, 175, 255), (255, 170, 64)
_NUM_GRID_LINES = 4

Point = tuple[int, float]


def draw_loss_chart(metrics: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]] = ()) -> "Image":
    """RGB picture of 960 x 480 pixels.

    Args:
        metrics: lines of metrics.jsonl.
        validation: lines of validation.jsonl.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(image)
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
        x = _LEFT + (_WIDTH - _LEFT - 12) * step / max(last, 1)
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(loss / top, 1))

    for idx in range(_NUM_GRID_LINES + 1):
        value = top * idx / _NUM_GRID_LINES
        y = place((0, value))[1]
        draw.line([(_LEFT, y), (_WIDTH - 12, y)], fill=_GRID)
        draw.text((8, y - 6), f"{value:.4g}", fill=_TEXT)
    _draw_stages(draw, metrics, place)
    for points, color, width in ((raw, _RAW, 1), (smooth, _SMOOTH, 2), (held_out, _HELD_OUT, 2)):
        if len(points) > 1:
            draw.line([place(point) for point in points], fill=color, width=width)
        for point in points if len(points) == 1 or color == _HELD_OUT else ():
            x, y = place(point)
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color)
    draw.text((_LEFT, _HEIGHT - 22), f"step {last}", fill=_TEXT)
    for idx, (text, color) in enumerate((("loss", _RAW), ("smoothed", _SMOOTH), ("held-out", _HELD_OUT))):
        draw.text((_WIDTH - 260 + 84 * idx, _HEIGHT - 22), text, fill=color)
    return image


def _smoothed(points: Iterable[Point]) -> Iterable[Point]:
    mean: float | None = None
    for step, loss in points:
        mean = loss if mean is None else SMOOTHING * mean + (1 - SMOOTHING) * loss
        yield step, mean


def _draw_stages(draw: Any, metrics: Sequence[Mapping[str, Any]], place: Any) -> None:
    before = None
    for line in metrics:
        if line.get("stage") != before:
            before = line["stage"]
            x = place((line["step"] - 1, 0.0))[0]
            draw.line([(x, _TOP), (x, _HEIGHT - _BOTTOM)], fill=_GRID)
            draw.text((x + 4, 6), str(before), fill=_TEXT)
