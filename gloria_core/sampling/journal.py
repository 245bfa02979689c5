"""Finished chunks enter, a job folder that survives any crash and gives them back leaves.

    <root>/<job>-<hash8>/     hash8 = start of the SHA-256 of everything that decides the film's content
        job.json              that everything, readable; data only, nothing in it is used as a path
        chunk_00000.safetensors, chunk_00000.json     raw latents, and the record that makes them count
        film.safetensors, film.json                   all chunks joined, and its record

A record is written after its data, so a chunk without a valid record was never committed. The first latents of a
chunk come from the chunk before; its record names their digest, so a chunk counts only behind the very chunk it
was made from.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..durable_files import commit_file, commit_json, file_sha256, read_json, require_free_bytes, storage_error
from ..errors import JournalError
from .film_file import film_pieces, open_film, tensor_bytes, write_film
from .plan import Chunk, ChunkPlan

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
JOB_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NUM_HASH_CHARS = 8
CHUNK_TENSOR = "latents"
_MARGIN_BYTES = 16 << 20
_MAX_SHOWN_CHARS = 60


@dataclass(frozen=True)
class ChunkRecord:
    """What a committed chunk was made from.

    Args:
        sha256: of the chunk file's bytes.
        prefix_sha256: of the latents it continued, empty for a chunk without prefix.
        inputs: digest of all inputs of the job.
    """

    sha256: str
    seed: int
    prefix_sha256: str
    inputs: str

    @classmethod
    def read(cls, path: Path) -> "ChunkRecord | None":
        """The record in `path`, or None when it is absent, torn or of wrong types."""
        content = read_json(path)
        if content is None or content.keys() != {field.name for field in fields(cls)}:
            return None
        if any(type(content[field.name]) is not field.type for field in fields(cls)):
            return None
        return cls(**content)


class Journal(AbstractContextManager["Journal"]):
    """One job's folder, locked while open.

    Args:
        inputs: by name, either {"value": anything JSON holds} or {"digest": hex}; any change makes another job.
        latent_shape_CHW: of the film's latents.
        environment: versions and device; a change is reported, not refused.
    """

    def __init__(
        self,
        root: Path,
        job: str,
        inputs: Mapping[str, Mapping[str, Any]],
        plan: ChunkPlan,
        latent_shape_CHW: tuple[int, int, int],
        environment: Mapping[str, str],
    ) -> None:
        check_job_name(job)
        self.job = job
        self.plan = plan
        self.latent_shape_CHW = tuple(latent_shape_CHW)
        self.inputs = json.loads(json.dumps(inputs, sort_keys=True))
        self.inputs_sha256 = hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()
        self.folder = root / f"{job}-{self.inputs_sha256[:NUM_HASH_CHARS]}"
        self.changes: tuple[str, ...] = ()
        self._records: dict[int, ChunkRecord] = {}
        self._lock = FileLock(str(self.folder / ".lock"), timeout=0)
        self._open(dict(environment))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the chunks on disk that are whole and continue the chunk before them."""
        return tuple(chunk.index for chunk in self.plan.chunks if self._continues(chunk))

    def prefix_for(self, chunk: Chunk) -> Tensor | None:
        """The latents [1, C, prefix, h, w] this chunk starts with: the end of the chunk before, as it was committed."""
        if not chunk.prefix:
            return None
        with safe_open(self._data_path(chunk.index - 1), framework="pt") as file:
            return file.get_slice(CHUNK_TENSOR)[:, -chunk.prefix :].clone()[None]

    def holds(self, chunk: Chunk, seed: int, prefix: Tensor | None) -> bool:
        """Whether this very chunk, made from this seed and prefix, is on disk and whole."""
        record = self._records.get(chunk.index)
        return record is not None and record.seed == seed and record.prefix_sha256 == _digest(prefix)

    def commit(self, chunk: Chunk, seed: int, prefix: Tensor | None, latents_BCTHW: Tensor) -> None:
        """Put one finished chunk on disk; refuses wrong shapes and numbers that are not finite."""
        channels, height, width = self.latent_shape_CHW
        expected = (1, channels, chunk.length, height, width)
        if tuple(latents_BCTHW.shape) != expected:
            raise JournalError(f"Chunk {chunk.index} has shape {tuple(latents_BCTHW.shape)}, expected {expected}.")
        if not torch.isfinite(latents_BCTHW).all():
            raise JournalError(
                f"Chunk {chunk.index} contains NaN or infinite latents and was not saved; earlier chunks are kept. "
                "Usual causes: fp8 weights or SageAttention. Turn them off, or lower cfg, and queue again."
            )
        data = save({CHUNK_TENSOR: latents_BCTHW[0].detach().cpu().contiguous()})
        sha256 = commit_file(self._data_path(chunk.index), [data], len(data))
        record = ChunkRecord(sha256, seed, _digest(prefix), self.inputs_sha256)
        commit_json(self._record_path(chunk.index), asdict(record))
        self._records[chunk.index] = record

    def film(self, blend: bool) -> Tensor:
        """The whole film [1, C, T, h, w], mapped from disk; joined now unless a valid joined file exists."""
        chunk_sha256s = [self._records[chunk.index].sha256 for chunk in self.plan.chunks]
        path, record_path = self.folder / "film.safetensors", self.folder / "film.json"
        made_from = {"chunks": chunk_sha256s, "blend": blend}
        record = read_json(record_path) or {}
        is_current = made_from.items() <= record.items() and record.get("sha256") == file_sha256(path)
        if not is_current:
            channels, height, width = self.latent_shape_CHW
            shape_TCHW = (self.plan.total_latents, channels, height, width)
            dtype = self._load(self.plan.chunks[0]).dtype
            sha256 = write_film(path, film_pieces(self.plan, self._load, blend), shape_TCHW, dtype)
            commit_json(record_path, {**made_from, "sha256": sha256})
        return open_film(path)

    def _open(self, environment: dict[str, str]) -> None:
        job_path = self.folder / "job.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise JournalError(
                f"Job '{self.job}' is being written by another process ({self.folder} is locked). "
                "Wait for it to finish, cancel it there, or use another job name."
            ) from error
        except OSError as error:
            raise storage_error(error, job_path, 0) from error
        try:
            found = read_json(job_path)
            if found is None:
                self.changes = _changes_since_last_job(self.folder, self.job, self.inputs)
            environments = _environments(found, environment, self.folder)
            # Written at every opening: the first step must not start on a folder that refuses files.
            commit_json(job_path, self._description(environments))
            self._records = {chunk.index: record for chunk in self.plan.chunks if (record := self._verified(chunk))}
            require_free_bytes(self.folder, self._num_missing_bytes())
        except BaseException:
            self._lock.release()
            raise

    def _description(self, environments: list[Any]) -> dict[str, Any]:
        plan = self.plan
        return {
            "schema": SCHEMA_VERSION,
            "job": self.job,
            "inputs_sha256": self.inputs_sha256,
            "inputs": self.inputs,
            "total_latents": plan.total_latents,
            "chunk_latents": plan.chunk_latents,
            "prefix_latents": plan.prefix_latents,
            "num_chunks": len(plan.chunks),
            "environments": environments,
        }

    def _verified(self, chunk: Chunk) -> ChunkRecord | None:
        """The chunk's record if record and data are whole and belong to this job's inputs."""
        record = ChunkRecord.read(self._record_path(chunk.index))
        path = self._data_path(chunk.index)
        if record is None or record.inputs != self.inputs_sha256:
            return None
        if record.sha256 != file_sha256(path):
            logger.warning("%s is damaged or missing and will be sampled again.", path)
            return None
        channels, height, width = self.latent_shape_CHW
        try:
            with safe_open(path, framework="pt") as file:
                shape = file.get_slice(CHUNK_TENSOR).get_shape()
        except SafetensorError:
            return None
        return record if shape == [channels, chunk.length, height, width] else None

    def _continues(self, chunk: Chunk) -> bool:
        record = self._records.get(chunk.index)
        if record is None:
            return False
        if not chunk.prefix:
            return True
        return chunk.index - 1 in self._records and record.prefix_sha256 == _digest(self.prefix_for(chunk))

    def _load(self, chunk: Chunk) -> Tensor:
        with safe_open(self._data_path(chunk.index), framework="pt") as file:
            return file.get_tensor(CHUNK_TENSOR)

    def _num_missing_bytes(self) -> int:
        latent_bytes = math.prod(self.latent_shape_CHW) * torch.float32.itemsize
        num_missing = sum(chunk.length for chunk in self.plan.chunks if chunk.index not in self._records)
        num_film = 0 if (self.folder / "film.json").exists() and not num_missing else self.plan.total_latents
        return latent_bytes * (num_missing + num_film) + _MARGIN_BYTES

    def _data_path(self, index: int) -> Path:
        return self.folder / f"chunk_{index:05d}.safetensors"

    def _record_path(self, index: int) -> Path:
        return self.folder / f"chunk_{index:05d}.json"


