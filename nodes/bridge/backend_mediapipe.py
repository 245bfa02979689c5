"""A stock MediaPipe face model enters, the faces of a picture and how they are turned leave."""

from typing import Any

import numpy as np
import torch

from ...gloria_core.errors import CheckpointError
from ...gloria_core.extraction.backends import Box, Face, Moment
from ...gloria_core.extraction.viewpoint import LEVEL_CAMERA_UP, facing
from .extraction_models import detectors_note, weights_name

MIN_SCORE = 0.5
# For faces near to the camera and far from it; whichever finds more faces is believed, as in ComfyUI's node.
_VARIANTS = ("short", "full")
_ALL_FACES = 0
# MediaPipe's camera has y up and looks along -z.
_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


class MediaPipeFaces:
    """ComfyUI's port of MediaPipe's face landmarker."""

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "detect_batch"):
            raise CheckpointError(
                f"The model at face_detector ({type(model).__name__}) is not ComfyUI's own: use Load Face Detection "
                f"Model.{detectors_note()}"
            )
        self._model = model
        networks = torch.nn.ModuleList(model.models[variant] for variant in _VARIANTS)
        self.name = weights_name("mediapipe", networks, MIN_SCORE)

    def setup(self) -> None:
        """ComfyUI loads the model when it is used."""

    def find(self, moment: Moment) -> list[Face]:
        """All faces of a picture."""
        from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection

        height, width = moment.picture_HWC.shape[:2]
        picture = moment.picture_HWC.contiguous().numpy()
        found = max((self._detected(picture, variant) for variant in _VARIANTS), key=len)
        faces = []
        for each in found:
            matrix_44 = transformation_matrix_from_detection(each, width, height, self._model.canonical_data)
            faces.append(Face(Box(*each["bbox_xyxy"].tolist()), psi_of_matrix(matrix_44), float(each["score"])))
        return faces

    def _detected(self, picture: np.ndarray, variant: str) -> list[dict[str, Any]]:
        return self._model.detect_batch([picture], num_faces=_ALL_FACES, score_thresh=MIN_SCORE, variant=variant)[0]


def psi_of_matrix(matrix_44: np.ndarray) -> float:
    """How a face is turned to the line of sight, from the pose that MediaPipe gives it."""
    pose_33 = _TO_OPENCV @ matrix_44[:3, :3].astype(np.float64)
    position_13 = (_TO_OPENCV @ matrix_44[:3, 3].astype(np.float64))[None]
    up_13 = LEVEL_CAMERA_UP[None]
    return float(facing(pose_33[:, 2][None], pose_33[:, 1][None], up_13, position_13).psi_T[0])
