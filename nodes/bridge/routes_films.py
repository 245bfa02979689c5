"""What the player asks enters; the takes of a film, their chunks, previews and what they looked at leave.

Read from the job folders, so a reload of the page or a restart of ComfyUI loses nothing. Nothing is changed.
"""

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths

from ...gloria_core.analysis.attention_chart import color_of, seconds_of_latents
from ...gloria_core.analysis.attention_curves import read_film_attention
from ...gloria_core.conditioning.cues import new_frames
from ...gloria_core.durable_files import read_json
from ...gloria_core.sampling.job_folder import (
    JOB_FILE,
    ChunkRecord,
    check_job_name,
    data_path,
    job_folders,
    job_of_folder,
    read_plan,
    record_path,
)
from ...gloria_core.sampling.plan import MAX_SEED, Chunk, ChunkPlan, chunk_seed
from ...gloria_core.shapes import pixel_frames_for
from .paths import JOBS_FOLDER, MissingFileError, existing_file
from .player_previews import ROUGH, preview_path, preview_record_path
from .player_status import running_film
from .routes import get
from .timeline import DEFAULT_FPS

_MAX_TAKES = 20
_INDEX = re.compile(r"\d{1,6}", re.ASCII)


def _takes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The folders of one job name, the most recently used first."""
    job = str(values.get("job", ""))
    check_job_name(job)
    root = Path(folder_paths.get_output_directory()) / JOBS_FOLDER
    names = [folder.name for folder in job_folders(root, job)[:_MAX_TAKES]]
    return [{"folder": name, "running": running_film(name) is not None} for name in names]


def _film(values: dict[str, Any]) -> dict[str, Any]:
    """One take: its chunks with times, seeds, cues and state, and what is going on."""
    folder, description = _job(values["folder"])
    plan = read_plan(folder)
    running = running_film(folder.name)
    own = description.get("chunk_inputs") or [{}] * len(plan.chunks)
    seed = _value(description.get("inputs"), "seed")
    chunks = [_chunk(folder, chunk, plan, seed, entry) for chunk, entry in zip(plan.chunks, own, strict=False)]
    return {"folder": folder.name, "job": job_of_folder(folder.name), "chunks": chunks, "running": running}


def _preview(values: dict[str, Any]) -> Path:
    """The small video of a chunk."""
    folder, _ = _job(values["folder"])
    if not _INDEX.fullmatch(values["index"]):
        raise MissingFileError
    return _file(folder.name, preview_path(folder, int(values["index"])).name)


def _attention(values: dict[str, Any]) -> dict[str, Any]:
    """What every latent of a take looked at, as far as it was sampled with a probe."""
    folder, _ = _job(values["folder"])
    plan = read_plan(folder)
    attention = read_film_attention(folder, plan)
    rate = _rate(read_json(preview_record_path(folder, 0)))
    curves = [
        {"kind": kind, "label": label, "color": color_of((kind, label)), "shares": _rounded(curve_T.tolist()),
         "even": _rounded(attention.even_T[kind, label].tolist())}
        for (kind, label), curve_T in attention.curves_T.items()
    ]  # fmt: skip
    return {"seconds": seconds_of_latents(plan.total_latents, float(rate)), "curves": curves}


def _rounded(values: list[float]) -> list[float | None]:
    return [round(value, 5) if math.isfinite(value) else None for value in values]


def _job(name: str) -> tuple[Path, dict[str, Any]]:
    if job_of_folder(name) is None:
        raise MissingFileError
    path = _file(name, JOB_FILE)
    return path.parent, read_json(path) or {}


def _file(folder_name: str, name: str) -> Path:
    return existing_file(folder_paths.get_output_directory(), f"{JOBS_FOLDER}/{folder_name}/{name}")


def _chunk(folder: Path, chunk: Chunk, plan: ChunkPlan, seed: Any, own: Any) -> dict[str, Any]:
    record = ChunkRecord.read(record_path(folder, chunk.index))
    is_done = record is not None and data_path(folder, chunk.index).is_file()
    preview = read_json(preview_record_path(folder, chunk.index)) if is_done else None
    has_preview = preview is not None and preview.get("chunk") == record.sha256
    first, stop = new_frames(chunk, pixel_frames_for(plan.total_latents))
    rate = _rate(preview)
    own_seed = _value(own, "seed")
    if own_seed is None and isinstance(seed, int) and 0 <= seed <= MAX_SEED:
        own_seed = chunk_seed(seed, chunk.index)
    return {
        "index": chunk.index,
        "is_done": is_done,
        "start": float(first / rate),
        "seconds": float((stop - first) / rate),
        # As text: the page's numbers cannot hold 64 bits.
        "seed": str(record.seed if record is not None else own_seed),
        "preview": record.sha256[:16] if has_preview else None,
        "is_rough": has_preview and preview.get("pictures") == ROUGH,
        "prompt": _value(own, "prompt"),
        "anchors": _value(own, "anchors"),
    }


def _rate(preview: dict[str, Any] | None) -> Fraction:
    try:
        return Fraction(str((preview or {}).get("fps", DEFAULT_FPS))) or Fraction(DEFAULT_FPS)
    except (ValueError, ZeroDivisionError):
        return Fraction(DEFAULT_FPS)


def _value(inputs: Any, name: str) -> Any:
    entry = inputs.get(name) if isinstance(inputs, dict) else None
    return entry.get("value") if isinstance(entry, dict) else None


FILM_ROUTES = [
    get("films", _takes),
    get("films/{folder}", _film),
    get("films/{folder}/attention", _attention),
    get("films/{folder}/previews/{index}", _preview),
]