def check_job_name(job: str) -> None:
    """Refuse a job name that could be anything but one plain folder name."""
    if not JOB_NAME.fullmatch(job):
        raise JournalError(
            f"The job name {job[:80]!r} cannot be used as a folder name. "
            "Use 1 to 64 letters, digits, '-' and '_', for example 'my_film-2'."
        )


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between the inputs of two jobs, one readable line per input."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None or after is None:
            lines.append(f"{name} {'added' if before is None else 'removed'}")
        elif isinstance(before, dict) and "value" in before and "value" in after:
            lines.append(f"{name}: {_shown(before['value'])} -> {_shown(after['value'])}")
        else:
            lines.append(f"{name} changed")
    return tuple(lines)


def _changes_since_last_job(folder: Path, job: str, inputs: dict[str, Any]) -> tuple[str, ...]:
    """What changed since the most recently used other folder of the same job name; empty when there is none."""
    folder_name = re.compile(re.escape(job) + f"-[0-9a-f]{{{NUM_HASH_CHARS}}}")
    others = [
        (path.stat().st_mtime, path)
        for path in folder.parent.glob(f"{job}-*/job.json")
        if path.parent != folder and folder_name.fullmatch(path.parent.name)
    ]
    for _, path in sorted(others, reverse=True):
        content = read_json(path)
        if content is not None and isinstance(content.get("inputs"), dict):
            return describe_changes(content["inputs"], inputs)
    return ()


def _environments(found: dict[str, Any] | None, environment: dict[str, str], folder: Path) -> list[Any]:
    """All environments that worked on this job, the present one last; a change is logged."""
    past = found.get("environments") if found else None
    past = past if isinstance(past, list) else []
    if past and past[-1] != environment and isinstance(past[-1], dict):
        wrapped_old = {name: {"value": value} for name, value in past[-1].items()}
        wrapped_new = {name: {"value": value} for name, value in environment.items()}
        logger.warning(
            "%s is resumed in another environment (%s): new chunks may differ in the last bits from an unbroken run.",
            folder,
            ", ".join(describe_changes(wrapped_old, wrapped_new)),
        )
    return [entry for entry in past if entry != environment] + [environment]


def _digest(latents: Tensor | None) -> str:
    if latents is None:
        return ""
    description = f"{latents.dtype} {tuple(latents.shape)}".encode()
    return hashlib.sha256(description + tensor_bytes(latents)).hexdigest()


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
