"""Files of an anchor board enter, thumbnails and warnings leave: what the board asks. Nothing is changed."""

import io
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...gloria_core.conditioning.anchors import check_image
from ...gloria_core.conditioning.board import KIND_OF_SLOT, check_board
from ...gloria_core.conditioning.check_anchor_image import Problem, check_anchor_image, find_duplicates, signature
from ...gloria_core.conditioning.read_anchor_image import read_anchor_image
from ...gloria_core.errors import AnchorError
from .paths import MissingFileError, annotated_file
from .routes import Picture, get, post

# Large enough to be sharp on a board that is zoomed in on.
_THUMBNAIL_SIDE = 384
_THUMBNAIL_QUALITY = 80


@dataclass(frozen=True, eq=False)
class _Look:
    """What is kept of a file once it was decoded; pixels are not."""

    width: int
    height: int
    problems: dict[str, tuple[Problem, ...]]
    signature_HW: torch.Tensor
    thumbnail: bytes


def _thumbnail(values: dict[str, Any]) -> Picture:
    try:
        return Picture(_look(str(values.get("name", ""))).thumbnail, "image/webp")
    except AnchorError:
        raise MissingFileError from None


def _check(values: dict[str, Any]) -> dict[str, Any]:
    """Slot -> size and problems; `error` in place of these where a file cannot be used at all."""
    looks, report = {}, {}
    for slot, name in check_board(values.get("anchors")).items():
        try:
            looks[slot] = _look(name)
        except (AnchorError, MissingFileError) as error:
            report[slot] = {"error": str(error), "missing": isinstance(error, MissingFileError)}
    duplicates = find_duplicates({slot: look.signature_HW for slot, look in looks.items()})
    for slot, look in looks.items():
        problems = (*look.problems[KIND_OF_SLOT[slot]], *duplicates.get(slot, ()))
        texts = [{**asdict(problem), "text": problem.text} for problem in problems]
        report[slot] = {"width": look.width, "height": look.height, "problems": texts}
    return report


def _look(name: str) -> _Look:
    path = annotated_file(name)
    status = path.stat()
    return _look_at(path, status.st_mtime_ns, status.st_size, name)


@lru_cache(maxsize=256)
def _look_at(path: Path, _modified_ns: int, _num_bytes: int, name: str) -> _Look:
    """Decode once for thumbnail and check; a file that was written anew is another entry."""
    image_HWC = read_anchor_image(path, name)
    check_image(image_HWC, f"'{os.path.basename(name)}'")  # noqa: PTH119 - a name, not a path
    height, width = image_HWC.shape[:2]
    problems = {kind: check_anchor_image(image_HWC, kind) for kind in dict.fromkeys(KIND_OF_SLOT.values())}
    picture = Image.fromarray((image_HWC * 255).round().to(torch.uint8).numpy())
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=_THUMBNAIL_QUALITY)
    return _Look(width, height, problems, signature(image_HWC), packed.getvalue())


ANCHOR_ROUTES = (get("anchors/thumbnail", _thumbnail), post("anchors/check", _check))
