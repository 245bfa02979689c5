"""A character enters, its card leaves: the scene, and every view and expression with its label, as a picture.

The card stands beside the file, where ComfyUI's browser of models looks for it; the thumbnail goes into the file.
"""

import math
from typing import Any

import torch

from ..conditioning.anchors import Anchor
from .character import Character

_SIDE, _MARGIN, _HEADER = 480, 24, 76
_CAPTION, _GAP = 22, 10
_THUMBNAIL_SIDE = 256
_MOST_SIGNS = 300  # more than fit; a licence may be given in full
_GROUND, _FIELD, _INK, _PALE = (24, 24, 27), (39, 39, 42), (244, 244, 245), (161, 161, 170)


def draw_card(character: Character) -> Any:
    """PIL image: the scene large, the other pictures in a square of the same size beside it."""
    from PIL import Image, ImageDraw

    main, others = _main_and_others(character)
    width = 2 * _MARGIN + _SIDE + (_MARGIN + _SIDE if others else 0)
    card = Image.new("RGB", (width, _HEADER + _SIDE + _MARGIN), _GROUND)
    draw = ImageDraw.Draw(card)
    _write_header(draw, character, width - 2 * _MARGIN)
    _place(card, draw, main, (_MARGIN, _HEADER, _SIDE))
    # A square of as few rows as hold all of them.
    rows = math.ceil(math.sqrt(len(others)))
    for idx, anchor in enumerate(others):
        cell = (_SIDE - (rows - 1) * _GAP) // rows
        left, top = idx % rows * (cell + _GAP), idx // rows * (cell + _GAP)
        _place(card, draw, anchor, (2 * _MARGIN + _SIDE + left, _HEADER + top, cell))
    return card


def draw_thumbnail(character: Character) -> Any:
    """PIL image: the middle of the main picture, square."""
    from PIL import Image, ImageOps

    main, _ = _main_and_others(character)
    picture = _picture(main)
    square = ImageOps.fit(picture, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    ground = Image.new("RGB", square.size, _FIELD)
    ground.paste(square, mask=square if square.mode == "RGBA" else None)
    return ground


def _main_and_others(character: Character) -> tuple[Anchor, list[Anchor]]:
    """The scene if there is one, else the first picture; and the rest."""
    anchors = list(character.anchors.anchors)
    main = next((anchor for anchor in anchors if anchor.kind == "global"), anchors[0])
    return main, [anchor for anchor in anchors if anchor is not main]


def _picture(anchor: Anchor) -> Any:
    from PIL import Image

    pixels_HWC = (anchor.image_HWC.detach().to("cpu", torch.float32).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels_HWC.contiguous().numpy())


def _place(card: Any, draw: Any, anchor: Anchor, square: tuple[int, int, int]) -> None:
    """The whole picture, as large as fits into left, top, side, with its label below; the scene needs none."""
    from PIL import Image, ImageOps

    left, top, side = square
    height = side - _CAPTION if anchor.kind != "global" else side
    picture = ImageOps.contain(_picture(anchor), (side, height))
    field = Image.new("RGB", (side, height), _FIELD)
    corner = ((side - picture.width) // 2, (height - picture.height) // 2)
    field.paste(picture, corner, picture if picture.mode == "RGBA" else None)
    card.paste(field, (left, top))
    if height < side:
        middle = (left + side // 2, top + height + _CAPTION // 2)
        draw.text(middle, anchor.label, fill=_INK, font=_font(14), anchor="mm")


def _write_header(draw: Any, character: Character, width: int) -> None:
    profile = character.profile
    draw.text((_MARGIN, 14), _line(draw, profile.name, 26, width), fill=_INK, font=_font(26))
    says = "  \u00b7  ".join(text for text in (profile.author, profile.license) if text)
    draw.text((_MARGIN, 48), _line(draw, says, 14, width), fill=_PALE, font=_font(14))


def _line(draw: Any, text: str, size: int, width: int) -> str:
    """One line that fits, in the letters that the built-in font has; empty where it has too few of them."""
    text = " ".join(text.split())[:_MOST_SIGNS]
    if not all(ord(sign) < 256 or sign == "\u2026" for sign in text):
        return ""
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(text + "\u2026", font=_font(size)) > width:
        text = text[:-1]
    return text + "\u2026"


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
