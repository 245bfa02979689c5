"""An anchor image enters, what may be wrong with it leaves: too small, badly cropped, blurred, in two slots.

These are warnings, not errors: a style may be soft on purpose. What cannot be used, `anchors.check_image` refuses.
Shape letters: H height, W width in pixels, C color channels (3, or 4 with alpha); `luma` is brightness, 0 to 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F

from .anchors import AnchorSizes, resize_for_tokens

# Width / height within which a crop shows what its kind is for: a scene for a video of any orientation, a standing to
# sitting body, a head with hair.
ASPECTS = {"global": (0.5, 2.0), "viewpoint": (0.25, 1.34), "expression": (0.6, 1.6)}
# The paper's smallest videos are 480 pixels high; a smaller scene is enlarged to that.
_VIDEO_SIDE = 480
_SIZES = AnchorSizes(_VIDEO_SIDE, _VIDEO_SIDE)
MAX_AREAS = {
    "global": _SIZES.video_height * _SIZES.video_width,
    "viewpoint": _SIZES.viewpoint_max_area,
    "expression": _SIZES.expression_max_area,
}
# Below this part of the pixels its kind may take, an anchor gives so few tokens that details are lost.
SMALL_PART = 0.25
# Standard deviation of the blur, in pixels of the size that reaches the model. Sharp photographs measure 0.3 to 0.6.
BLURRED_SIGMA = 1.5
# Standard deviation of the brightness below which a picture shows nothing.
EMPTY_CONTRAST = 0.01
# Correlation of details above which two pictures are one, however scaled, compressed, brightened or mirrored. Copies
# measure 0.99; two expressions of a drawn face in one pose, which is as close as different pictures come, 0.91.
SAME_CORRELATION = 0.97
_SIGNATURE_SIDE = 64
_PROBE_SIGMA = 1.0
_LUMA = (0.299, 0.587, 0.114)
_MULTIPLE = 16

TEXTS = {
    "small": "Small: {width}x{height} pixels, at least {min_side} on the short side show more detail.",
    "wide": "Wide for its slot: crop it to the {subject}.",
    "narrow": "Narrow for its slot: crop it to the {subject}.",
    "blurred": "Blurred: edges are {pixels} pixels soft at the size the model sees. Use a sharper picture.",
    "empty": "Shows almost nothing: one even color.",
    "same": "The same picture as {other}.",
    "mirrored": "The same picture as {other}, mirrored: what is on one side of the character would be on both.",
}
_SUBJECTS = {"global": "scene", "viewpoint": "whole body", "expression": "head with hair"}


@dataclass(frozen=True)
class Problem:
    """One warning: a key of `TEXTS` and what stands in its gaps."""

    code: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The warning in English."""
        return TEXTS[self.code].format(**self.values)


def check_anchor_image(image_HWC: torch.Tensor, kind: str) -> tuple[Problem, ...]:
    """What may be wrong with one image as an anchor of `kind`; the image has passed `anchors.check_image`."""
    height, width = image_HWC.shape[:2]
    problems = []
    if height * width < SMALL_PART * MAX_AREAS[kind]:
        min_side = math.ceil(math.sqrt(SMALL_PART * MAX_AREAS[kind]))
        problems.append(Problem("small", {"width": width, "height": height, "min_side": min_side}))
    narrowest, widest = ASPECTS[kind]
    if not narrowest <= width / height <= widest:
        problems.append(Problem("wide" if width / height > widest else "narrow", {"subject": _SUBJECTS[kind]}))
    luma_HW = _luma(resize_for_tokens(image_HWC, _MULTIPLE, MAX_AREAS[kind]))
    if luma_HW.std() < EMPTY_CONTRAST:
        return (*problems, Problem("empty"))
    sigma = blur_sigma(luma_HW)
    if sigma > BLURRED_SIGMA:
        problems.append(Problem("blurred", {"pixels": round(sigma, 1)}))
    return tuple(problems)


def blur_sigma(luma_HW: torch.Tensor) -> float:
    """Standard deviation, in pixels, of the Gaussian by which the strongest edges of a picture are blurred.

    The squared gradient of a step edge blurred by s sums to something proportional to 1/s, and blurring by b more
    makes that 1/sqrt(s^2 + b^2). The ratio r of the two sums gives s = b r / sqrt(1 - r^2), without knowing how many
    edges there are or how high.
    """
    ratio = _gradient_energy(_blurred(luma_HW, _PROBE_SIGMA)) / _gradient_energy(luma_HW)
    return math.inf if ratio >= 1 else _PROBE_SIGMA * ratio / math.sqrt(1 - ratio**2)


def signature(image_HWC: torch.Tensor) -> torch.Tensor:
    """The details of a picture at a small fixed size, with mean 0 and length 1; zeros where there are none."""
    luma_HW = _luma(image_HWC)
    side = (_SIGNATURE_SIDE, _SIGNATURE_SIDE)
    luma_HW = F.interpolate(luma_HW[None, None], size=side, mode="bilinear", antialias=True)[0, 0]
    details_HW = luma_HW - _blurred(luma_HW, _SIGNATURE_SIDE / 16)
    details_HW = details_HW - details_HW.mean()
    length = details_HW.norm()
    return details_HW / length if length > EMPTY_CONTRAST else torch.zeros_like(details_HW)


def find_duplicates(signatures: Mapping[str, torch.Tensor]) -> dict[str, tuple[Problem, ...]]:
    """For each slot, the other slots that hold the same picture."""
    found: dict[str, tuple[Problem, ...]] = {}
    for first, second in combinations(signatures, 2):
        for code, other in (("same", signatures[second]), ("mirrored", signatures[second].flip(-1))):
            if (signatures[first] * other).sum() > SAME_CORRELATION:
                for slot, twin in ((first, second), (second, first)):
                    found[slot] = (*found.get(slot, ()), Problem(code, {"other": twin}))
                break
    return found


def _luma(image_HWC: torch.Tensor) -> torch.Tensor:
    return image_HWC[..., :3].to(torch.float32) @ torch.tensor(_LUMA)


def _gradient_energy(luma_HW: torch.Tensor) -> float:
    return (luma_HW.diff(dim=0).square().sum() + luma_HW.diff(dim=1).square().sum()).item()


def _blurred(luma_HW: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(luma_HW[None, None], (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[0, 0]
