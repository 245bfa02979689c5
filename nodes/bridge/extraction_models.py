"""What the adapters of ComfyUI's models share: pictures as IMAGE, and names that change with the weights."""

from collections.abc import Callable

import comfyui_version
import torch
from torch import Tensor

from ...gloria_core.media.decode_latents import fingerprint_weights

# Called with the name of the work before every picture of it; raises when the user pressed Cancel.
OnPicture = Callable[[str], None]
_DIGITS = 12
# The oldest release on which RT-DETR, SAM 3 and MediaPipe's faces were tried; 0.16 has none of them.
_DETECTORS_SINCE = (0, 24)


def detectors_note() -> str:
    """What an error that asks for a detector adds on a ComfyUI that has none."""
    installed = comfyui_version.__version__
    if tuple(int(number) for number in installed.split(".")[:2]) >= _DETECTORS_SINCE:
        return ""
    needed = ".".join(map(str, _DETECTORS_SINCE))
    return f" This is ComfyUI {installed}: RT-DETR, SAM 3 and MediaPipe's faces need {needed} or newer."


def as_image(picture_HWC: Tensor) -> Tensor:
    """A uint8 picture as an IMAGE of one."""
    return picture_HWC[None].float() / 255


def weights_name(kind: str, network: torch.nn.Module, *settings: object) -> str:
    """Part of what results depend on: equal names stand for equal weights and settings."""
    return " ".join([kind, fingerprint_weights(network)[:_DIGITS], *map(str, settings)])
