"""A YAML file enters, trained weights leave: the whole of training, read from top to bottom.

    python -m gloria_core.train run.yaml
    accelerate launch --multi_gpu --num_processes 8 -m gloria_core.train run.yaml

cache and draws -> model with its trainable parts -> steps, with snapshots, validation and clips between them ->
results that stock loaders read. A second call goes on where the first was stopped. Ctrl-C or a file control/stop in
the run's folder finishes the step and saves. docs/training.md describes the YAML file.

Exit status: 0 finished, 1 failed (status.json says why), 3 stopped by request with everything saved. With several
processes a stop also ends with 0, because launchers take everything else for a failure; status.json tells them apart.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .data.batch import Batch, SampleDraw
from .data.cache import CacheStore
from .data.cache_index import read_index
from .data.dataset import load_samples
from .data.draws import DrawPlan
from .errors import GloriaError
from .training.config import TrainConfig
from .training.config_file import read_config
from .training.distributed import Workers
from .training.load_model import load_for_training
from .training.place_model import check_room, place_model
from .training.progress import Progress
from .training.requests import Requests
from .training.results import write_results
from .training.resume import describe_run, restore_latest, save_state
from .training.run_folder import RunFolder
from .training.sample_videos import SampleVideos
from .training.stages import resolve_stages
from .training.trainable import prepare_trainable
from .training.trainer import Trainer
from .training.validate import Validation

logger = logging.getLogger(__name__)

FINISHED, FAILED, STOPPED = 0, 1, 3


def train(config: TrainConfig) -> bool:
    """Train until the stages are done (True) or a stop is asked for (False); everything is saved either way.

    Raises:
        GloriaError: With what is wrong and what to do, before the first step where possible.
    """
    workers = Workers(config)
    with contextlib.ExitStack() as stack:
        stack.callback(workers.close)
        folder = stack.enter_context(RunFolder(Path(config.output))) if workers.is_main else None
        progress = Progress(config, workers, folder)
        stack.enter_context(_failure_reported(progress))
        requests = Requests(folder, workers)
        stack.enter_context(requests.signals())
        trainer, validation, run = _prepare(config, workers, folder, progress)
        return _run(trainer, validation, requests, workers, run)


def _prepare(
    config: TrainConfig, workers: Workers, folder: RunFolder | None, progress: Progress
) -> tuple[Trainer, Validation, dict]:
    """Everything before the first step: all that can be refused is refused here."""
    progress.say("starting", "reading the dataset")
    output, cache = Path(config.output), Path(config.data.cache)
    index, store = read_index(cache), CacheStore(cache)
    config = resolve_stages(config, index)
    videos = None
    if workers.is_main and config.validation.vae is not None:
        videos = SampleVideos(Path(config.validation.vae), index.latent_channels, workers.device)

    progress.say("starting", "loading the model")
    model = load_for_training(config, index, text_dim=store.load(index.empty_text)["text"].shape[-1])
    image_channels = model.config.takes_image_channels
    plan = DrawPlan(index, config, image_channels)
    plan.check()
    prepare_trainable(model, config)
    room = check_room(model, config, index, workers)
    if workers.is_main:
        logger.info("memory plan: %s", "; ".join(room.lines()))
    place_model(model, config, workers)

    def load_batches(draws: Sequence[SampleDraw], audio: bool) -> list[Batch]:
        return load_samples(store, index, draws, image_channels=image_channels, audio=audio)

    trainer = Trainer(config, workers, model, plan, load_batches, progress)
    run = describe_run(config, index, workers.count)
    restore_latest(trainer, run, output)
    if folder is not None:
        folder.truncate_metrics(trainer.step)
    validation = Validation(
        trainer, store, index, load_batches, plan.validation(), output / "samples", workers.is_main, videos
    )
    return trainer, validation, run


def _run(trainer: Trainer, validation: Validation, requests: Requests, workers: Workers, run: dict) -> bool:
    """The loop between the first step and the last, with what is due in between."""
    config, progress, output = trainer.config, trainer.progress, Path(trainer.config.output)
    if trainer.step == 0:
        validation.run_due()
    while trainer.step < config.total_steps:
        trainer.train_step()
        asked = requests.poll()
        is_last = trainer.step == config.total_steps
        is_kept = config.checkpoints.keep_every > 0 and trainer.step % config.checkpoints.keep_every == 0
        is_due = is_kept or trainer.step % config.checkpoints.every == 0 or trainer.ends_stage
        if is_due or is_last or asked.stop or asked.save:
            progress.say("saving", f"saving step {trainer.step}")
            save_state(trainer, run, output, workers)
        if asked.stop or asked.save or is_kept or is_last:
            _publish(trainer, workers, output / "results")
        if asked.stop and not is_last:
            progress.say("stopped", f"stopped after step {trainer.step}; start again to go on")
            return False
        validation.run_due(clips_now=asked.sample)
    if not progress.has_results:
        _publish(trainer, workers, output / "results")
    progress.say("finished", f"finished {config.total_steps} steps")
    return True


def _publish(trainer: Trainer, workers: Workers, folder: Path) -> None:
    """Files that stock loaders read."""
    averages = None if trainer.ema is None else trainer.ema.tensors()
    results = write_results(trainer.model, trainer.config, folder, trainer.step, averages, write=workers.is_main)
    files = {role: str(path) for role, path in results.items()}
    trainer.progress.say("saving", f"results: {', '.join(files.values())}", results=files)
    workers.barrier()


@contextlib.contextmanager
def _failure_reported(progress: Progress) -> Iterator[None]:
    """Whoever follows the run reads why it ended."""
    try:
        yield
    except BaseException as error:
        text = str(error) if isinstance(error, GloriaError) else f"{type(error).__name__}: {error}"
        progress.say("failed", "failed", error=text)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="run.yaml", help="settings of the run")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        is_finished = train(read_config(options.config))
        return FINISHED if is_finished or _is_one_of_several() else STOPPED
    except GloriaError as error:
        logger.error("%s", error)
        return FAILED


def _is_one_of_several() -> bool:
    """Whether a launcher started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave(status: int) -> None:
    """End this process.

    Gloo's threads of a process group may still hold tensors of Python, and letting go of one while the interpreter
    takes itself apart aborts the process (seen once in some hundred sharded runs). By now everything is on disk, so
    one process of several ends without taking anything apart.
    """
    if not _is_one_of_several():
        sys.exit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main())
