"""A stock SAM 3 MODEL and a text prompt for people enter, who is in a picture leaves."""

from typing import Any

import comfy.utils
import torch
from comfy import model_management

from ...gloria_core.errors import DatasetError
from ...gloria_core.extraction.backends import Box, Moment
from .extraction_models import as_image, weights_name
from .fingerprint import prompt_fingerprint

MIN_SCORE = 0.5
# SAM 3 knows this side only.
_SIDE = 1008
_DIGITS = 8


class Sam3People:
    """ComfyUI's detector of whatever a text names. All that it finds counts, while its node keeps one thing by default.

    Args:
        prompt: CONDITIONING of its own text encoder, for example of "person".
    """

    def __init__(self, model: Any, prompt: Any) -> None:
        if len(prompt) != 1 or "sam3_multi_cond" in prompt[0][1]:
            raise DatasetError(
                "The prompt for SAM 3 names several things or a number of them. Write one word into the CLIP Text "
                "Encode node: person."
            )
        self._model, self._prompt = model, prompt
        self.name = weights_name("sam3", model.model.diffusion_model, prompt_fingerprint(prompt)[:_DIGITS], MIN_SCORE)

    def setup(self) -> None:
        """ComfyUI loads the model when it is used."""

    def people(self, moment: Moment) -> list[Box]:
        """A box around everybody."""
        model_management.load_model_gpu(self._model)
        device, dtype = model_management.get_torch_device(), self._model.model.get_dtype()
        image_BCHW = as_image(moment.picture_HWC).movedim(-1, 1)
        image_BCHW = comfy.utils.common_upscale(image_BCHW, _SIDE, _SIDE, "bilinear", crop="disabled")
        (embedding_BLD, options), = self._prompt
        mask_BL = options.get("attention_mask")
        if mask_BL is None:
            mask_BL = torch.ones(embedding_BLD.shape[:2], dtype=torch.int64)
        found = self._model.model.diffusion_model(
            image_BCHW.to(device, dtype),
            text_embeddings=embedding_BLD.to(device, dtype),
            text_mask=mask_BL.to(device),
            threshold=MIN_SCORE,
            orig_size=tuple(moment.picture_HWC.shape[:2]),
        )
        is_sure_Q = found["scores"][0].sigmoid() > MIN_SCORE
        return [Box(*box) for box in found["boxes"][0][is_sure_Q].float().cpu().tolist()]
