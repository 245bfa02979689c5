"""A stock CLIP_VISION enters, what crops look like leaves, so that anchors of one label can differ."""

from typing import Any

from torch import Tensor

from .extraction_models import as_image, weights_name


class ClipVisionLooks:
    """Any image encoder of ComfyUI: CLIP, SigLIP, DINO."""

    def __init__(self, clip_vision: Any) -> None:
        self._encoder = clip_vision
        self.name = weights_name("clip vision", clip_vision.model)

    def setup(self) -> None:
        """ComfyUI loads the model when it is used."""

    def embed(self, crop_HWC: Tensor) -> Tensor:
        """A direction [D]: what looks alike points the same way."""
        embedding_BD = self._encoder.encode_image(as_image(crop_HWC)).image_embeds.float().cpu()
        return embedding_BD[0] / embedding_BD[0].norm().clamp(min=1e-9)
