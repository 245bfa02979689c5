"""Content anchors: labelled images of one character, checked when made, then fitted to whole tokens undistorted.

Shape letters: H height, W width, C channels (of a picture 3, or 4 with alpha).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import AnchorError
from ..shapes import LatentSize, pixel_multiple

KINDS = ("global", "viewpoint", "expression")
# A label's place in its tuple is its RoPE sub-offset (equation 1 of the paper): never reorder.
VIEWPOINTS = ("front", "back", "left", "right")
EXPRESSIONS = ("surprise", "angry", "disgust", "fear", "contempt", "sad", "neutral", "happy")
LABELS = {"global": ("global",), "viewpoint": VIEWPOINTS, "expression": EXPRESSIONS}

# One image for each of the paper's 13 slots plus a few second takes. Every anchor is attended to by every token of
# every chunk in every step, so an unbounded pile of images would make sampling slow without anybody noticing why.
MAX_ANCHORS = 16
MIN_SIDE = 32
MAX_SIDE = 16384
# Bicubic upscaling overshoots hard edges by up to a fifth; anything further out is another value range.
VALUE_TOLERANCE = 0.25
# Transparent pixels become the gray that Wan's image-to-video models read as "nothing given here".
TRANSPARENT_GRAY = 0.5


@dataclass(frozen=True)
class Origin:
    """Where a picture was taken from, as far as that is known."""

    source: str = ""
    """Name of the video or picture, without folders."""
    time: float | None = None
    """Seconds from the start of the video."""


@dataclass(frozen=True, eq=False)
class AnchorLatent:
    """What a VAE made of the fitted picture; `vae` is `fingerprint_weights` of that VAE."""

    vae: str
    latent_1C1HW: torch.Tensor


@dataclass(frozen=True, eq=False)
class Anchor:
    """One image of the character and what it shows.

    Args:
        kind: one of `KINDS`.
        label: one of `LABELS[kind]`.
        image_HWC: floating point, 3 channels or 4 with straight (not premultiplied) alpha, values 0 to 1.
        latent: saves encoding the picture again, with the VAE and at the size that it was made for.
    """

    kind: str
    label: str
    image_HWC: torch.Tensor
    origin: Origin = Origin()
    latent: AnchorLatent | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AnchorError(f"Unknown kind of anchor {self.kind!r}: expected one of {', '.join(KINDS)}.")
        if self.label not in LABELS[self.kind]:
            expected = ", ".join(LABELS[self.kind])
            raise AnchorError(f"Unknown label {self.label!r} for a {self.kind} anchor: expected one of {expected}.")
        check_image(self.image_HWC, f"the {self.label} anchor")

    @property
    def slot(self) -> tuple[str, str]:
        """Kind and label, which together fix the RoPE offset."""
        return self.kind, self.label


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """All anchors of one character; several images of one label share that label's offset."""

    anchors: tuple[Anchor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple(self.anchors))
        if not self.anchors:
            raise AnchorError("There are no anchors: give at least one image of the character.")
        if len(self.anchors) > MAX_ANCHORS:
            raise AnchorError(
                f"{len(self.anchors)} anchors were given, at most {MAX_ANCHORS} can be used: "
                f"keep one good image for each view and expression."
            )
        num_global = len(self.of_kind("global"))
        if num_global > 1:
            raise AnchorError(f"{num_global} global anchors were given, expected 1: the video starts from that image.")

    def of_kind(self, kind: str) -> tuple[Anchor, ...]:
        """The anchors of one of `KINDS`, in their order."""
        if kind not in KINDS:
            raise AnchorError(f"Unknown kind of anchor {kind!r}: expected one of {', '.join(KINDS)}.")
        return tuple(anchor for anchor in self.anchors if anchor.kind == kind)

    def slots(self) -> tuple[tuple[str, str], ...]:
        """`(kind, label)` of every anchor, in order."""
        return tuple(anchor.slot for anchor in self.anchors)


@dataclass(frozen=True)
class AnchorSizes:
    """Pixels that each kind of anchor may take: the global one matches the video, crops have a budget."""

    video_height: int
    video_width: int
    viewpoint_max_area: int = 512 * 512
    expression_max_area: int = 256 * 256


