"""Model folders in transformers' layout enter, a person detector and an expression classifier leave.

Folders are local and hold safetensors; nothing is downloaded and nothing unpickled. Any object detection model that
knows the class "person" will do (for example RT-DETR), and any image classification model that knows all eight
expressions by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from ..durable_files import file_sha256
from ..errors import CheckpointError
from .backends import Box, Moment

# What classifiers call the eight expressions. Models without contempt (seven classes) are refused: they would call it
# something else.
EXPRESSION_NAMES = {
    **{name: name for name in EXPRESSIONS},
    "surprised": "surprise",
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "contemptuous": "contempt",
    "sadness": "sad",
    "happiness": "happy",
}
_PERSON = "person"
# Four copies share a GPU.
_GPU_SHARE = 0.25
_WEIGHTS_NAME = "model.safetensors"
_DIGITS = 12


@dataclass
class PersonModel:
    """An object detection model.

    Args:
        folder: with config.json, model.safetensors and preprocessor_config.json.
    """

    folder: Path
    device: str = "cpu"
    min_score: float = 0.5
    _parts: Any = field(default=None, init=False, repr=False)

    @cached_property
    def name(self) -> str:
        """Folder, weights and threshold."""
        return f"{self.folder.name} {_weights_hash(self.folder / _WEIGHTS_NAME)} {self.min_score}"

    @property
    def gpus(self) -> float:
        """Share of a GPU."""
        return _GPU_SHARE if self.device == "cuda" else 0.0

    def setup(self) -> None:
        """Load the weights.

        Raises:
            CheckpointError: No such model, or one that knows no people.
        """
        from transformers import AutoModelForObjectDetection

        if self._parts is not None:
            return
        model, processor = _loaded(AutoModelForObjectDetection, self.folder, self.device)
        names = {idx: str(name).lower() for idx, name in model.config.id2label.items()}
        if _PERSON not in names.values():
            raise CheckpointError(f"The model in {self.folder} knows no class 'person'. Choose one trained on COCO.")
        self._parts = model, processor, {int(idx) for idx, name in names.items() if name == _PERSON}

    @torch.no_grad()
    def people(self, moment: Moment) -> list[Box]:
        """A box around everybody, from left to right."""
        model, processor, person_idx = self._parts
        inputs = processor(images=moment.picture_HWC.numpy(), return_tensors="pt").to(self.device)
        sizes = torch.tensor([moment.picture_HWC.shape[:2]])
        (found,) = processor.post_process_object_detection(
            model(**inputs), threshold=self.min_score, target_sizes=sizes
        )
        return sorted(
            Box(*box) for box, idx in zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True)
            if idx in person_idx
        )  # fmt: skip


@dataclass
class ExpressionModel:
    """An image classification model over head crops."""

    folder: Path
    device: str = "cpu"
    _parts: Any = field(default=None, init=False, repr=False)
    weights_name: ClassVar[str] = _WEIGHTS_NAME

    @cached_property
    def name(self) -> str:
        """Folder and weights."""
        return f"{self.folder.name} {_weights_hash(self.folder / self.weights_name)}"

    @property
    def gpus(self) -> float:
        """Share of a GPU."""
        return _GPU_SHARE if self.device == "cuda" else 0.0

    def setup(self) -> None:
        """Load the weights.

        Raises:
            CheckpointError: No such model, or its classes are not the eight expressions.
        """
        from transformers import AutoModelForImageClassification

        if self._parts is not None:
            return
        model, processor = _loaded(AutoModelForImageClassification, self.folder, self.device)
        names = [str(model.config.id2label[idx]) for idx in range(len(model.config.id2label))]
        self._parts = model, processor, expression_order(names, str(self.folder))

    @torch.no_grad()
    def classify(self, crops: Sequence[Tensor]) -> list[Mapping[str, float]]:
        """Probabilities of the eight expressions."""
        model, processor, order = self._parts
        inputs = processor(images=[crop_HWC.numpy() for crop_HWC in crops], return_tensors="pt").to(self.device)
        shares = model(**inputs).logits.float().softmax(-1)[:, order].tolist()
        return [dict(zip(EXPRESSIONS, row, strict=True)) for row in shares]


def expression_order(names: Sequence[str], where: str) -> list[int]:
    """For each of `EXPRESSIONS` its place among a classifier's own class names.

    Raises:
        CheckpointError: They are not exactly the eight expressions.
    """
    known = [EXPRESSION_NAMES.get(name.strip().lower()) for name in names]
    if sorted(filter(None, known)) != sorted(EXPRESSIONS) or len(known) != len(EXPRESSIONS):
        raise CheckpointError(
            f"The classifier in {where} has the classes {', '.join(names)}, expected exactly these eight under any of "
            f"their names: {', '.join(EXPRESSIONS)}."
        )
    return [known.index(name) for name in EXPRESSIONS]


def _loaded(model_class: Any, folder: Path, device: str) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"There is no model in {folder}: expected config.json and model.safetensors there.")
    try:
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The model in {folder} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"The model in {folder} lacks {len(missing)} weights, the first is {missing[0]}.")
    return model.to(device).eval(), loaded_processor(folder)


def loaded_processor(folder: Path) -> Any:
    """What turns pictures into a network's inputs.

    Raises:
        CheckpointError: The folder does not say it.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The model in {folder} does not say what pictures it takes: {error}") from error


def _weights_hash(path: Path) -> str:
    """Part of a backend's name, so that other weights in a folder of the same name find anew."""
    return str(file_sha256(path))[:_DIGITS]
