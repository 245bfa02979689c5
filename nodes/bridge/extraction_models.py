"""What the adapters of ComfyUI's models share: pictures as IMAGE, and names that change with the weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...gloria_core.media.decode_latents import fingerprint_weights

# Called with the name of the work before every picture of it; raises when the user pressed Cancel.
OnPicture = Callable[[str], None]
_DIGITS = 12


def as_image(picture_HWC: Tensor) -> Tensor:
    """A uint8 picture as an IMAGE of one."""
    return picture_HWC[None].float() / 255


def weights_name(kind: str, network: torch.nn.Module, *settings: object) -> str:
    """Part of what results depend on: equal names stand for equal weights and settings."""
    return " ".join([kind, fingerprint_weights(network)[:_DIGITS], *map(str, settings)])
