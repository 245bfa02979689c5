"""A run's state enters, a checkpoint on disk leaves that is whole or not there; the newest good one comes back.

    checkpoints/step_00000250/{weights,optimizer,ema}.safetensors  state.json  COMPLETE

Order of a commit: files into a folder with another name, synced -> rename of the folder -> COMPLETE.
"""

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..durable_files import commit_file, commit_json, file_sha256, read_json, require_free_bytes, write_safetensors
from ..errors import TrainingError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_COMPLETE, _STATE = "COMPLETE", "state.json"
_FOLDER = re.compile(r"step_(\d{8})")
_MIN_KEPT = 2
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint whose files are all there and unharmed."""

    path: Path
    step: int
    state: dict[str, Any]

    def load(self, group: str) -> dict[str, Tensor]:
        """Tensors of one group, on the CPU."""
        try:
            return load_file(self.path / f"{group}.safetensors")
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"The checkpoint {self.path} has no readable '{group}': {error}.") from error


def save_snapshot(
    folder: Path,
    step: int,
    groups: Groups,
    state: Mapping[str, Any],
    is_main: bool = True,
    barrier: Callable[[], None] = lambda: None,
) -> Path:
    """Commit one checkpoint under `folder`/checkpoints.

    With several processes all call it: each writes its own groups, the main one commits.

    Raises:
        TrainingError: A value is NaN or infinite: such a state is never saved.
        JournalError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    for name, tensors in groups.items():
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise TrainingError(f"Step {step} is not saved: '{key}' in {name} is NaN or infinite.")
    path = folder / CHECKPOINTS / f"step_{step:08d}"
    partial = path.with_name(path.name + ".tmp")
    if is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    try:
        num_bytes = sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values())
        require_free_bytes(partial, num_bytes, "this checkpoint")
        for name, tensors in groups.items():
            on_cpu = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
            write_safetensors(partial / f"{name}.safetensors", on_cpu, {"step": str(step)})
        barrier()
        if is_main:
            _commit(partial, path, {**state, "step": step})
        barrier()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def _commit(partial: Path, path: Path, state: Mapping[str, Any]) -> None:
    hashes = {file.stem: file_sha256(file) for file in sorted(partial.glob("*.safetensors"))}
    commit_json(partial / _STATE, {**state, "sha256": hashes})
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)
    commit_file(path / _COMPLETE, [b""], 0)


def find_latest(folder: Path) -> Snapshot | None:
    """The newest checkpoint that is whole; damaged ones are passed over with the reason in the log."""
    for path in sorted(_folders(folder), reverse=True):
        state, problem = _verified(path)
        if problem is None:
            return Snapshot(path, state["step"], state)
        logger.warning("the checkpoint %s is passed over: %s", path, problem)
    return None


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The state of the newest finished checkpoint, its tensors unread: to tell people about, not to go on from."""
    for path in sorted(_folders(folder), reverse=True):
        state = read_json(path / _STATE) if (path / _COMPLETE).exists() else None
        if state is not None:
            return state
    return None


def prune(folder: Path, keep_last: int, keep_every: int) -> None:
    """Delete checkpoints beyond the newest `keep_last` (at least 2) but multiples of `keep_every` (0: none)."""
    complete = [path for path in sorted(_folders(folder)) if (path / _COMPLETE).exists()]
    for path in complete[: -max(keep_last, _MIN_KEPT)]:
        if keep_every == 0 or _step_of(path) % keep_every:
            (path / _COMPLETE).unlink()  # first, so that a half deleted one is no checkpoint
            shutil.rmtree(path, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    return [path for path in (folder / CHECKPOINTS).glob("step_*") if _FOLDER.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _verified(path: Path) -> tuple[dict[str, Any], str | None]:
    """The state of a checkpoint and None, or what is wrong with it."""
    if not (path / _COMPLETE).exists():
        return {}, "it was not finished"
    state = read_json(path / _STATE)
    if state is None or not isinstance(state.get("sha256"), dict) or state.get("step") != _step_of(path):
        return {}, f"{_STATE} is damaged"
    for name, expected in state["sha256"].items():
        if file_sha256(path / f"{name}.safetensors") != expected:
            return {}, f"{name}.safetensors is damaged or missing"
    return state, None
