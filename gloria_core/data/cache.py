"""Encoded entries of a dataset: tensors go in under a key, whole and checked tensors come out.

    entries/<key>.safetensors   the tensors
    entries/<key>.json          SHA-256, shapes and what it was made from; written last, so it makes the entry exist
"""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..durable_files import commit_json, file_sha256, read_json, write_safetensors
from ..errors import DatasetError

ENTRIES = "entries"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


class CacheStore:
    """The entries of one cache folder; safe to read from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    def has(self, key: str) -> bool:
        """Whether the entry is whole on disk."""
        return self._problem(key) is None

    def put(self, key: str, tensors: Mapping[str, Tensor], kind: str, made_from: str = "") -> None:
        """Commit an entry.

        Args:
            made_from: what a person calls its source, for messages.

        Raises:
            DatasetError: A value is NaN or infinite.
        """
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DatasetError(
                    f"The encoder made NaN or infinite values for the {kind} of '{made_from}' ('{name}'). Check the "
                    "source, or run the encoder in higher precision."
                )
        path = self._path(key)
        write_safetensors(path, tensors, {"kind": kind})
        record = {
            "kind": kind,
            "made_from": made_from,
            "sha256": file_sha256(path),
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        }
        commit_json(path.with_suffix(".json"), record)

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of an entry, memory-mapped; its bytes are checked once per process.

        Raises:
            DatasetError: Missing or damaged, with its file and what it was made from.
        """
        if key not in self._verified:
            problem = self._problem(key)
            if problem is not None:
                raise DatasetError(
                    f"The cache entry {self._path(key)} {problem}. Build the dataset again: only what is missing or "
                    "damaged is computed."
                )
            with self._lock:
                self._verified.add(key)
        try:
            return load_file(self._path(key))
        except (OSError, SafetensorError) as error:
            raise DatasetError(f"The cache entry {self._path(key)} cannot be read: {error}.") from error

    def num_bytes(self, key: str) -> int:
        """Size of an entry's tensors on disk; 0 when it is missing."""
        path = self._path(key)
        return path.stat().st_size if path.exists() else 0

    def _problem(self, key: str) -> str | None:
        """What is wrong with an entry on disk, or None."""
        record: dict[str, Any] | None = read_json(self._path(key).with_suffix(".json"))
        if record is None:
            return "is missing (it has no record)"
        source = f" (of '{record.get('made_from')}')" if record.get("made_from") else ""
        if not self._path(key).exists():
            return f"is missing{source}"
        if file_sha256(self._path(key)) != record.get("sha256"):
            return f"is damaged{source}"
        return None

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise DatasetError(f"{key[:80]!r} is not a key of a cache entry.")
        return self.folder / ENTRIES / f"{key}.safetensors"
