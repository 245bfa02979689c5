"""One command trains the whole demo model: sizes enter, four files that ComfyUI loads leave.

    python -m gloria_core.demo.train --scale gpu --output gloria_demo

autoencoder -> text and speech encoders -> datasets of the toy world -> base from scratch -> the paper's stages ->
export. Every part is skipped when it is done and goes on where it was cut, so the same command resumes after anything.
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

import torch

from ..data.cache_index import INDEX_NAME
from ..durable_files import commit_json, read_json
from ..errors import GloriaError, TrainingError
from ..train import train
from ..training.resume import differences
from .audio_encoder import train_audio_encoder
from .estimate import log_estimate
from .export import export_models
from .files import DemoFiles
from .runs import BASE, STAGES, base_run, stages_run
from .scratch import write_fresh_dit
from .sizes import SIZES, DemoSizes
from .text_encoder import train_text_encoder
from .train_vae import train_vae
from .world_cache import build_world_cache, clip_latents

logger = logging.getLogger(__name__)

FINISHED, FAILED, STOPPED = 0, 1, 3


def train_demo(sizes: DemoSizes, output: Path) -> bool:
    """Train until everything is done (True), or until the trainer is asked to stop (False)."""
    files, device = DemoFiles(output), _device(sizes)
    output.mkdir(parents=True, exist_ok=True)
    _check_same_sizes(sizes, output)
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
    _build_cache(sizes, files, STAGES, device)
    if not train(stages_run(sizes, files, device.type, str(result_of(files, BASE)))):
        return False
    export_models(files, result_of(files, STAGES))
    return True


def result_of(files: DemoFiles, stage: str) -> Path:
    """The weights that a finished run has left."""
    results = sorted((files.run(stage) / "results").glob("*_merged.safetensors"))
    if not results:
        raise TrainingError(f"{files.run(stage)} has no results. Run the same command again to finish it.")
    return results[-1]


def _check_same_sizes(sizes: DemoSizes, output: Path) -> None:
    """One folder, one model. The stages' steps may change: the trainer knows what it can go on with."""
    path = output / "sizes.json"
    wanted = json.loads(json.dumps({**asdict(sizes), "stages": None}))
    before = read_json(path)
    if before is None:
        commit_json(path, wanted)
        return
    changes = list(differences(before, wanted))
    if changes:
        raise TrainingError(f"{output} holds another demo model: {'; '.join(changes)}. Give another --output.")


def _build_cache(sizes: DemoSizes, files: DemoFiles, stage: str, device: torch.device) -> None:
    folder = files.cache(stage)
    if not (folder / INDEX_NAME).exists():
        length, with_anchors = clip_latents(sizes, stage), stage == STAGES
        _timed(folder.name, lambda: build_world_cache(sizes, files, folder, length, with_anchors, device))


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
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return FINISHED if train_demo(SIZES[options.scale], options.output) else STOPPED
    except GloriaError as error:
        logger.error("%s", error)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
