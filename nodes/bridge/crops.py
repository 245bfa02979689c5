"""Pictures and boxes, or a detector that finds them, enter; crops of one size leave."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...gloria_core.conditioning.anchors import resize_to_cover
from ...gloria_core.errors import AnchorError
from ...gloria_core.extraction.backends import Box, Moment
from ...gloria_core.extraction.choose import fitted_crop
from ...gloria_core.extraction.frames import crop_box
from ...gloria_core.media.encode_video import frames_to_bytes
from .backend_mediapipe import MediaPipeFaces
from .backend_rtdetr import RtDetrPeople
from .extraction_models import detectors_note

# Boxes of detectors by picture.
Boxes = list[list[Box]]


def boxes_of_faces(images_BHWC: Tensor, face_detector: Any | None) -> Boxes:
    """All faces of each picture."""
    if face_detector is None:
        raise AnchorError(f"Connect a face_detector, or bboxes of faces from a detection node.{detectors_note()}")
    faces = MediaPipeFaces(face_detector)
    return [[face.box for face in faces.find(moment)] for moment in _moments(images_BHWC)]


def boxes_of_people(images_BHWC: Tensor, person_detector: Any | None) -> Boxes:
    """All people of each picture."""
    if person_detector is None:
        raise AnchorError(
            f"Connect a person_detector (RT-DETR v4), or bboxes of people from a detection node.{detectors_note()}"
        )
    people = RtDetrPeople(person_detector)
    return [people.people(moment) for moment in _moments(images_BHWC)]


def boxes_of_link(bboxes: Any, num_pictures: int) -> Boxes:
    """BOUNDING_BOX in any of its forms: one box, boxes for all pictures, or a list of boxes for each.

    Raises:
        AnchorError: Lists for another number of pictures.
    """
    if isinstance(bboxes, dict):
        bboxes = [bboxes]
    if not bboxes or isinstance(bboxes[0], dict):
        bboxes = [bboxes] * num_pictures
    if len(bboxes) != num_pictures:
        raise AnchorError(f"There are boxes for {len(bboxes)} pictures and {num_pictures} pictures: use equal numbers.")
    return [[_box(each) for each in picture] for picture in bboxes]


def cropped(images_BHWC: Tensor, boxes: Boxes, margin: float, what: str) -> Tensor:
    """The largest subject of each picture with a margin, at the size of the first crop.

    Raises:
        AnchorError: A picture without a subject.
    """
    crops: list[Tensor] = []
    for idx, (image_HWC, found) in enumerate(zip(images_BHWC, boxes, strict=True)):
        largest = max(found, key=lambda box: (box.right - box.left) * box.height, default=None)
        size = (image_HWC.shape[0], image_HWC.shape[1])
        crop = None if largest is None else fitted_crop(largest, margin, size, 0.0)
        if crop is None:
            raise AnchorError(f"There is no {what} in picture {idx + 1} of {len(images_BHWC)}: leave it out.")
        crop_HWC = crop_box(image_HWC, crop.box)
        crops.append(resize_to_cover(crop_HWC, *crops[0].shape[:2]) if crops else crop_HWC)
    return torch.stack([crop_HWC[..., :3] for crop_HWC in crops])


def _moments(images_BHWC: Tensor) -> list[Moment]:
    return [Moment(Path(), 0.0, picture_HWC) for picture_HWC in frames_to_bytes(images_BHWC).cpu()]


def _box(box: dict[str, float]) -> Box:
    return Box(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
