"""A film of the demo model enters, its pictures for the documentation leave: a contact sheet and an animation.

    python -m gloria_core.demo.film_sheet film.mp4 docs/images/demo_film

demo_film.jpg holds frames at equal distances with their times, demo_film.webp the seconds that --animate names.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw

logger = logging.getLogger(__name__)

_COLUMNS, _ROWS = 10, 6
_SHEET_SIDE, _ANIMATED_SIDE, _LINE = 112, 192, 14
_SHEET_QUALITY, _ANIMATED_QUALITY = 88, 70


def read_frames(film: Path) -> tuple[list[Image.Image], float]:
    """All pictures of a film and their rate."""
    with av.open(str(film)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [frame.to_image() for frame in container.decode(video=0)], rate


def contact_sheet(frames: Sequence[Image.Image], rate: float) -> Image.Image:
    """Frames at equal distances, the first and the last among them, each over its time."""
    num = min(_COLUMNS * _ROWS, len(frames))
    chosen = [round(place * (len(frames) - 1) / max(1, num - 1)) for place in range(num)]
    sheet = Image.new("RGB", (_COLUMNS * _SHEET_SIDE, -(-num // _COLUMNS) * (_SHEET_SIDE + _LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, idx in enumerate(chosen):
        left, top = place % _COLUMNS * _SHEET_SIDE, place // _COLUMNS * (_SHEET_SIDE + _LINE)
        sheet.paste(_enlarged(frames[idx], _SHEET_SIDE), (left, top))
        draw.text((left + 4, top + _SHEET_SIDE + 1), f"{idx / rate:.1f} s", fill="black")
    return sheet


def _enlarged(frame: Image.Image, side: int) -> Image.Image:
    return frame.resize((side, side), Image.Resampling.BICUBIC)


def write_pictures(film: Path, target: Path, animated: tuple[float, float]) -> list[Path]:
    """Write `target`.jpg and `target`.webp; `animated` is where the animation begins and ends, in seconds."""
    frames, rate = read_frames(film)
    sheet, moving = target.with_suffix(".jpg"), target.with_suffix(".webp")
    contact_sheet(frames, rate).save(sheet, quality=_SHEET_QUALITY)
    first, *others = [
        _enlarged(frame, _ANIMATED_SIDE) for frame in frames[round(animated[0] * rate) : round(animated[1] * rate)]
    ]
    first.save(
        moving, save_all=True, append_images=others, duration=round(1000 / rate), loop=0, quality=_ANIMATED_QUALITY
    )
    return [sheet, moving]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.demo.film_sheet", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("film", type=Path)
    parser.add_argument("target", type=Path, help="name of the pictures without an ending")
    parser.add_argument("--animate", type=float, nargs=2, default=(0.0, 20.0), metavar=("FROM", "TO"), help="seconds")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for path in write_pictures(options.film, options.target, tuple(options.animate)):
        logger.info("wrote %s, %.0f kB", path, path.stat().st_size / 1e3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