def check_image(image_HWC: torch.Tensor, name: str) -> None:
    """Refuse what cannot be a picture of a character; `name` goes into the message."""
    if not isinstance(image_HWC, torch.Tensor):
        raise AnchorError(f"{name} is a {type(image_HWC).__name__}, expected an image tensor [height, width, 3].")
    if image_HWC.ndim != 3 or image_HWC.shape[-1] not in (3, 4):
        raise AnchorError(
            f"{name} has shape {list(image_HWC.shape)}, expected [height, width, 3] (or 4 with alpha). "
            f"Convert masks and single-channel images to RGB first."
        )
    height, width = image_HWC.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise AnchorError(
            f"{name} is {width}x{height} pixels, expected at least {MIN_SIDE}x{MIN_SIDE}: "
            f"use a larger picture in which the character can be recognized."
        )
    if max(height, width) > MAX_SIDE:
        raise AnchorError(
            f"{name} is {width}x{height} pixels, expected at most {MAX_SIDE} on a side: scale the picture down first."
        )
    if not image_HWC.is_floating_point():
        raise AnchorError(f"{name} holds {image_HWC.dtype} values, expected floating point values from 0 to 1.")
    lowest, highest = (value.item() for value in torch.aminmax(image_HWC))
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise AnchorError(f"{name} holds values that are not finite (NaN or infinity): check the node that made it.")
    if lowest < -VALUE_TOLERANCE or highest > 1 + VALUE_TOLERANCE:
        raise AnchorError(
            f"{name} holds values from {lowest:.3g} to {highest:.3g}, expected 0 to 1: rescale the image first."
        )


def resize_to_cover(image_HWC: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scale by one factor until `height` x `width` is covered, crop the center; float32 [height, width, 3]."""
    source_height, source_width = image_HWC.shape[:2]
    # Cropping the source first keeps a long strip from being enlarged as a whole only to be cut away.
    image_HWC = _crop_center(
        image_HWC,
        min(source_height, -(-height * source_width // width)),
        min(source_width, -(-width * source_height // height)),
    )
    box_height, box_width = image_HWC.shape[:2]
    scale = max(height / source_height, width / source_width)
    image_HWC = _as_rgb(image_HWC)
    if scale != 1:
        covering = (max(height, round(box_height * scale)), max(width, round(box_width * scale)))
        image_1CHW = image_HWC.movedim(-1, 0).unsqueeze(0)
        image_1CHW = F.interpolate(image_1CHW, size=covering, mode="bicubic", align_corners=False, antialias=True)
        image_HWC = image_1CHW[0].movedim(0, -1).clamp(0, 1)
    return _crop_center(image_HWC, height, width).contiguous()


def size_for_tokens(height: int, width: int, multiple: int, max_area: int) -> tuple[int, int]:
    """Height and width `resize_for_tokens` gives: multiples of `multiple` close to the aspect ratio of the source.

    Never larger than the source and never more than `max_area` pixels, with one exception: a side that would come out
    below `multiple` is set to it and the other side keeps the aspect ratio.
    """
    if max_area < 1:
        raise AnchorError(f"The largest area of an anchor is {max_area} pixels, expected at least 1.")
    scale = min(1.0, math.sqrt(max_area / (height * width)))
    scale = max(scale, multiple / min(height, width))
    # The nudge keeps a side that is an exact multiple from being floored to the next lower one.
    rows, columns = (max(1, math.floor(side * scale / multiple + 1e-9)) for side in (height, width))
    return rows * multiple, columns * multiple


def resize_for_tokens(image_HWC: torch.Tensor, multiple: int, max_area: int) -> torch.Tensor:
    """Image fitted to whole tokens: one scale for both axes, then fewer than `multiple` pixels cropped from one axis.

    Args:
        multiple: `shapes.pixel_multiple(channels)` of the VAE that will encode the image.
        max_area: pixel budget of the result.
    """
    return resize_to_cover(image_HWC, *size_for_tokens(*image_HWC.shape[:2], multiple, max_area))


def fitted_size(anchor: Anchor, sizes: AnchorSizes, channels: int) -> tuple[int, int]:
    """Height and width of `fit_anchor`'s result for a VAE with `channels` latent channels."""
    if anchor.kind == "global":
        return sizes.video_height, sizes.video_width
    max_area = sizes.viewpoint_max_area if anchor.kind == "viewpoint" else sizes.expression_max_area
    return size_for_tokens(*anchor.image_HWC.shape[:2], pixel_multiple(channels), max_area)


def fit_anchor(anchor: Anchor, sizes: AnchorSizes, channels: int) -> torch.Tensor:
    """The anchor's image as the VAE takes it: float32 [height, width, 3]."""
    return resize_to_cover(anchor.image_HWC, *fitted_size(anchor, sizes, channels))


def token_count(anchor: Anchor, sizes: AnchorSizes, channels: int) -> int:
    """Tokens that the anchor adds to every forward pass."""
    return LatentSize.from_pixels(channels, 1, *fitted_size(anchor, sizes, channels)).grid.count


def _crop_center(image_HWC: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (image_HWC.shape[0] - height) // 2, (image_HWC.shape[1] - width) // 2
    return image_HWC[top : top + height, left : left + width]


def _as_rgb(image_HWC: torch.Tensor) -> torch.Tensor:
    image_HWC = image_HWC.to("cpu", torch.float32).clamp(0, 1)
    if image_HWC.shape[-1] == 3:
        return image_HWC
    rgb_HWC, alpha_HWC = image_HWC[..., :3], image_HWC[..., 3:]
    return rgb_HWC * alpha_HWC + TRANSPARENT_GRAY * (1 - alpha_HWC)
