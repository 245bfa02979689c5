"""A stock RT-DETR MODEL enters, who is in a picture leaves."""

from typing import Any

from ...gloria_core.errors import CheckpointError
from ...gloria_core.extraction.backends import Box, Moment
from .extraction_models import as_image, detectors_note, weights_name

NETWORK = "RTv4"
MIN_SCORE = 0.5
_MOST_PEOPLE = 100


class RtDetrPeople:
    """ComfyUI's detector, by its own node."""

    def __init__(self, model: Any) -> None:
        network = type(model.model.diffusion_model).__name__
        if network != NETWORK:
            raise CheckpointError(
                f"The model at person_detector ({network}) is no RT-DETR v4: load one with Load Diffusion Model."
                f"{detectors_note()}"
            )
        self._model = model
        self.name = weights_name("rt-detr", model.model.diffusion_model, MIN_SCORE)

    def setup(self) -> None:
        """ComfyUI loads the model when it is used."""

    def people(self, moment: Moment) -> list[Box]:
        """A box around everybody, the surest first."""
        from comfy_extras.nodes_rtdetr import RTDETR_detect

        image_BHWC = as_image(moment.picture_HWC)
        (found,) = RTDETR_detect.execute(self._model, image_BHWC, MIN_SCORE, "person", _MOST_PEOPLE).args[0]
        return [Box(each["x"], each["y"], each["x"] + each["width"], each["y"] + each["height"]) for each in found]
