"""The folder of a job: how its files are named, what its records say, and how its inputs differ from another's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..durable_files import read_json
from ..errors import JournalError
from .plan import ChunkPlan, plan_chunks

JOB_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NUM_HASH_CHARS = 8
JOB_FILE = "job.json"
_FOLDER_NAME = re.compile(rf"({JOB_NAME.pattern})-[0-9a-f]{{{NUM_HASH_CHARS}}}")
_MAX_SHOWN_CHARS = 60
_MAX_LATENTS = 250_000

Inputs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ChunkRecord:
    """What a committed chunk was made from.

    Args:
        sha256: of the chunk file's bytes.
        prefix_sha256: of the latents it continued, empty for a chunk without prefix.
        inputs: digest of all inputs that decide this chunk.
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


def data_path(folder: Path, index: int) -> Path:
    """File of a chunk's latents."""
    return folder / f"chunk_{index:05d}.safetensors"


def record_path(folder: Path, index: int) -> Path:
    """Record that makes a chunk count."""
    return folder / f"chunk_{index:05d}.json"


def check_job_name(job: str) -> None:
    """Refuse a job name that could be anything but one plain folder name."""
    if not JOB_NAME.fullmatch(job):
        raise JournalError(
            f"The job name {job[:80]!r} cannot be used as a folder name. "
            "Use 1 to 64 letters, digits, '-' and '_', for example 'my_film-2'."
        )


def job_of_folder(name: str) -> str | None:
    """The job whose folder has this name, or None when no job's folder is called so."""
    match = _FOLDER_NAME.fullmatch(name)
    return match[1] if match else None


def job_folders(root: Path, job: str) -> list[Path]:
    """All folders of one job name, the most recently used first."""
    found = [
        (path.stat().st_mtime, path.parent)
        for path in root.glob(f"{job}-*/{JOB_FILE}")
        if job_of_folder(path.parent.name) == job
    ]
    return [folder for _, folder in sorted(found, reverse=True)]


def read_plan(folder: Path) -> ChunkPlan:
    """The plan of a job, from a file that a stranger may have written.

    Raises:
        JournalError: It is none, or of an absurd length.
    """
    description = read_json(folder / JOB_FILE) or {}
    sizes = [description.get(name) for name in ("total_latents", "chunk_latents", "prefix_latents")]
    if any(type(size) is not int for size in sizes) or not 0 < sizes[0] <= _MAX_LATENTS:
        raise JournalError(
            f"The description of the job {folder.name} ({JOB_FILE}) is damaged. Queue its workflow again to mend it."
        )
    return plan_chunks(*sizes)


def describe_changes(old: Inputs, new: Inputs) -> tuple[str, ...]:
    """What differs between the inputs of two jobs, one readable line per input."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None or after is None:
            lines.append(f"{name} {'added' if before is None else 'removed'}{_value_of(before or after)}")
        elif isinstance(before, dict) and "value" in before and "value" in after and before["value"] != after["value"]:
            lines.append(f"{name}: {_shown(before['value'])} -> {_shown(after['value'])}")
        else:
            lines.append(f"{name} changed")
    return tuple(lines)


def describe_chunk_changes(old: Sequence[Inputs], new: Sequence[Inputs]) -> tuple[str, ...]:
    """What differs between what decides single chunks, equal changes of neighbouring chunks in one line."""
    spans: list[tuple[int, int, str]] = []
    for index in range(max(len(old), len(new))):
        before = old[index] if index < len(old) else {}
        after = new[index] if index < len(new) else {}
        for line in describe_changes(before, after):
            place = next((i for i, span in enumerate(spans) if span[1:] == (index - 1, line)), None)
            if place is None:
                spans.append((index, index, line))
            else:
                spans[place] = (spans[place][0], index, line)
    return tuple(f"chunk {first}: {line}" if first == last else f"chunks {first}-{last}: {line}"
                 for first, last, line in spans)  # fmt: skip


def changes_since(folder: Path, inputs: Inputs, chunk_inputs: Sequence[Inputs]) -> tuple[str, ...] | None:
    """What changed since the job in another folder; None when its description cannot be read."""
    content = read_json(folder / JOB_FILE) or {}
    old, old_chunks = content.get("inputs"), content.get("chunk_inputs", [])
    are_chunks = isinstance(old_chunks, list) and all(isinstance(entry, dict) for entry in old_chunks)
    if not isinstance(old, dict) or not are_chunks:
        return None
    return describe_changes(old, inputs) + describe_chunk_changes(old_chunks, chunk_inputs)


def _value_of(entry: Any) -> str:
    return f" ({_shown(entry['value'])})" if isinstance(entry, dict) and "value" in entry else ""


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
