"""Anchor images from files. Run: python -m pytest tests/core/test_read_anchor_image.py"""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gloria_core.conditioning.read_anchor_image import read_anchor_image
from gloria_core.errors import AnchorError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def save(path, pixels=PIXELS, mode=None, **options):
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def test_pixels_come_exactly_as_the_file_has_them(tmp_path):
    image_HWC = read_anchor_image(save(tmp_path / "a.png"), "a.png")
    assert image_HWC.dtype == torch.float32
    assert torch.equal((image_HWC * 255).round().to(torch.uint8), torch.from_numpy(PIXELS))


def test_alpha_is_kept_and_gray_becomes_rgb(tmp_path):
    rgba = np.dstack([PIXELS, PIXELS[..., 0]])
    assert read_anchor_image(save(tmp_path / "a.png", rgba), "a").shape == (40, 60, 4)
    gray_HWC = read_anchor_image(save(tmp_path / "b.png", PIXELS[..., 0]), "b")
    assert gray_HWC.shape == (40, 60, 3)
    assert torch.equal(gray_HWC[..., 0], gray_HWC[..., 2])


def test_a_photo_held_upright_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: what phones write
    plain = read_anchor_image(save(tmp_path / "a.png"), "a")
    turned = read_anchor_image(save(tmp_path / "b.png", exif=exif), "b")
    assert torch.equal(turned, torch.rot90(plain, -1))


def huge_png(side):
    """A valid header of a PNG that claims side x side pixels, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def eps():
    packed = io.BytesIO()
    Image.fromarray(PIXELS).save(packed, "EPS")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (huge_png(14_200), "14200x14200 pixels|not a picture"),
        (huge_png(100_000), "pixels|not a picture"),
        (eps(), "not a picture"),  # PIL would start Ghostscript for it
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(AnchorError, match=message) as caught:
        read_anchor_image(path, "her.png")
    assert "'her.png'" in str(caught.value)


def test_a_cut_file_and_a_deep_one_are_refused(tmp_path):
    whole = save(tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnchorError, match="not a picture"):
        read_anchor_image(tmp_path / "a.png", "a.png")
    save(tmp_path / "b.png", PIXELS[..., 0].astype(np.uint16) * 257)
    with pytest.raises(AnchorError, match="more than 8 bits"):
        read_anchor_image(tmp_path / "b.png", "b.png")
