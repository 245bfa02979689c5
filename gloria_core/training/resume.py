"""A trainer's state goes into a snapshot; one of the same run comes back, or an error says what differs."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from ..data.cache_index import CacheIndex
from ..errors import CheckpointError, TrainingError
from .config import StageConfig, TrainConfig
from .distributed import Workers
from .snapshot import find_latest, prune, save_snapshot
from .trainer import Trainer

logger = logging.getLogger(__name__)

# They change where, how fast and how closely watched a run is, not what it computes.
_FREE_FIELDS = {"output", "name", "device", "memory", "validation", "checkpoints", "max_bad_steps"}
# Known by a digest, which tells people nothing.
_DIGESTS = {"base", "gloria", "data.dataset"}
_SAMPLED_BLOCKS, _BLOCK_BYTES = 256, 4096


def describe_run(config: TrainConfig, index: CacheIndex, world_size: int) -> dict[str, Any]:
    """Everything that decides a run's numbers: settings, the files it starts from, and the dataset."""
    settings = {key: value for key, value in config.to_dict().items() if key not in _FREE_FIELDS}
    data = {key: value for key, value in settings["data"].items() if key != "cache"}
    for key in ("base", "gloria"):
        settings[key] = None if settings[key] is None else file_digest(Path(settings[key]))
    dataset = hashlib.sha256(json.dumps(asdict(index), sort_keys=True).encode()).hexdigest()
    sharding = {"processes": world_size} if config.method == "full" and world_size > 1 else {}
    return {**settings, "data": {**data, "dataset": dataset}, **sharding}


def save_state(trainer: Trainer, run: Mapping[str, Any], folder: Path, workers: Workers) -> None:
    """Commit a snapshot and delete those no longer wanted."""
    checkpoints = trainer.config.checkpoints
    state = {**trainer.state(), "run": dict(run)}
    if workers.is_sharded:
        save_snapshot(folder, trainer.step, trainer.state_tensors(), state, workers.is_main, workers.barrier)
    elif workers.is_main:
        save_snapshot(folder, trainer.step, trainer.state_tensors(), state)
    if workers.is_main:
        prune(folder, keep_last=checkpoints.keep_last, keep_every=checkpoints.keep_every)
    workers.barrier()


def restore_latest(trainer: Trainer, run: Mapping[str, Any], folder: Path) -> bool:
    """Go on from the newest good snapshot; False when there is none.

    Raises:
        TrainingError: The snapshot belongs to other settings, files or data; each difference is named.
    """
    snapshot = find_latest(folder)
    if snapshot is None:
        return False
    check_same_run(snapshot.state["run"], run, trainer.config, snapshot.state["step"], folder)
    groups = {name: snapshot.load(name) for name in trainer.state_tensors()}
    trainer.restore(groups, snapshot.state)
    logger.info("going on after step %d", trainer.step)
    return True


def check_same_run(
    old: Mapping[str, Any], new: Mapping[str, Any], config: TrainConfig, step: int, folder: Path
) -> None:
    """Refuse to mix two runs. What lies in the future may change: later stages, and the length of the present one.

    Raises:
        TrainingError: With every value that differs.
    """
    if step > config.total_steps:
        raise TrainingError(
            f"{folder} holds a checkpoint of step {step}, this run has {config.total_steps} steps. Give the run "
            "another name, or more steps."
        )
    began = config.stage_at(max(0, step - 1))[0] + 1
    # A setting that is newer than the checkpoint had the value that is now its default.
    defaults = {entry.name: entry.default for entry in fields(StageConfig) if entry.default is not MISSING}
    stages = [{**defaults, **stage} for stage in old["stages"]]
    changes = list(
        differences({**old, "stages": _past(stages, began)}, {**new, "stages": _past(new["stages"], began)})
    )
    if changes:
        raise TrainingError(
            f"{folder} holds step {step} of another run: " + "; ".join(changes) + ". Give this run another name, or "
            "set the values back."
        )


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What two descriptions of a run do not share, one text for each value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for idx, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{name}[{idx}]")
    elif old != new:
        is_digest = name in _DIGESTS and None not in (old, new)
        yield f"{name} has another content" if is_digest else f"{name} was {_shown(old)}, now {_shown(new)}"


def file_digest(path: Path) -> str:
    """Fingerprint of a weights file of any size in milliseconds: its size and evenly spaced blocks."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for idx in range(_SAMPLED_BLOCKS):
                file.seek(idx * max(0, size - _BLOCK_BYTES) // (_SAMPLED_BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        raise CheckpointError(f"Cannot read the weights file {path}: {error.strerror or error}.") from error
    return digest.hexdigest()


def _past(stages: list[dict[str, Any]], began: int) -> list[dict[str, Any]]:
    """Stages that began; the length of the last of them is still open."""
    past = [dict(stage) for stage in stages[:began]]
    if past:
        past[-1].pop("steps")
    return past


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
