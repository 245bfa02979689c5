"""A folder of videos enters, dataset.json and a contact sheet leave.

    python -m gloria_core.extraction FOLDER
    python -m gloria_core.extraction FOLDER --apply decisions.json

The first finds clips and labelled anchors and writes FOLDER/dataset.json, which the dataset build reads; everything
else goes to FOLDER/extraction: one part for each video, report.json, contact_sheet.html and contact_sheet.png. A
stopped run goes on where it was. The second applies what was decided on the contact sheet. docs/extraction.md says how
pose files are made and which models can be given.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..durable_files import commit_json
from ..errors import ConfigError, DatasetError, GloriaError
from ..strict import parse
from .backends import Backends
from .collect import REPORT_NAME, collect, manifest_of, publish_decided, report_of, summary
from .contact_sheet import make_cards, write_contact_sheet
from .decisions import decide
from .judge import EndpointJudge
from .pipeline import fingerprint, make_stages, not_done
from .pose_files import PoseFiles
from .published import require_ours
from .runners import LocalRunner, RayRunner, Runner
from .settings import ExtractionSettings
from .shots import require_scenedetect
from .transformers_backends import ExpressionModel, PersonModel
from .units import PartStore, find_videos

logger = logging.getLogger(__name__)

WORK_FOLDER = "extraction"


def extract(folder: Path, settings: ExtractionSettings, backends: Backends, runner: Runner) -> str:
    """Do everything for a folder and return a line about it.

    Raises:
        DatasetError: No videos, nothing left to train on, or a dataset.json that is not ours.
    """
    folder = folder.resolve()  # workers may stand elsewhere
    work = folder / WORK_FOLDER
    require_ours(folder, work)
    if settings.footage.shots == "detect":
        require_scenedetect()
    videos = find_videos(folder)
    store = PartStore(work / "parts", fingerprint(settings, backends))

    def log_progress(done: int, total: int, video: str) -> None:
        logger.info("%d of %d: %s", done, total, video)

    units = runner.run(folder, videos, make_stages(folder, settings, backends), store, log_progress)
    collection = collect(units, store)
    left_out = not_done(backends)
    commit_json(work / REPORT_NAME, report_of(collection, store.fingerprint, left_out))
    manifest = publish_decided(folder, work, manifest_of(collection, settings))
    lines = [summary(collection), *left_out, *(f"{row['video']}: {row['message']}" for row in collection.errors)]
    write_contact_sheet(work, list(make_cards(folder, manifest, collection)), lines)
    return lines[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if options.apply is not None:
            manifest = decide(options.folder, options.folder / WORK_FOLDER, options.apply)
            logger.info("%d anchors are left", sum(len(source.anchors) for source in manifest.sources))
            return 0
        runner = RayRunner(address=options.ray_address, workers=options.workers) if options.ray else LocalRunner()
        line = extract(options.folder, _settings(options), _backends(options), runner)
        logger.info("%s", line)
        logger.info("look at %s", options.folder / WORK_FOLDER / "contact_sheet.html")
    except GloriaError as error:
        logger.error("%s", error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.extraction", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="videos, a pose file beside each")
    add("--apply", metavar="FILE", type=Path, help="decisions that were saved on the contact sheet")
    add("--settings", metavar="FILE", type=Path, help="YAML with what differs from the defaults of settings.py")
    add("--one-person", action="store_true", help="all shots of a video show the same person")
    add("--no-shots", action="store_true", help="every video is one shot; nothing looks for cuts")
    add("--people", metavar="FOLDER", type=Path, help="object detection model that counts people")
    add("--expressions", metavar="FOLDER", type=Path, help="image classification model that reads faces")
    add("--judge", metavar="NAME", help="endpoint that looks at expressions again, by its name on this machine")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="where the models run (cpu)")
    add("--ray", action="store_true", help="spread the videos with Ray")
    add("--ray-address", metavar="ADDRESS", help="of a running Ray cluster; none: one is started here")
    add("--workers", type=int, default=2, help="copies of the pipeline with --ray (2)")
    return parser


def _settings(options: argparse.Namespace) -> ExtractionSettings:
    settings = ExtractionSettings() if options.settings is None else read_settings(options.settings)
    footage = settings.footage
    if options.one_person:
        footage = replace(footage, one_person=True)
    if options.no_shots:
        footage = replace(footage, shots="none")
    return replace(settings, footage=footage)


def read_settings(path: Path) -> ExtractionSettings:
    """Settings from a YAML file that says only what differs.

    Raises:
        ConfigError: No such file, an unknown name or a value of another type.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The settings {path} cannot be read: {error}") from error
    return parse(ExtractionSettings, content, str(path), ConfigError)


def _backends(options: argparse.Namespace) -> Backends:
    poses = PoseFiles()
    expressions = None if options.expressions is None else ExpressionModel(options.expressions, options.device)
    people = poses if options.people is None else PersonModel(options.people, options.device)
    if options.judge is not None and expressions is None:
        raise DatasetError("A judge looks at what a classifier found: give --expressions with --judge.")
    judge = None if options.judge is None else EndpointJudge(options.judge)
    return Backends(body=poses, people=people, faces=poses, expressions=expressions, judge=judge)


if __name__ == "__main__":
    sys.exit(main())
