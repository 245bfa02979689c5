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

from ..errors import DatasetError, GloriaError
from .backends import Backends
from .decisions import read_decisions
from .extract import WORK_FOLDER, decide, extract, read_settings
from .judge import EndpointJudge
from .onnx_backend import expression_model
from .pose_files import PoseFiles
from .runners import LocalRunner, RayRunner
from .settings import ExtractionSettings
from .transformers_backends import PersonModel

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if options.apply is not None:
            if not options.apply.is_file():
                raise DatasetError(f"There is no file {options.apply}.")
            decided = decide(options.folder, read_decisions(options.apply)).decided
            logger.info("%d anchors are left", sum(len(source.anchors) for source in decided.sources))
            return 0
        runner = RayRunner(address=options.ray_address, workers=options.workers) if options.ray else LocalRunner()
        extraction = extract(options.folder, _settings(options), _backends(options), runner)
        logger.info("%s", extraction.lines[0])
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


def _backends(options: argparse.Namespace) -> Backends:
    poses = PoseFiles()
    expressions = None if options.expressions is None else expression_model(options.expressions, options.device)
    people = poses if options.people is None else PersonModel(options.people, options.device)
    if options.judge is not None and expressions is None:
        raise DatasetError("A judge looks at what a classifier found: give --expressions with --judge.")
    judge = None if options.judge is None else EndpointJudge(options.judge)
    return Backends(body=poses, people=people, faces=poses, expressions=expressions, judge=judge)


if __name__ == "__main__":
    sys.exit(main())
