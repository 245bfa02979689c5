"""An image file enters, float pixels as `Anchor` takes them leave: upright, in RGB, with alpha where the file has it.

Shape letters: H height, W width in pixels, C color channels (3, or 4 with alpha).
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import AnchorError

# PIL knows some forty formats; these are what cameras, phones and ComfyUI write.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# A phone's largest picture; a file of a few bytes may claim to be far larger.
MAX_PIXELS = 200_000_000
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_anchor_image(path: Path, name: str) -> torch.Tensor:
    """[H, W, 3] or [H, W, 4], float32, 0 to 1.

    Args:
        name: what the user calls the file, for messages.
    """
    from PIL import Image, ImageOps  # not needed where images come as tensors

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise AnchorError(f"'{name}' is {image.width}x{image.height} pixels: scale the picture down first.")
            if image.mode in _DEEP_MODES:
                raise AnchorError(f"'{name}' has more than 8 bits per channel: save it as an 8-bit RGB picture.")
            upright = ImageOps.exif_transpose(image)
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            pixels_HWC = torch.from_numpy(np.array(upright.convert(mode)))
    except AnchorError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnchorError(
            f"'{name}' is not a picture that can be read ({error}). Expected PNG, JPEG, WebP, BMP, GIF or TIFF."
        ) from error
    return pixels_HWC.to(torch.float32) / 255
