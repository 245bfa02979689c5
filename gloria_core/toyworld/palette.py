"""Colors of the toy world: the eight that marks and cheeks can have, and sRGB to Lab for color differences."""

import colorsys

import numpy as np

Color = tuple[float, ...]
"""sRGB, 0 to 1."""

MARK_COLORS: tuple[Color, ...] = (
    (0.88, 0.12, 0.14),
    (0.10, 0.62, 0.24),
    (0.12, 0.26, 0.88),
    (0.99, 0.85, 0.12),
    (0.80, 0.20, 0.80),
    (0.16, 0.80, 0.90),
    (1.00, 1.00, 1.00),
    (0.10, 0.09, 0.11),
)
MARK_COLOR_NAMES = ("red", "green", "blue", "yellow", "purple", "cyan", "white", "black")

# sRGB to CIE XYZ and the white point D65.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def from_hsv(hue: float, saturation: float, value: float) -> Color:
    """sRGB of a hue (0 to 1 around the circle), saturation and value."""
    return colorsys.hsv_to_rgb(float(hue), float(saturation), float(value))


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB colors [..., 3]; a distance of 2 is just visible."""
    rgb = np.clip(rgb, 0, 1)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
