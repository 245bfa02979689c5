"""The folder of one training run: what the trainer writes for others, and what others ask of it, all as plain files.

    run.yaml  status.json  metrics.jsonl  validation.jsonl  log.txt
    control/{stop,save,sample}   checkpoints/   samples/   results/

Files outlive every process: a page, a server or a command that starts later finds the run as it is.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..durable_files import commit_file, read_json, storage_error
from ..errors import TrainingError

CONFIG, STATUS, METRICS, VALIDATION, LOG = "run.yaml", "status.json", "metrics.jsonl", "validation.jsonl", "log.txt"
CONTROL, SAMPLES, RESULTS = "control", "samples", "results"
_LOCK = ".lock"
# Whoever looks whether a run is alive holds its lock for an instant.
_LOCK_SECONDS = 2.0
Request = Literal["stop", "save", "sample"]
REQUESTS: tuple[Request, ...] = ("stop", "save", "sample")
# Two that look at once would each take the other for the trainer.
_looking = threading.Lock()


class RunFolder(AbstractContextManager["RunFolder"]):
    """The trainer's side; holds the run's lock from entering to leaving."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / _LOCK)
        self._started = time.time()

    def __enter__(self) -> "RunFolder":
        try:
            for name in ("", CONTROL, SAMPLES, RESULTS):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise TrainingError(
                f"Another process trains in {self.path} already. Wait for it, stop it, or give this run another name."
            ) from error
        except OSError as error:
            raise storage_error(error, self.path / STATUS, 0) from error
        self.requests()  # those of an earlier process are not meant for this one
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json as a whole; not synced to disk, it is rewritten all the time."""
        content = {**status, "pid": os.getpid(), "started": self._started, "updated": time.time()}
        path = self.path / STATUS
        partial = path.with_name(STATUS + ".tmp")
        try:
            partial.write_text(json.dumps(content), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise storage_error(error, path, 0) from error

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        _append(self.path / METRICS, line)

    def write_validation(self, line: Mapping[str, Any]) -> None:
        """One line of validation.jsonl."""
        _append(self.path / VALIDATION, line)

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the lines of steps after `last_step`, which a resumed run will write again, and a torn one."""
        for name in (METRICS, VALIDATION):
            lines = [line for line in _read_lines(self.path / name) if line.get("step", 0) <= last_step]
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            if (self.path / name).exists():
                commit_file(self.path / name, [data], len(data))

    def requests(self) -> set[Request]:
        """What was asked since the last call; each request is taken once."""
        asked: set[Request] = set()
        for name in REQUESTS:
            try:
                (self.path / CONTROL / name).unlink()
            except FileNotFoundError:
                continue
            asked.add(name)
        return asked


def request(path: Path, name: Request) -> None:
    """Ask the run in `path` for something; it is done after the present step."""
    if name not in REQUESTS:
        raise TrainingError(f"Unknown request {name!r}, expected one of {', '.join(REQUESTS)}.")
    file = path / CONTROL / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise storage_error(error, file, 0) from error


def pending_requests(path: Path) -> list[Request]:
    """What was asked of the run in `path` and is not done yet."""
    return [name for name in REQUESTS if (path / CONTROL / name).exists()]


def read_status(path: Path) -> dict[str, Any] | None:
    """The run's status; None when it has none yet."""
    return read_json(path / STATUS)


def read_metrics(path: Path, from_offset: int = 0, max_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
    """Lines of metrics.jsonl from a byte offset on, and the offset to go on from; a line in writing waits."""
    return _read_from(path / METRICS, from_offset, max_bytes)


def read_validation(path: Path, from_offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The same of validation.jsonl."""
    return _read_from(path / VALIDATION, from_offset)


def is_running(path: Path) -> bool:
    """Whether a live process holds the run's lock; the lock of a dead one is free."""
    if not (path / _LOCK).exists():
        return False
    lock = FileLock(path / _LOCK)
    with _looking:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False


def _append(path: Path, line: Mapping[str, Any]) -> None:
    data = json.dumps(line) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(data)
    except OSError as error:
        raise storage_error(error, path, len(data)) from error


def _read_from(path: Path, offset: int, max_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(max_bytes)
    except FileNotFoundError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    return list(_parsed(whole)), offset + len(whole)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return _read_from(path, 0)[0]


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    """Lines that are JSON objects: one torn by a crash has lost its end and is followed by others."""
    for line in data.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content
