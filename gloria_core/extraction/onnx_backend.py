"""A folder with an ONNX classifier of faces enters, an expression classifier leaves; the extra `expressions`.

The folder is laid out as for transformers, with `model.onnx` in the place of the weights: config.json names the
classes, preprocessor_config.json says what the network takes. docs/extraction.md shows it for EmotiEffLib's files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from ..errors import CheckpointError
from .transformers_backends import ExpressionModel, expression_order, loaded_processor

MODEL_NAME = "model.onnx"
_TEST_SIDE = 32


def expression_model(folder: Path, device: str) -> ExpressionModel:
    """The classifier in a folder, by the file that holds its weights."""
    return OnnxExpressionModel(folder, device) if (folder / MODEL_NAME).is_file() else ExpressionModel(folder, device)


class OnnxExpressionModel(ExpressionModel):
    """An ONNX network over head crops whose first output is a number for each class."""

    weights_name = MODEL_NAME

    def setup(self) -> None:
        """Load the network and look at its first answer.

        Raises:
            CheckpointError: No onnxruntime, no such network, or its classes are not the eight expressions.
        """
        if self._parts is not None:
            return
        try:
            import onnxruntime
        except ImportError as error:
            raise CheckpointError(f"{self.folder} holds an ONNX model ({error}): pip install onnxruntime.") from error
        names = _class_names(self.folder)
        order = expression_order(names, str(self.folder))
        providers = ["CPUExecutionProvider"] if self.device == "cpu" else ["CUDAExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(self.folder / MODEL_NAME), providers=providers)
        except Exception as error:  # onnxruntime has an error class for everything
            raise CheckpointError(f"The model in {self.folder} cannot be loaded: {error}") from error
        self._parts = session, loaded_processor(self.folder), order
        (first,) = self._scores([torch.zeros(_TEST_SIDE, _TEST_SIDE, 3, dtype=torch.uint8)])
        if first.shape != (len(names),):
            raise CheckpointError(
                f"The model in {self.folder} answers with {first.size} numbers, config.json names {len(names)} "
                "classes. Models that also tell valence and arousal do not fit."
            )

    def classify(self, crops: Sequence[Tensor]) -> list[Mapping[str, float]]:
        """Probabilities of the eight expressions."""
        _, _, order = self._parts
        shares = [torch.from_numpy(scores_N).double().softmax(-1)[order].tolist() for scores_N in self._scores(crops)]
        return [dict(zip(EXPRESSIONS, row, strict=True)) for row in shares]

    def _scores(self, crops: Sequence[Tensor]) -> list[np.ndarray]:
        """One by one: many networks are exported for a single picture."""
        session, processor, _ = self._parts
        inputs = [processor(images=[crop_HWC.numpy()], return_tensors="np")["pixel_values"] for crop_HWC in crops]
        return [session.run(None, {session.get_inputs()[0].name: pixels_1CHW})[0][0] for pixels_1CHW in inputs]


def _class_names(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        return [str(names[str(idx)]) for idx in range(len(names))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'{folder / "config.json"} does not name the classes ({error!r}). Expected '
            '{"id2label": {"0": "Anger", ...}} in the order of the network.'
        ) from error
