"""Bytes enter, a file that is either whole and on disk or absent leaves; failures of the disk become typed errors.

Order of a commit: temporary file -> fsync -> rename -> fsync of the folder.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .errors import JournalError

_READ_BYTES = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


def commit_file(path: Path, pieces: Iterable[bytes | memoryview], num_bytes: int) -> str:
    """Write `pieces` as one file under `path` and return the SHA-256 of its bytes.

    Args:
        num_bytes: size of the whole file, for the message when the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
        publish_file(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise storage_error(error, path, num_bytes) from error
    except BaseException:
        _discard(temporary)
        raise
    return digest.hexdigest()


def publish_file(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its name: a crash leaves the old file or the new one, never half of one."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable by itself.
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def share_file(source: Path, target: Path) -> None:
    """Give a file that is never written in place a second name; a copy where files cannot be linked."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
    except OSError:
        commit_file(target, [source.read_bytes()], source.stat().st_size)
    else:
        publish_file(temporary, target)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, folders included; equal tensors and metadata give equal bytes."""
    partial = path.with_name(f".{path.name}.partial")
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial, dict(metadata))
        _sort_metadata(partial)
        partial.chmod(mode)  # the library's files are for their owner alone
        publish_file(partial, path)
    except SafetensorError as error:
        _discard(partial)
        raise storage_error(_os_error(error), path, num_bytes) from error
    except OSError as error:
        _discard(partial)
        raise storage_error(error, path, num_bytes) from error
    except BaseException:
        _discard(partial)
        raise


def _os_error(error: SafetensorError) -> OSError:
    """What the library tells of a failure of the system, as Python's own error."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), str(error)) if number else OSError(str(error))


def _sort_metadata(path: Path) -> None:
    """The library writes metadata in random order; the sorted header has the same length."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # JSON may be padded with spaces
            file.seek(8)
            file.write(text.ljust(length))


def commit_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as an indented JSON file under `path`."""
    data = (json.dumps(content, indent=2, ensure_ascii=True) + "\n").encode()
    commit_file(path, [data], len(data))


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON object file; None when it is absent, torn or something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def require_free_bytes(folder: Path, needed: int, what: str = "this film") -> None:
    """Refuse before any work when the disk of `folder` cannot hold `needed` more bytes, which `what` takes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise JournalError(
            f"The disk of {folder} has {free} bytes free ({_gigabytes(free)}), {what} needs {needed} bytes "
            f"({_gigabytes(needed)}). Free space there, or point ComfyUI's output folder to a larger disk."
        )


def storage_error(error: OSError, path: Path, needed: int) -> JournalError:
    """The typed error for an `OSError` of writing `needed` bytes to `path`."""
    if error.errno in _DISK_FULL:
        try:
            free: int | str = shutil.disk_usage(path.parent).free
        except OSError:
            free = "an unknown number of"
        return JournalError(
            f"Disk full (or a size limit reached) while writing {path}: {needed} bytes needed, {free} bytes free. "
            "What was finished before is kept: free space and run the same again."
        )
    if error.errno in _NOT_WRITABLE:
        return JournalError(
            f"{path.parent} is not writable ({error.strerror}). "
            "Give ComfyUI write access to it or start ComfyUI with another --output-directory."
        )
    return JournalError(f"Cannot write {path}: {error.strerror or error}. Check the output folder and its disk.")


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # A stray temporary file is never read and the next commit replaces it.
        return


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
