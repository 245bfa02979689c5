"""What is connected to Gloria Extract Anchors enters, the backends of the pipeline leave, or what is missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy import model_management

from ...gloria_core.durable_files import file_sha256
from ...gloria_core.errors import CheckpointError, DatasetError
from ...gloria_core.extraction.backends import Backends, ExpressionClassifier, Judge, PersonDetector
from ...gloria_core.extraction.judge import EndpointJudge
from ...gloria_core.extraction.onnx_backend import expression_model
from ...gloria_core.extraction.pose_files import PoseFiles
from .backend_clip_vision import ClipVisionLooks
from .backend_mediapipe import MediaPipeFaces
from .backend_rtdetr import NETWORK, RtDetrPeople
from .backend_sam3 import Sam3People
from .backend_sdpose import SdPoseBody
from .backend_text_generation import LocalModel
from .extraction_models import OnPicture, detectors_note
from .kept_work import KeptAnswers

CLASSIFIERS_FOLDER = "classifiers"
NO_CLASSIFIER = "none"
_DIGITS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Connected:
    """The node's models and names; None or empty where nothing is connected."""

    person_detector: Any | None = None
    person_prompt: Any | None = None
    face_detector: Any | None = None
    pose_model: Any | None = None
    pose_vae: Any | None = None
    clip_vision: Any | None = None
    vision_language_model: Any | None = None
    pose_file: Path | None = None
    expression_classifier: str = NO_CLASSIFIER
    judge_endpoint: str = ""


class PoseFile(PoseFiles):
    """The pose file beside the footage, named by its content: another file is another backend."""

    def __init__(self, path: Path) -> None:
        self.name = f"pose file {str(file_sha256(path))[:_DIGITS]}"


def make_backends(connected: Connected, find_viewpoints: bool, on_picture: OnPicture, work: Path) -> Backends:
    """Everything that the connected models allow.

    Args:
        work: folder in which dear answers are kept.

    Raises:
        DatasetError: Something that was asked for has nothing to do it with, and what to connect.
    """
    detector = None if connected.person_detector is None else _person_detector(connected)
    pose_file = None if connected.pose_file is None else PoseFile(connected.pose_file)
    body = pose_file
    if connected.pose_model is not None and pose_file is None:
        if connected.pose_vae is None:
            raise DatasetError("pose_model needs pose_vae: the VAE output of the same Load Checkpoint node.")
        body = SdPoseBody(connected.pose_model, connected.pose_vae, detector, on_picture, work)
    if find_viewpoints and body is None:
        raise DatasetError(_no_viewpoints(connected))
    faces = pose_file if connected.face_detector is None else MediaPipeFaces(connected.face_detector)
    vision_language_model = connected.vision_language_model
    model = None if vision_language_model is None else LocalModel(vision_language_model, KeptAnswers(work))
    expressions = _expressions(connected, model)
    if connected.expression_classifier != NO_CLASSIFIER and faces is None:
        raise DatasetError(
            "Expressions are read from faces: connect a face_detector (Load Face Detection Model), or choose a "
            f"pose_file of joints with ears.{detectors_note()}"
        )
    return Backends(
        body=body if find_viewpoints else None,
        people=detector or body,
        faces=faces,
        expressions=expressions,
        judge=_judge(connected, model, expressions),
        looks=None if connected.clip_vision is None else ClipVisionLooks(connected.clip_vision),
        captions=model,
    )


def classifier_names() -> list[str]:
    """Folders in models/classifiers that hold a model, for a combo."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(CLASSIFIERS_FOLDER)]
    return [NO_CLASSIFIER, *sorted(path.parent.name for root in roots for path in root.glob("*/config.json"))]


def _person_detector(connected: Connected) -> PersonDetector:
    network = type(connected.person_detector.model.diffusion_model).__name__
    if network == NETWORK:
        return RtDetrPeople(connected.person_detector)
    if network == "SAM3Model":
        if connected.person_prompt is None:
            raise DatasetError(
                "SAM 3 finds what a text names: connect person_prompt, a CLIP Text Encode with the word person and the "
                "CLIP of the same checkpoint."
            )
        return Sam3People(connected.person_detector, connected.person_prompt)
    raise CheckpointError(
        f"The model at person_detector ({network}) finds no people: load RT-DETR v4 or SAM 3.{detectors_note()}"
    )


def _expressions(connected: Connected, model: LocalModel | None) -> ExpressionClassifier | None:
    if connected.expression_classifier == NO_CLASSIFIER:
        return model
    for root in folder_paths.get_folder_paths(CLASSIFIERS_FOLDER):
        folder = Path(root) / connected.expression_classifier
        if connected.expression_classifier in classifier_names() and (folder / "config.json").is_file():
            return expression_model(folder, model_management.get_torch_device().type)
    raise CheckpointError(f"'{connected.expression_classifier}' is not in the folder models/{CLASSIFIERS_FOLDER}.")


def _judge(
    connected: Connected, model: LocalModel | None, expressions: ExpressionClassifier | None
) -> Judge | None:
    if not connected.judge_endpoint:
        return model
    if expressions is None:
        raise DatasetError(
            "A judge looks at what was read from faces: choose an expression_classifier or connect a "
            "vision_language_model, or clear judge_endpoint."
        )
    return EndpointJudge(
        connected.judge_endpoint, on_attempt=model_management.throw_exception_if_processing_interrupted
    )


def _no_viewpoints(connected: Connected) -> str:
    can = ["shots, sharpness and light", "clips and whole frames (global anchors)"]
    if connected.person_detector is not None:
        can.append("stretches with one person")
    if connected.face_detector is not None:
        can.append("expressions, with a classifier or a vision-language model")
    return (
        "Nothing connected can tell how the body is turned, so front, back, left and right views cannot be found. "
        "Choose a pose_file (3D, from GVHMR or SAM 3D Body), or connect pose_model and pose_vae (SDPose, an estimate "
        "from 2D). RT-DETR, SAM 3 and MediaPipe's face do not know the body's direction. Or switch find_viewpoints "
        f"off; then this node still finds: {', '.join(can)}."
    )
