"""Numbers by arm, identity and film enter, the JSON of a run and its Markdown tables leave."""

import math
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from gloria_core.durable_files import commit_file
from gloria_core.errors import ToyWorldError

from .arms import ARMS, FULL, REFERENCES, Arm
from .statistics import DRAWS, LEVEL, SEED, Estimate, estimate, paired_difference, verdict

SCHEMA = 1
BEGIN, END = "<!-- toyworld benchmark: begin -->", "<!-- toyworld benchmark: end -->"
METRICS = {
    "readable": "frames that show the character at all",
    "view_error": "view at the ends of chunks, degrees off",
    "yaw_error": "turn in all frames, degrees off",
    "expression": "expression at the ends of chunks, right",
    "mark_seen": "front mark, right",
    "mark_unseen": "back and sleeve marks, right",
    "mark_color_unseen": "color of back and sleeve marks, right",
    "mark_drift": "marks, right, change per chunk",
    "back_shows_front": "back wears the front's mark",
    "quirk": "cheeks that only an expression anchor shows, right",
    "leak": "expression worn in the front anchor instead of the prompt's",
    "copy": "pose of an anchor instead of the program's",
    "room_delta": "room, delta E",
    "palette_delta": "palette, delta E",
    "room_drift": "room, delta E per chunk",
    "palette_drift": "palette, delta E per chunk",
    "identity_drift": "misfit to the character, % per chunk",
    "sync": "mouth with speech, r",
    "sync_contrast": "best lag's r above the median lag's",
    "sync_lag": "best lag of the mouth, frames",
    "seam_jump": "change at seams, relative to beside them",
    "chunk_seconds": "seconds to denoise a chunk",
}
# The clock and what a doll that is drawn frame by frame cannot show.
_NO_CHANCE = {"readable", "room_delta", "palette_delta", "seam_jump", "chunk_seconds"} | {
    name for name in METRICS if name.endswith("_drift")
}
Films = Mapping[str, Mapping[str, float | None]]
"""By program, then by metric."""
Parts = Mapping[str, Mapping[int, Films]]
"""By arm, then by identity."""


def by_identity(films: Mapping[int, Films], metric: str, programs: Iterable[str]) -> dict[int, float | None]:
    """The mean over the programs in which a metric could be asked."""
    chosen, result = list(programs), {}
    for number, own in films.items():
        values = [own[name][metric] for name in chosen if name in own and own[name][metric] is not None]
        result[number] = sum(values) / len(values) if values else None
    return result


def results(parts: Parts, programs: Iterable[str], about: Mapping[str, Any], skipped: Mapping[str, str]) -> dict:
    """Everything as plain values."""
    programs = list(programs)
    arms = {}
    for name, films in parts.items():
        arm = ARMS.get(name, Arm(name=name, says=""))
        shared = [program for program in programs if program in arm.programs]
        arms[name] = {
            "programs": shared,
            "metrics": {metric: _plain(estimate(by_identity(films, metric, shared))) for metric in METRICS},
        }
        if name != FULL and name not in REFERENCES and FULL in parts:
            arms[name]["against_full"] = _against_full(films, parts[FULL], arm, shared)
    return {
        "schema": SCHEMA,
        **about,
        "bootstrap": {"draws": DRAWS, "level": LEVEL, "seed": SEED, "over": "identities"},
        "machine": machine(),
        "arms": arms,
        "skipped": dict(skipped),
        "parts": {name: {str(number): films for number, films in each.items()} for name, each in parts.items()},
    }


def _against_full(films: Mapping[int, Films], full: Mapping[int, Films], arm: Arm, programs: list[str]) -> dict:
    """Every metric on the films that both have; a verdict where the arm is expected to move."""
    table = {}
    for metric in METRICS:
        own, reference = (by_identity(each, metric, programs) for each in (films, full))
        difference = paired_difference(own, reference)
        table[metric] = {"full": _plain(estimate(reference)), "difference": _plain(difference)}
        if metric in arm.moves:
            table[metric] |= {"direction": arm.moves[metric], "verdict": verdict(difference, arm.moves[metric])}
    return table


def machine() -> dict[str, Any]:
    """Where this was run."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(), "processor": platform.processor() or platform.machine(), "gpu": gpu,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def markdown(result: Mapping[str, Any]) -> str:
    """Two tables and what they were made from."""
    arms = result["arms"]
    lines = [_headline(result), "", "| reading | truth | autoencoder | chance | full |", "|---|---|---|---|---|"]
    for metric, says in METRICS.items():
        cells = [
            "" if name == "chance" and metric in _NO_CHANCE else _cell(arms.get(name), metric)
            for name in (*REFERENCES, FULL)
        ]
        lines.append(f"| {says} | " + " | ".join(cells) + " |")
    lines += ["", "| arm | reading | full | arm | arm - full | |", "|---|---|---|---|---|---|"]
    for name, arm in ARMS.items():
        for metric in arm.moves:
            own = arms.get(name)
            if own is not None:
                row = own["against_full"][metric]
                cells = [_interval(row["full"]), _cell(own, metric), _interval(row["difference"]), row["verdict"]]
            else:
                cells = ["", "", "", result["skipped"].get(name, "not run")]
            lines.append(f"| {arm.says} | {METRICS[metric]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _headline(result: Mapping[str, Any]) -> str:
    settings, model = result["settings"], result["model"]
    device = result["machine"]["gpu"] if settings["device"] == "cuda" else result["machine"]["processor"]
    return (
        f"Model `{model['name']}` (SHA-256 of the diffusion model {model['files']['dit'][:12]}), "
        f"{len(settings['identities'])} held-out characters, {settings['chunks']} chunks, programs "
        f"{', '.join(settings['programs'])}, {settings['steps']} steps, cfg {settings['cfg']:g}, seed "
        f"{settings['seed']}; {device}, torch {result['machine']['torch']}. Means with {LEVEL:.0%} bootstrap intervals "
        "over characters; an arm separates if the interval of its paired difference leaves out 0."
    )


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of a Markdown file.

    Raises:
        ToyWorldError: The file has no such markers.
    """
    content = path.read_text(encoding="utf-8") if path.exists() else ""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(content):
        raise ToyWorldError(f"{path} has no place for the table: put the lines {BEGIN} and {END} there.")
    data = pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", content).encode()
    commit_file(path, [data], len(data))


def _plain(value: Estimate | None) -> dict[str, Any] | None:
    """JSON has no NaN."""
    if value is None:
        return None
    return {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in value._asdict().items()}


def _cell(arm: Mapping[str, Any] | None, metric: str) -> str:
    return "" if arm is None else _interval(arm["metrics"][metric])


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    mean = _number(value["mean"])
    return mean if value["low"] is None else f"{mean} ({_number(value['low'])}, {_number(value['high'])})"


def _number(value: float) -> str:
    return f"{value:.3g}" if value else "0"
