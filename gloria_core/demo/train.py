"""One command trains the whole demo model: sizes enter, four files that ComfyUI loads leave.

    python -m gloria_core.demo.train --scale gpu --output gloria_demo
    python -m gloria_core.demo.train --scale gpu --output gloria_demo --arm no_offsets

autoencoder -> text and speech encoders -> datasets of the toy world -> base from scratch -> speech and global anchor ->
pictures from anchors alone -> identity anchors -> export. Every part is skipped when it is done and goes on where it
was cut, so the same command resumes after anything. With --arm an ablation is trained beside it, from the full model as
it was before its identity anchors.
docs/demo_model.md tells sizes and costs.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..data.cache_index import INDEX_NAME
from ..durable_files import commit_json, read_json
from ..errors import GloriaError, TrainingError
from ..train import train
from ..training.resume import differences
from .audio_encoder import train_audio_encoder
from .estimate import log_estimate
from .export import export_models
from .files import BASE, CURRICULUM, DATASETS, DemoFiles
from .runs import base_run, curriculum_run
from .scratch import write_fresh_dit
from .sizes import SIZES, DemoSizes
from .text_encoder import train_text_encoder
from .train_arm import ARMS, train_arm
from .train_vae import train_vae
from .world_cache import build_world_cache

logger = logging.getLogger(__name__)

FINISHED, FAILED, STOPPED = 0, 1, 3
_SIZES = "sizes.json"


def train_demo(sizes: DemoSizes, output: Path) -> bool:
    """Train until everything is done (True), or until the trainer is asked to stop (False)."""
    files, device = DemoFiles(output), _device(sizes)
    output.mkdir(parents=True, exist_ok=True)
    _check_same_sizes(sizes, output)
    if not (output / _SIZES).exists():
        commit_json(output / _SIZES, _identity(sizes))
    log_estimate(sizes, device)
    if not files.vae.exists():
        _timed("autoencoder", lambda: train_vae(sizes, files.vae_run, files.vae, device))
    if not files.text_encoder.exists():
        _timed("text encoder", lambda: train_text_encoder(sizes, files.text_encoder))
    if not files.audio_encoder.exists():
        _timed("audio encoder", lambda: train_audio_encoder(sizes, files.audio_encoder))
    _build_cache(sizes, files, BASE, device)
    if not files.fresh_dit.exists():
        write_fresh_dit(sizes, files.fresh_dit)
    if not train(base_run(sizes, files, device.type)):
        return False
    last = BASE
    for run in CURRICULUM:
        _build_cache(sizes, files, DATASETS[run], device)
        if not train(curriculum_run(sizes, files, device.type, run, str(files.result(last)))):
            return False
        last = run
    export_models(files, files.result(last), files.export)
    return True


def _check_same_sizes(sizes: DemoSizes, output: Path) -> None:
    """One folder, one model. The stages' steps may change: the trainer knows what it can go on with."""
    before = read_json(output / _SIZES)
    changes = [] if before is None else list(differences(before, _identity(sizes)))
    if changes:
        raise TrainingError(f"{output} holds another demo model: {'; '.join(changes)}. Give another --output.")


def _identity(sizes: DemoSizes) -> dict[str, Any]:
    return json.loads(json.dumps({**asdict(sizes), "stages": None}))


def _build_cache(sizes: DemoSizes, files: DemoFiles, dataset: str, device: torch.device) -> None:
    folder = files.cache(dataset)
    if not (folder / INDEX_NAME).exists():
        _timed(folder.name, lambda: build_world_cache(sizes, files, dataset, device))


def _timed(name: str, make: Callable[[], object]) -> None:
    started = time.perf_counter()
    make()
    logger.info("%s: done after %.0f s", name, time.perf_counter() - started)


def _device(sizes: DemoSizes) -> torch.device:
    if sizes.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(sizes.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.demo.train", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--scale", choices=tuple(SIZES), default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("gloria_demo"), help="folder for everything it makes")
    parser.add_argument("--arm", choices=tuple(ARMS), help="train this ablation of the model in the folder")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="where that model is, if not in --output")
    options = parser.parse_args(arguments)
    if options.base is not None and options.arm is None:
        parser.error("--base is for --arm: it names the folder of the full model")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sizes, base = SIZES[options.scale], options.base or options.output
    try:
        if options.arm is None:
            is_finished = train_demo(sizes, options.output)
        else:
            _check_same_sizes(sizes, base)
            device = _device(sizes).type
            is_finished = train_arm(sizes, ARMS[options.arm], DemoFiles(base), options.output, device)
        return FINISHED if is_finished else STOPPED
    except GloriaError as error:
        logger.error("%s", error)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
