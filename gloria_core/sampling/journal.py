"""Finished chunks enter, a job folder that survives any crash and gives them back leaves.

    <root>/<job>-<hash8>/     hash8 = start of the SHA-256 of everything that decides the film's content
        job.json              that everything, readable; data only, nothing in it is used as a path
        chunk_00000.safetensors, chunk_00000.json     raw latents, and the record that makes them count
        film.safetensors, film.json                   all chunks joined, and its record
        preview_00000.mp4, preview_00000.json         what ComfyUI's player shows of a chunk; nothing depends on it
        attention_00000.safetensors                   what a chunk looked at; nothing depends on it

A record is written after its data, so a chunk without a valid record was never committed. The first latents of a
chunk come from the chunk before; its record names their digest, so a chunk counts only behind the very chunk it
was made from.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..durable_files import (
    commit_file,
    commit_json,
    file_sha256,
    read_json,
    require_free_bytes,
    share_file,
    storage_error,
)
from ..errors import JournalError
from .film_file import film_pieces, open_film, tensor_bytes, write_film
from .job_folder import (
    JOB_FILE,
    NUM_HASH_CHARS,
    ChunkRecord,
    Inputs,
    changes_since,
    check_job_name,
    data_path,
    describe_changes,
    job_folders,
    record_path,
)
from .plan import Chunk, ChunkPlan

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
CHUNK_TENSOR = "latents"
_MARGIN_BYTES = 16 << 20


class Journal(AbstractContextManager["Journal"]):
    """One job's folder, locked while open.

    Args:
        inputs: by name, {"value": anything JSON holds}, {"digest": hex} or both; any change makes another job.
        latent_shape_CHW: of the film's latents.
        environment: versions and device; a change is reported, not refused.
        chunk_inputs: the same for what decides one chunk only, one entry per chunk; empty when there is nothing such.
    """

    def __init__(
        self,
        root: Path,
        job: str,
        inputs: Inputs,
        plan: ChunkPlan,
        latent_shape_CHW: tuple[int, int, int],
        environment: Mapping[str, str],
        chunk_inputs: Sequence[Inputs] = (),
    ) -> None:
        check_job_name(job)
        self.job = job
        self.plan = plan
        self.latent_shape_CHW = tuple(latent_shape_CHW)
        self.inputs = json.loads(json.dumps(inputs, sort_keys=True))
        self.chunk_inputs = json.loads(json.dumps(list(chunk_inputs), sort_keys=True)) if any(chunk_inputs) else []
        self.inputs_sha256 = _sha256([self.inputs, self.chunk_inputs] if self.chunk_inputs else self.inputs)
        self.folder = root / f"{job}-{self.inputs_sha256[:NUM_HASH_CHARS]}"
        self.changes: tuple[str, ...] = ()
        self.adopted: dict[int, str] = {}  # folder that a chunk was taken over from, by chunk index
        self._others: list[Path] = []
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
        with safe_open(data_path(self.folder, chunk.index - 1), framework="pt") as file:
            return file.get_slice(CHUNK_TENSOR)[:, -chunk.prefix :].clone()[None]

    def holds(self, chunk: Chunk, seed: int, prefix: Tensor | None) -> bool:
        """Whether this very chunk, made from this seed and prefix, is on disk and whole."""
        record = self._records.get(chunk.index)
        return record is not None and record.seed == seed and record.prefix_sha256 == _digest(prefix)

    def adopt(self, chunk: Chunk, seed: int, prefix: Tensor | None) -> bool:
        """Take over this very chunk from another job of the same name; False when none has it whole.

        So after a change that begins in the middle of a film, the chunks before it are not sampled again.
        """
        wanted = ChunkRecord("", seed, _digest(prefix), self._chunk_sha256(chunk.index))
        for folder in self._others:
            record = ChunkRecord.read(record_path(folder, chunk.index))
            if record is None or replace(record, sha256="") != wanted or not self._take_data(folder, chunk, record):
                continue
            commit_json(record_path(self.folder, chunk.index), asdict(record))
            self._records[chunk.index] = record
            self.adopted[chunk.index] = folder.name
            return True
        return False

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
        sha256 = commit_file(data_path(self.folder, chunk.index), [data], len(data))
        record = ChunkRecord(sha256, seed, _digest(prefix), self._chunk_sha256(chunk.index))
        commit_json(record_path(self.folder, chunk.index), asdict(record))
        self._records[chunk.index] = record

    def latents(self, chunk: Chunk) -> Tensor:
        """The latents [C, length, h, w] of a chunk on disk, prefix included."""
        with safe_open(data_path(self.folder, chunk.index), framework="pt") as file:
            return file.get_tensor(CHUNK_TENSOR)

    def record(self, chunk: Chunk) -> ChunkRecord:
        """What a chunk on disk was made from."""
        return self._records[chunk.index]

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
            dtype = self.latents(self.plan.chunks[0]).dtype
            sha256 = write_film(path, film_pieces(self.plan, self.latents, blend), shape_TCHW, dtype)
            commit_json(record_path, {**made_from, "sha256": sha256})
        return open_film(path)

    def _open(self, environment: dict[str, str]) -> None:
        job_path = self.folder / JOB_FILE
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
            self._others = [other for other in job_folders(self.folder.parent, self.job) if other != self.folder]
            if found is None:
                changes = (changes_since(other, self.inputs, self.chunk_inputs) for other in self._others)
                self.changes = next((lines for lines in changes if lines is not None), ())
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
            "chunk_inputs": self.chunk_inputs,
            "total_latents": plan.total_latents,
            "chunk_latents": plan.chunk_latents,
            "prefix_latents": plan.prefix_latents,
            "num_chunks": len(plan.chunks),
            "environments": environments,
        }

    def _verified(self, chunk: Chunk) -> ChunkRecord | None:
        """The chunk's record if record and data are whole and belong to this job's inputs."""
        record = ChunkRecord.read(record_path(self.folder, chunk.index))
        path = data_path(self.folder, chunk.index)
        if record is None or record.inputs != self._chunk_sha256(chunk.index):
            return None
        if record.sha256 != file_sha256(path):
            logger.warning("%s is damaged or missing and will be sampled again.", path)
            return None
        return record if self._is_of_shape(path, chunk) else None

    def _is_of_shape(self, path: Path, chunk: Chunk) -> bool:
        channels, height, width = self.latent_shape_CHW
        try:
            with safe_open(path, framework="pt") as file:
                shape = file.get_slice(CHUNK_TENSOR).get_shape()
        except SafetensorError:
            return False
        return shape == [channels, chunk.length, height, width]

    def _take_data(self, folder: Path, chunk: Chunk, record: ChunkRecord) -> bool:
        """Put another job's chunk file into our folder, checked before and after."""
        source, target = data_path(folder, chunk.index), data_path(self.folder, chunk.index)
        if record.sha256 != file_sha256(source) or not self._is_of_shape(source, chunk):
            return False
        share_file(source, target)
        return file_sha256(target) == record.sha256

    def _continues(self, chunk: Chunk) -> bool:
        record = self._records.get(chunk.index)
        if record is None:
            return False
        if not chunk.prefix:
            return True
        return chunk.index - 1 in self._records and record.prefix_sha256 == _digest(self.prefix_for(chunk))


    def _num_missing_bytes(self) -> int:
        latent_bytes = math.prod(self.latent_shape_CHW) * torch.float32.itemsize
        num_missing = sum(chunk.length for chunk in self.plan.chunks if chunk.index not in self._records)
        num_film = 0 if (self.folder / "film.json").exists() and not num_missing else self.plan.total_latents
        return latent_bytes * (num_missing + num_film) + _MARGIN_BYTES

    def _chunk_sha256(self, index: int) -> str:
        """Digest of all that decides a chunk, besides its seed and the chunk before it."""
        own = self.chunk_inputs[index] if self.chunk_inputs else {}
        return _sha256([self.inputs, own] if own else self.inputs)


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
