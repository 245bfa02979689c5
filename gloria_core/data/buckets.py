"""A source's size and a budget of pixels enter, the size its clips are cropped to leaves."""

import math
import re

from ..errors import DatasetError

SIZES = {"480p": 832 * 480, "720p": 1280 * 720, "704p": 1280 * 704}
_EXPLICIT = re.compile(r"(\d{2,5})x(\d{2,5})")


def bucket_size(height: int, width: int, size: str, multiple: int) -> tuple[int, int]:
    """Height and width in multiples of `multiple`.

    Args:
        size: a name of `SIZES` keeps the source's aspect ratio and about that many pixels (never more than the source
            has); `WIDTHxHEIGHT` is taken as it is.

    Raises:
        DatasetError: An unknown size, or one that is no multiple.
    """
    explicit = _EXPLICIT.fullmatch(size)
    if explicit:
        width, height = int(explicit[1]), int(explicit[2])
        if width % multiple or height % multiple:
            raise DatasetError(f"The size {size} is no multiple of {multiple} pixels on both sides.")
        return height, width
    if size not in SIZES:
        raise DatasetError(f"Unknown size {size!r}: expected one of {', '.join(SIZES)}, or WIDTHxHEIGHT.")
    scale = min(1.0, math.sqrt(SIZES[size] / (height * width)))
    rows, columns = (max(1, round(side * scale / multiple)) for side in (height, width))
    return rows * multiple, columns * multiple
