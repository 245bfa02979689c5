"""Encoded entries of a dataset: tensors go in under a key, whole and checked tensors come out.

    entries/<key>.safetensors   the tensors
    entries/<key>.json          SHA-256, shapes and what it was made from; written last, so it makes the entry exist
"""

import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..durable_files import commit_json, file_sha256, read_json, write_safetensors
from ..errors import DatasetError, JournalError
from .cache_index import INDEX_NAME

ENTRIES = "entries"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MARGIN_BYTES = 16 << 20


class CacheStore:
    """The entries of one cache folder; safe to read from several threads and processes, written by one `building`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Hold the folder's lock, which a killed process loses.

        Raises:
            DatasetError: Another process builds here, or the folder cannot be written.
        """
        lock = FileLock(str(self.folder / ".lock"), timeout=0)
        try:
            (self.folder / ENTRIES).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise DatasetError(
                f"Another process builds the dataset cache {self.folder}. Wait for it, or give another folder."
            ) from error
        except OSError as error:
            raise DatasetError(f"The dataset cache {self.folder} cannot be written: {error.strerror}.") from error
        try:
            yield
        finally:
            lock.release()

    def require_free_bytes(self, needed: int) -> None:
        """Refuse before any work when the disk cannot hold `needed` more bytes of entries.

        Raises:
            DatasetError: With both figures.
        """
        free = shutil.disk_usage(self.folder).free
        if free < needed + _MARGIN_BYTES:
            raise DatasetError(
                f"The dataset cache needs about {needed / 1e9:.2f} GB more, but the disk of {self.folder} has "
                f"{free / 1e9:.2f} GB free. Free space there, or give another folder for the cache."
            )

    def has(self, key: str) -> bool:
        """Whether the entry is whole on disk: its bytes are read and compared, whatever an earlier call saw."""
        is_whole = self._problem(key) is None
        with self._lock:
            (self._verified.add if is_whole else self._verified.discard)(key)
        return is_whole

    def put(self, key: str, tensors: Mapping[str, Tensor], kind: str, made_from: str = "") -> None:
        """Commit an entry, and replace a damaged one.

        Args:
            made_from: what a person calls its source, for messages.

        Raises:
            DatasetError: A value is NaN or infinite, or the disk is full or refuses; finished entries stay.
        """
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DatasetError(
                    f"The encoder made NaN or infinite values for the {kind} of '{made_from}' ('{name}'). Check the "
                    "source, or run the encoder in higher precision."
                )
        path = self._path(key)
        try:
            # A damaged entry's record must not be taken for the new data's.
            path.with_suffix(".json").unlink(missing_ok=True)
            write_safetensors(path, tensors, {"kind": kind, "made_from": made_from})
            record = {
                "kind": kind,
                "made_from": made_from,
                "sha256": file_sha256(path),
                "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            }
            commit_json(path.with_suffix(".json"), record)
        except (JournalError, OSError) as error:
            raise DatasetError(
                f"The {kind} of '{made_from}' could not be written to the dataset cache: {error} Entries that were "
                "finished before are kept: free space and build again."
            ) from error

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of an entry; bytes, shapes and values are checked once per process.

        Raises:
            DatasetError: Missing or damaged, with its file and what it was made from.
        """
        is_checked = key in self._verified
        problem = None if is_checked else self._problem(key)
        tensors: dict[str, Tensor] = {}
        if problem is None:
            try:
                tensors = load_file(self._path(key))
            except (OSError, SafetensorError) as error:
                problem = f"cannot be read ({error})"
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if problem is None and not is_checked and shapes != self._record(key).get("shapes"):
            problem = f"has the shapes {shapes}, its record says {self._record(key).get('shapes')}"
        if problem is None and not is_checked and not all(torch.isfinite(x).all() for x in tensors.values()):
            problem = "holds NaN or infinite values"
        if problem is not None:
            raise DatasetError(
                f"The cache entry {self._path(key)}{self._source(key)} {problem}. Build the dataset again: only what "
                "is missing or damaged is computed."
            )
        with self._lock:
            self._verified.add(key)
        return tensors

    def num_bytes(self, key: str) -> int:
        """Size of an entry's tensors on disk; 0 when it is missing."""
        path = self._path(key)
        return path.stat().st_size if path.exists() else 0

    def _problem(self, key: str) -> str | None:
        """What is wrong with an entry on disk, or None."""
        record = self._record(key)
        if not record:
            return "is missing (it has no record)"
        if not self._path(key).exists():
            return "is missing"
        if file_sha256(self._path(key)) != record.get("sha256"):
            return "is damaged"
        return None

    def _source(self, key: str) -> str:
        """What an entry was made from, by its record, or by who refers to it when the record is lost."""
        made_from = self._record(key).get("made_from")
        made_from = made_from or ", ".join(_users(read_json(self.folder / INDEX_NAME) or {}, key))
        return f" (of '{made_from}')" if made_from else ""

    def _record(self, key: str) -> dict[str, Any]:
        """The entry's record; empty when it is absent or torn."""
        return read_json(self._path(key).with_suffix(".json")) or {}

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise DatasetError(f"{key[:80]!r} is not a key of a cache entry.")
        return self.folder / ENTRIES / f"{key}.safetensors"


def _users(index: dict[str, Any], key: str) -> list[str]:
    """Ids of the clips and sources of an index, as it was read, that refer to an entry."""
    records = [each for name in ("clips", "sources") for each in index.get(name) or () if isinstance(each, dict)]
    found = [str(each.get("id")) for each in records if key in each.values()]
    found += [
        str(each.get("id"))
        for each in records
        if any(isinstance(anchor, dict) and anchor.get("key") == key for anchor in each.get("anchors") or ())
    ]
    return found[:3]
