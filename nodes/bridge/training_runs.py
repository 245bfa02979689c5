"""Run folders inside ComfyUI's output folder: their names, how they begin, and where their results are published."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import folder_paths
import yaml
from comfy import model_management

from ...gloria_core.data.cache_index import CacheIndex
from ...gloria_core.durable_files import file_sha256, publish_file
from ...gloria_core.errors import TrainingError
from ...gloria_core.training.config import TrainConfig
from ...gloria_core.training.resume import describe_run, differences
from ...gloria_core.training.run_folder import CONFIG, STATUS, is_running, read_status
from ...gloria_core.training.snapshot import newest_state
from ...gloria_core.training.stages import resolve_stages
from .paths import contained

RUNS_FOLDER = "gloria/training"
MODEL_FOLDERS = {"lora": "loras", "gloria": "gloria", "merged": "diffusion_models"}
_PUBLISHED_IN = "gloria"
ENDED = ("finished", "stopped", "failed")
GONE = "gone"
_DIGEST_CHARS = 8


def runs_root() -> Path:
    """The folder of all runs."""
    return contained(Path(folder_paths.get_output_directory()) / RUNS_FOLDER, RUNS_FOLDER)


def run_path(config: TrainConfig, index: CacheIndex) -> Path:
    """The folder of a run: equal settings, files and data come back to it; the number of steps may change."""
    description = _without_steps(describe_run(config, index, 1))
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]
    return runs_root() / f"{config.name}-{digest}"


def how_it_begins(folder: Path, config: TrainConfig, index: CacheIndex) -> str:
    """A line about where a run starts from: its own checkpoint, or anew and what changed since the last one."""
    if is_running(folder):
        total = (read_status(folder) or {}).get("total_steps")
        more = f"; it ends at step {total}, queue again then to go on" if total and total < config.total_steps else ""
        return f"{folder.name} was found running{more}"
    own = newest_state(folder)
    if own is not None:
        return f"{folder.name} goes on after step {own['step']}"
    for name in run_names():
        older = newest_state(runs_root() / name)
        if name[: -_DIGEST_CHARS - 1] == config.name and older is not None:
            now = describe_run(resolve_stages(config, index), index, 1)
            changes = ", ".join(differences(_without_steps(older["run"]), _without_steps(now)))
            return f"new run {folder.name} beside {name} (step {older['step']}), because of changes: {changes}"
    return f"new run {folder.name}"


def _without_steps(description: dict[str, Any]) -> dict[str, Any]:
    stages = [{key: value for key, value in stage.items() if key != "steps"} for stage in description["stages"]]
    return {**description, "stages": stages}


def training_device() -> str:
    """Where a run of this ComfyUI trains."""
    return "cuda" if model_management.get_torch_device().type == "cuda" else "cpu"


def run_names() -> list[str]:
    """Names of all runs, the newest first."""
    root = runs_root()
    runs = [path for path in root.glob("*") if (path / STATUS).is_file()] if root.is_dir() else []
    return [path.name for path in sorted(runs, key=lambda path: (path / STATUS).stat().st_mtime, reverse=True)]


def runs_of(run_name: str) -> list[str]:
    """Names of the runs that Gloria Train started under `run_name`, the newest first."""
    own = re.compile(rf"{re.escape(run_name)}-[0-9a-f]{{{_DIGEST_CHARS}}}")
    return [name for name in run_names() if own.fullmatch(name)]


def how_it_is(folder: Path) -> tuple[str, dict[str, Any]]:
    """State and status of a run; `GONE` is the state of one whose process ended without a word."""
    # In this order: a run that ends in between has then written how it ended.
    is_alive = is_running(folder)
    status = read_status(folder) or {}
    state = status.get("state", "starting")
    return (state if is_alive or state in ENDED else GONE), status


def named_run(name: str) -> Path:
    """The folder of a run by name.

    Raises:
        TrainingError: No such run.
    """
    if name not in run_names():
        known = f"Known are: {', '.join(run_names())}." if run_names() else "Queue Gloria Train first."
        raise TrainingError(f"There is no training run {name[:80]!r}. {known}")
    return runs_root() / name


def living_runs(besides: Path | None = None) -> list[str]:
    """Names of the runs that are training now."""
    folders = [runs_root() / name for name in run_names()]
    waiting = [path for path in folders if path != besides and (read_status(path) or {}).get("state") not in ENDED]
    return [path.name for path in waiting if is_running(path)]


def uses_our_device(name: str) -> bool:
    """Whether a run trains on the device that this ComfyUI works on."""
    try:
        device = yaml.safe_load((runs_root() / name / CONFIG).read_text(encoding="utf-8"))["device"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return True
    return device in ("auto", training_device())


def publish_results(results: dict[str, str]) -> dict[str, str]:
    """Put results where stock loaders list them; the names they are listed under, by role.

    A file that is there already is kept: an equal one is used, beside another one the new one gets a number.
    """
    names = {}
    for role, file in results.items():
        source = Path(file)
        kind = MODEL_FOLDERS[role]
        subfolder = "" if kind == _PUBLISHED_IN else _PUBLISHED_IN
        folder = Path(folder_paths.get_folder_paths(kind)[0]) / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        target = _free_name(source, folder)
        if not target.exists():
            _link_or_copy(source, target)
        names[role] = str(Path(subfolder) / target.name)
    return names


def _free_name(source: Path, folder: Path) -> Path:
    digest, target, number = "", folder / source.name, 1
    while target.exists() and not target.samefile(source):
        digest = digest or str(file_sha256(source))
        if file_sha256(target) == digest:
            break
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
