"""Options enter, the numbers of every arm, character and film leave: made now, or read from files of earlier runs."""

import argparse
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gloria_core.demo.files import ModelFiles
from gloria_core.demo.sizes import SIZES, WorldSizes
from gloria_core.demo.train_arm import ARMS as TRAINED
from gloria_core.durable_files import commit_json, file_sha256, read_json
from gloria_core.errors import CheckpointError
from gloria_core.model.dit import GloriaDiT
from gloria_core.sampling.denoise import SampleSettings
from gloria_core.toyworld.readout import Reader

from .arms import ARMS, REFERENCES
from .films import Film, make_film
from .measure import look_at, measure
from .report import SCHEMA, Films, results
from .sample import Lab, load_lab, load_model, reference, shoot

logger = logging.getLogger(__name__)

NOT_TRAINED = "not trained"
NOT_BLENDED = "given latents come back as they were: there is nothing to cross-fade"


class Scene(NamedTuple):
    """A film and who reads it."""

    film: Film
    reader: Reader


@dataclass(frozen=True)
class Bench:
    """One call of the command.

    Args:
        labs: by arm; trained arms have a model of their own.
        hashes: SHA-256 of the model's files by role, of trained arms by name.
    """

    options: argparse.Namespace
    world: WorldSizes
    labs: Mapping[str, Lab]
    skipped: Mapping[str, str]
    hashes: Mapping[str, Mapping[str, str | None]]

    def parts(self) -> dict[str, dict[int, Films]]:
        """Numbers by arm and character, of this process's share of the characters."""
        index, count = self.options.share
        numbers = list(range(self.options.identities))[index::count]
        made: dict[str, dict[int, Films]] = {name: {} for name in self.labs}
        for number in numbers:
            # Films and readers take longer to make than to use: all arms share them.
            scenes = functools.cache(functools.partial(self._scene, number))
            for name in self.labs:
                made[name][number] = self._part(name, number, scenes)
        return made

    def results(self, parts: Mapping[str, Mapping[int, Films]]) -> dict[str, Any]:
        """Everything as plain values."""
        options, folder = self.options, self.options.model.resolve()
        about = {
            "model": {"name": folder.parent.name if folder.name == "models" else folder.name, **self.hashes},
            "settings": {
                "scale": options.scale, "identities": list(range(options.identities)), "chunks": options.chunks,
                "programs": options.programs, "steps": options.steps, "cfg": options.cfg, "shift": options.shift,
                "seed": options.seed, "read_every": options.read_every, "device": options.device,
            },
        }  # fmt: skip
        return results(parts, options.programs, about, self.skipped)

    def _part(self, name: str, number: int, scenes: Callable[[str], Scene]) -> Films:
        """One character in one arm: its file if it is of these very inputs."""
        path = self.options.output.with_suffix(".parts") / name / f"held_out_{number:02d}.json"
        programs = [each for each in self.options.programs if name not in ARMS or each in ARMS[name].programs]
        inputs = self._inputs_sha256(name, programs)
        found = read_json(path)
        if found is not None and found.get("inputs_sha256") == inputs:
            return found["films"]
        started = time.perf_counter()
        films = {program: self._measured(name, scenes(program)) for program in programs}
        path.parent.mkdir(parents=True, exist_ok=True)
        commit_json(path, {"inputs_sha256": inputs, "films": films})
        logger.info("%s, character %d: %d films in %.0f s", name, number, len(films), time.perf_counter() - started)
        return films

    def _inputs_sha256(self, name: str, programs: Sequence[str]) -> str:
        """Of everything that decides a part's numbers."""
        options = self.options
        inputs = {
            "schema": SCHEMA, "files": self.hashes["files"], "weights": self.hashes["arms"].get(name),
            "arm": asdict(ARMS[name]) if name in ARMS else name, "world": asdict(self.world),
            "sampling": asdict(self.labs[name].settings), "chunks": options.chunks, "seed": options.seed,
            "programs": programs, "read_every": options.read_every,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _scene(self, number: int, program: str) -> Scene:
        film = make_film(self.world, number, program, self.options.chunks, self.options.seed)
        return Scene(film, Reader(film.source, self.options.device))

    def _measured(self, name: str, scene: Scene) -> dict[str, float | None]:
        lab, film = self.labs[name], scene.film
        shot = reference(lab, film, name) if name in REFERENCES else shoot(lab, film, ARMS[name])
        return measure(look_at(film, shot, scene.reader.read, self.options.read_every))


def _trained_model(name: str, path: Path, lab: Lab) -> GloriaDiT:
    """The weights of a trained arm, which must have been trained under the arm's settings."""
    model = load_model(path, lab.device)
    (arm,) = (arm for arm in TRAINED.values() if arm.benchmark == name)
    expected = asdict(replace(lab.model.config.gloria, **arm.settings))
    others = [f"{key} {value}" for key, value in asdict(model.config.gloria).items() if value != expected[key]]
    if others:
        wanted = ", ".join(f"{key} {value}" for key, value in arm.settings.items()) or "the full model's settings"
        raise CheckpointError(
            f"{path} is not the arm '{name}': it has {', '.join(others)}, expected {wanted}. Train it with python -m "
            f"gloria_core.demo.train --arm {arm.name}."
        )
    return model


def open_bench(options: argparse.Namespace) -> Bench:
    """Models and arms of a call.

    Raises:
        CheckpointError: A folder or file that is no demo model, or the file of another arm.
    """
    world = SIZES[options.scale].world
    settings = SampleSettings(steps=options.steps, cfg=options.cfg, shift=options.shift)
    lab = load_lab(options.model, world, settings, torch.device(options.device))
    trained: dict[str, Path] = dict(options.arm_model)
    names = options.arms or (*REFERENCES, *ARMS)
    skipped = {name: NOT_TRAINED for name in names if name in ARMS and ARMS[name].trained and name not in trained}
    if "no_blend" in names and not lab.model.config.takes_image_channels:
        skipped["no_blend"] = NOT_BLENDED
    labs = {name: lab for name in names if name not in skipped}
    for name, path in trained.items():
        labs[name] = replace(lab, model=_trained_model(name, path, lab))
    files = ModelFiles(options.model)
    paths = {"dit": files.dit, "vae": files.vae, "text": files.text_encoder, "audio": files.audio_encoder}
    hashes = {
        "files": {role: file_sha256(path) for role, path in paths.items()},
        "arms": {name: file_sha256(path) for name, path in trained.items()},
    }
    return Bench(options, world, labs, skipped, hashes)
