"""Run folders inside ComfyUI's output folder: their names, what is in them, and where their results are published."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import folder_paths

from ...gloria_core.data.cache_index import CacheIndex
from ...gloria_core.durable_files import file_sha256, publish_file
from ...gloria_core.errors import TrainingError
from ...gloria_core.training.config import TrainConfig
from ...gloria_core.training.resume import describe_run
from ...gloria_core.training.run_folder import STATUS, is_running, read_status
from .paths import contained
from .progress import format_seconds

RUNS_FOLDER = "gloria/training"
_MODEL_FOLDERS = {"lora": "loras", "gloria": "gloria", "merged": "diffusion_models"}
_PUBLISHED_IN = "gloria"
_ENDED = ("finished", "stopped", "failed")


def runs_root() -> Path:
    """The folder of all runs."""
    return contained(Path(folder_paths.get_output_directory()) / RUNS_FOLDER, RUNS_FOLDER)


def run_path(config: TrainConfig, index: CacheIndex) -> Path:
    """The folder of a run: equal settings, files and data come back to it; the number of steps may change."""
    description = describe_run(config, index, 1)
    for stage in description["stages"]:
        del stage["steps"]
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]
    return runs_root() / f"{config.name}-{digest}"


def run_names() -> list[str]:
    """Names of all runs, the newest first."""
    root = runs_root()
    runs = [path for path in root.glob("*") if (path / STATUS).is_file()] if root.is_dir() else []
    return [path.name for path in sorted(runs, key=lambda path: (path / STATUS).stat().st_mtime, reverse=True)]


def named_run(name: str) -> Path:
    """The folder of a run by name.

    Raises:
        TrainingError: No such run.
    """
    if name not in run_names():
        raise TrainingError(f"There is no training run {name[:80]!r}. Known are: {', '.join(run_names()) or 'none'}.")
    return runs_root() / name


def living_runs(besides: Path | None = None) -> list[str]:
    """Names of the runs that are training now."""
    folders = [runs_root() / name for name in run_names()]
    waiting = [path for path in folders if path != besides and (read_status(path) or {}).get("state") not in _ENDED]
    return [path.name for path in waiting if is_running(path)]


def publish_results(results: dict[str, str]) -> dict[str, str]:
    """Put results where stock loaders list them; the names they are listed under, by role.

    A file that is there already is kept: an equal one is used, beside another one the new one gets a number.
    """
    names = {}
    for role, file in results.items():
        source = Path(file)
        kind = _MODEL_FOLDERS[role]
        subfolder = "" if kind == _PUBLISHED_IN else _PUBLISHED_IN
        folder = Path(folder_paths.get_folder_paths(kind)[0]) / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        target = _free_name(source, folder)
        if not target.exists():
            _link_or_copy(source, target)
        names[role] = str(Path(subfolder) / target.name)
    return names


def _free_name(source: Path, folder: Path) -> Path:
    digest = file_sha256(source)
    target, number = folder / source.name, 1
    while target.exists() and file_sha256(target) != digest:
        number += 1
        target = folder / f"{source.stem}_{number}{source.suffix}"
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        publish_file(partial, target)


def status_line(status: dict[str, Any]) -> str:
    """One line about a run, for people."""
    step, total = status.get("step", 0), status.get("total_steps", 0)
    parts = [str(status.get("state", "starting")), f"step {step}/{total}"]
    if status.get("stage"):
        parts.append(str(status["stage"]))
    if status.get("smooth_loss") is not None:
        parts.append(f"loss {status['smooth_loss']:.4f}")
    if status.get("seconds_per_step"):
        parts.append(f"{status['seconds_per_step']:.2f} s/step")
    if status.get("state") == "training" and status.get("eta_seconds") is not None:
        parts.append(f"{format_seconds(status['eta_seconds'])} left")
    if status.get("memory_bytes"):
        parts.append(f"{status['memory_bytes'] / 2**30:.1f} GiB")
    if status.get("message"):
        parts.append(str(status["message"]))
    return ", ".join(parts)
