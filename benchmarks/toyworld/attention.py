"""The paper's two analyses of attention (sec. 5.4) on the benchmark's films: a model enters, JSON and pictures leave.

    python -m benchmarks.toyworld.attention --model gloria_demo/models --output attention

Held-out characters turn (program `turning`) and talk to the camera (`talking`), with all anchors of the arm `full`.
    fig9_chunks.png    attention to the global anchor and to a chunk's first latent, over the chunks of sampled films
    fig9_maps.png      what each latent of some chunks of the first film looks at; anchors at the right
    fig10_sampled.png  attention to the front and back anchor over how far the sampled character is seen to be turned
    fig10_shown.png    the same where the model is shown the true film under noise, as in training: exact angles
    fig10_time.png     attention to the back anchor in the first character's sampled films, over time
    attention.json     the numbers of the curves, also by the angle that was asked for
"""

import argparse
import logging
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloria_core.analysis.attention_chart import Curve, color_of, draw_curves, draw_maps, seconds_of_latents
from gloria_core.analysis.attention_curves import AngleBin, share_by_angle
from gloria_core.analysis.attention_probe import ProbeSettings
from gloria_core.demo.files import ModelFiles
from gloria_core.demo.sizes import SIZES
from gloria_core.durable_files import commit_json, file_sha256
from gloria_core.errors import GloriaError
from gloria_core.model.anchor_tokens import Slot
from gloria_core.sampling.denoise import SampleSettings
from gloria_core.toyworld.character import NUM_HELD_OUT
from gloria_core.toyworld.readout import Reader

from .films import Film, make_film
from .looks import Looks, asked_yaw, sampled, seen_yaw, shown
from .report import machine
from .sample import load_lab

logger = logging.getLogger(__name__)

SCHEMA = 1
GLOBAL, FRONT, BACK = ("global", "global"), ("viewpoint", "front"), ("viewpoint", "back")
TURNING, TALKING = "turning", "talking"
FIRST_LATENT = "first latent"
_GRAY = "#8a929e"
_MAX_MAPS = 4
_FIG10 = {"front": FRONT, "back": BACK}


