"""Dear answers of models enter and are on disk from then on: a canceled extraction does not ask again.

    output/gloria/extraction/<name>/extraction/answers.jsonl    texts that a model generated
    output/gloria/extraction/<name>/extraction/keypoints.npz    poses, as far as they were found

Both are kept for equal models and equal footage, whatever settings are tried after that. Deleting them is safe.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...gloria_core.durable_files import publish_file

logger = logging.getLogger(__name__)

ANSWERS_NAME, KEYPOINTS_NAME = "answers.jsonl", "keypoints.npz"


class KeptAnswers:
    """Texts by a key that stands for everything they depend on."""

    def __init__(self, work: Path) -> None:
        self._path = work / ANSWERS_NAME
        self._texts: dict[str, str] | None = None

    def get(self, key: str, answer: Callable[[], str]) -> str:
        """The text that was kept, or what `answer` says now."""
        if self._texts is None:
            self._texts = _read_lines(self._path)
        if key not in self._texts:
            text = answer()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                # The line before may have been cut off by a crash.
                file.write("\n" + json.dumps([key, text]))
            self._texts[key] = text
        return self._texts[key]


def _read_lines(path: Path) -> dict[str, str]:
    texts = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            key, text = json.loads(line)
        except ValueError:
            continue
        texts[str(key)] = str(text)
    return texts


class KeptKeypoints:
    """The joints of one video's samples, from the first on.

    Args:
        made_by: stands for everything they depend on.
    """

    def __init__(self, work: Path, made_by: str) -> None:
        self._path = work / KEYPOINTS_NAME
        self._made_by = made_by

    def read(self, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Joints of this shape, zeros where there are none yet, and for how many samples they are there."""
        joints_TJ3 = np.zeros(shape)
        if not self._path.is_file():
            return joints_TJ3, 0
        try:
            with np.load(self._path, allow_pickle=False) as file:
                made_by, kept_TJ3 = str(file["made_by"]), file["joints"]
        except Exception as error:  # zipfile and zlib have error classes of their own
            logger.warning("%s is damaged and is made anew (%s)", self._path, error)
            return joints_TJ3, 0
        if made_by != self._made_by or kept_TJ3.shape[1:] != shape[1:] or len(kept_TJ3) > shape[0]:
            return joints_TJ3, 0
        joints_TJ3[: len(kept_TJ3)] = kept_TJ3
        return joints_TJ3, len(kept_TJ3)

    def write(self, joints_TJ3: np.ndarray) -> None:
        """Keep the joints that are there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, made_by=self._made_by, joints=joints_TJ3)
        publish_file(temporary, self._path)
