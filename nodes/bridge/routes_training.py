"""What the training monitor asks enters; how a run is, its losses and its validation clips leave. It may ask the run
to stop, to save and to sample, and put what a run saved into the folders of the loaders.

All of it is read from the run's folder, so it does not matter which tab, server or command line started the run.
"""

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ...gloria_core.errors import TrainingError
from ...gloria_core.training.run_folder import (
    RESULTS,
    SAMPLES,
    STATUS,
    is_running,
    pending_requests,
    read_status,
    request,
)
from ...gloria_core.training.run_history import RunHistory
from .paths import MissingFileError, existing_file
from .routes import Picture, get, post
from .training_runs import ENDED, GONE, MODEL_FOLDERS, how_it_is, publish_results, run_names, runs_of, runs_root
from .training_samples import clip_steps, is_clip_name, rough_clip

_MAX_RUNS = 50
_MAX_CLIP_STEPS = 1000
_MAX_HISTORIES = 8
_SHOWN = (
    "message", "warning", "error", "step", "total_steps", "stage", "lr", "smooth_loss", "seconds_per_step",
    "eta_seconds", "memory_bytes", "elapsed_seconds",
)
_DIGITS = 5

_histories: OrderedDict[Path, RunHistory] = OrderedDict()
_lock = threading.Lock()  # several tabs may ask at once


def _runs(values: dict[str, Any]) -> list[str]:
    """Names of runs, the newest first: all, or those that Gloria Train started under `name`."""
    names = runs_of(str(values["name"])) if "name" in values else run_names()
    return names[:_MAX_RUNS]


def _run(values: dict[str, Any]) -> dict[str, Any]:
    """How a run is, and the points of its curve that the page does not have yet.

    `version`, `after` and `held_out_after` say what the page has; everything comes when that no longer holds.
    """
    folder = _folder(values["run"])
    state, status = how_it_is(folder)
    return {
        "run": folder.name,
        "state": state,
        "is_running": state not in (*ENDED, GONE),
        **{key: status.get(key) for key in _SHOWN},
        "results": list(_results(status).values()),
        "asked": pending_requests(folder),
        "clips": _clips_version(folder),
        **_curve(folder, status, values),
    }


def _curve(folder: Path, status: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    with _lock:
        history = _histories.setdefault(folder, RunHistory(folder))
        _histories.move_to_end(folder)
        if len(_histories) > _MAX_HISTORIES:
            _histories.popitem(last=False)
        history.update(status.get("started"))
        is_known = values.get("version") == history.version
        after, held_out_after = (_step(values, name) if is_known else -1 for name in ("after", "held_out_after"))
        return {
            "version": history.version,
            "points": [_rounded(point) for point in history.steps_after(after)],
            "held_out": [_rounded(point) for point in history.held_out_after(held_out_after)],
            "stages": history.stages,
            "bins": {"first": _rounded(history.first_bins), "last": _rounded(history.last_bins)},
        }


def _clips(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps that have validation clips."""
    return clip_steps(_folder(values["run"]), _MAX_CLIP_STEPS)


def _clip(values: dict[str, Any]) -> Path | Picture:
    """One clip: `step_000100_clip0.mp4` as it was decoded, `.webp` roughly, from its latents."""
    folder = _folder(values["run"])
    name, _, suffix = values["file"].partition(".")
    if not is_clip_name(name) or suffix not in ("mp4", "webp"):
        raise MissingFileError
    file = existing_file(folder, f"{SAMPLES}/{name}.{'mp4' if suffix == 'mp4' else 'safetensors'}")
    return file if suffix == "mp4" else Picture(rough_clip(file), "image/webp")


def _ask(values: dict[str, Any]) -> dict[str, Any]:
    """Hand a run a request: stop, save or sample."""
    folder = _folder(values["run"])
    if not is_running(folder):
        raise TrainingError(f"{folder.name} is not running. Queue Gloria Train again to go on with it.")
    request(folder, values.get("request"))
    return {"asked": pending_requests(folder)}


def _publish(values: dict[str, Any]) -> dict[str, Any]:
    """Put the results of a run where loaders list them; the names they are listed under, by role."""
    folder = _folder(values["run"])
    # The status may come from a stranger: only files that the run itself wrote are taken.
    results = _results(read_status(folder) or {})
    return publish_results({role: str(existing_file(folder, f"{RESULTS}/{name}")) for role, name in results.items()})


def _results(status: dict[str, Any]) -> dict[str, str]:
    """Names of the newest results by role."""
    results = status.get("results")
    known = results.items() if isinstance(results, dict) else ()
    return {role: Path(str(file)).name for role, file in known if role in MODEL_FOLDERS}


def _folder(name: str) -> Path:
    try:
        return existing_file(runs_root(), f"{name}/{STATUS}" if "/" not in name else "").parent
    except MissingFileError:
        raise MissingFileError("There is no such training run in ComfyUI's output folder.") from None


def _clips_version(folder: Path) -> str:
    """Changes when a clip is written or decoded."""
    try:
        return str((folder / SAMPLES).stat().st_mtime_ns)
    except OSError:
        return ""


def _step(values: dict[str, Any], name: str) -> int:
    text = str(values.get(name, ""))
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else -1


def _rounded(numbers: Any) -> list[Any]:
    return [float(f"{number:.{_DIGITS}g}") if isinstance(number, float) else number for number in numbers]


TRAINING_ROUTES = (
    get("training", _runs),
    get("training/{run}", _run),
    get("training/{run}/clips", _clips),
    get("training/{run}/clips/{file}", _clip),
    post("training/{run}/request", _ask),
    post("training/{run}/publish", _publish),
)