class Watched(NamedTuple):
    """A sampled film and what was looked at in it."""

    film: Film
    looks: Looks
    frames_THWC: Tensor


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the JSON and the pictures."""
    world = SIZES[options.scale].world
    settings = SampleSettings(steps=options.steps, cfg=options.cfg, shift=options.shift)
    lab = load_lab(options.model, world, settings, torch.device(options.device))
    probe = ProbeSettings(options.blocks, options.looks)
    watched: dict[str, list[Watched]] = {TURNING: [], TALKING: []}
    for number in range(options.identities):
        for program, films in watched.items():
            film = make_film(world, number, program, options.chunks, options.seed)
            films.append(Watched(film, *sampled(lab, film, probe)))
            logger.info("character %d, %s", number, program)
    of_truth = [shown(lab, film, probe) for film, *_ in watched[TURNING]]
    options.output.mkdir(parents=True, exist_ok=True)
    result = {
        "schema": SCHEMA,
        "model": {"name": str(options.model), "dit": file_sha256(ModelFiles(options.model).dit)},
        "settings": {key: value for key, value in vars(options).items() if not isinstance(value, Path)},
        "machine": machine(),
        "over_chunks": over_chunks([*watched[TURNING], *watched[TALKING]], options.output),
        "over_angle": over_angle(watched[TURNING], of_truth, options.output),
        "over_time": over_time({program: films[0] for program, films in watched.items()}, options.output),
    }
    commit_json(options.output / "attention.json", result)
    return result


def over_chunks(films: Sequence[Watched], output: Path) -> dict[str, Any]:
    """Fig. 9: means over films with their standard errors, and maps of the first film."""
    tables = {
        "global": summaries([film.looks.by_chunk(GLOBAL) for film in films]),
        FIRST_LATENT: summaries([film.looks.by_chunk(None) for film in films]),
    }
    colors = {"global": color_of(GLOBAL), FIRST_LATENT: _GRAY}
    curves = [
        Curve(name, colors[name], [(idx, mean) for idx, (mean, _) in enumerate(table)], [error for _, error in table])
        for name, table in tables.items()
    ]
    title = "attention of the latents a chunk adds"
    draw_curves(curves, "chunk", title=title, min_tick=1).save(output / "fig9_chunks.png")
    maps = films[0].looks.maps
    chosen = sorted({round(idx * (len(maps) - 1) / (_MAX_MAPS - 1)) for idx in range(_MAX_MAPS)})
    picture = draw_maps([maps[idx] for idx in chosen], [f"chunk {idx}" for idx in chosen])
    picture.save(output / "fig9_maps.png")
    numbers = {
        name: [{"mean": mean, "standard_error": finite(error)} for mean, error in table]
        for name, table in tables.items()
    }
    return {**numbers, "even_global": films[0].looks.even[GLOBAL]}


def over_angle(films: Sequence[Watched], of_truth: Sequence[Looks], output: Path) -> dict[str, Any]:
    """Fig. 10: by angle over all films that turn.

    Args:
        of_truth: looks at the same films as they should be.
    """
    asked = [asked_yaw(watched.film) for watched in films]
    seen = [seen_yaw(film, frames_THWC, Reader(film.source).read) for film, _, frames_THWC in films]
    looks = [watched.looks for watched in films]
    angles = {
        name: list(zip(of, yaws, strict=True))
        for name, of, yaws in (("seen", looks, seen), ("asked", looks, asked), ("shown", of_truth, asked))
    }
    tables = {
        name: {label: by_angle(pairs, slot) for label, slot in _FIG10.items()} for name, pairs in angles.items()
    }
    if not tables["seen"]["back"]:
        logger.warning("no sampled frame shows a readable character: fig10_sampled.png has no curve")
    for name, file, title in (("seen", "sampled", "sampled films"), ("shown", "shown", "the true films under noise")):
        curves = [angle_curve(label, slot, tables[name][label]) for label, slot in _FIG10.items()]
        title = f"attention to anchors, {title}"
        picture = draw_curves(curves, "degrees away from the camera", title=title, x_range=(0.0, 180.0))
        picture.save(output / f"fig10_{file}.png")
    numbers = {
        name: {label: [plain(entry) for entry in bins] for label, bins in table.items()}
        for name, table in tables.items()
    }
    return {**numbers, "even": {label: looks[0].even[slot] for label, slot in _FIG10.items()}}


def over_time(films: Mapping[str, Watched], output: Path) -> dict[str, Any]:
    """The back anchor over the seconds of one film that turns and one that does not, beside the angle asked for."""
    colors, curves, numbers = {TURNING: color_of(BACK), TALKING: _GRAY}, [], {}
    for program, watched in films.items():
        seconds = seconds_of_latents(watched.film.plan.total_latents, watched.film.source.fps)
        back = watched.looks.at(BACK).tolist()
        curves.append(Curve(program, colors[program], list(zip(seconds, back, strict=True))))
        numbers[program] = {
            "seconds": seconds, "back": back,
            "asked_degrees": [abs(math.degrees(yaw)) for yaw in asked_yaw(watched.film).tolist()],
        }  # fmt: skip
    draw_curves(curves, "seconds", title="attention to the back anchor").save(output / "fig10_time.png")
    return numbers


def by_angle(pairs: Sequence[tuple[Looks, Tensor]], slot: Slot) -> list[AngleBin]:
    """Attention to an anchor over the facing angle; latents without an angle count for nothing."""
    shares_T, yaw_T = torch.cat([looks.at(slot) for looks, _ in pairs]), torch.cat([yaw_T for _, yaw_T in pairs])
    has_angle_T = yaw_T.isfinite()
    return share_by_angle(shares_T[has_angle_T], yaw_T[has_angle_T])


def angle_curve(name: str, slot: Slot, bins: Sequence[AngleBin]) -> Curve:
    points = [(entry.degrees, entry.mean) for entry in bins]
    return Curve(name, color_of(slot), points, [entry.standard_error for entry in bins])


def summaries(films: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Mean over films and its standard error, chunk by chunk."""
    table = []
    for values in zip(*films, strict=True):
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        table.append((statistics.fmean(values), error))
    return table


def plain(entry: AngleBin) -> dict[str, float | None]:
    return {name: finite(value) for name, value in entry._asdict().items()}


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.toyworld.attention", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, help="folder with the four files of a demo model")
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON and the pictures")
    parser.add_argument("--scale", choices=tuple(SIZES), default="cpu", help="the one the model was trained at")
    parser.add_argument("--identities", type=int, default=4, help="held-out characters")
    parser.add_argument("--chunks", type=int, default=6, help="of each film")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--shift", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0, help="of films, anchors and noise")
    parser.add_argument("--blocks", type=int, default=4, help="blocks to look at")
    parser.add_argument("--looks", type=int, default=3, help="steps to look at")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if not 1 <= options.identities <= NUM_HELD_OUT or options.chunks < 2:
        parser.error(f"--identities is 1 to {NUM_HELD_OUT}, --chunks 2 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        run(options)
    except GloriaError as error:
        logger.error("%s", error)
        return 1
    print(options.output / "attention.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
