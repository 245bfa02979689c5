"""A folder of videos enters, dataset.json and a contact sheet leave; or a person's decisions about them enter.

    FOLDER/dataset.json              clips and anchors, which the dataset build reads
    FOLDER/extraction/found.json     the same before anybody decided anything
    FOLDER/extraction/decisions.json what was decided
    FOLDER/extraction/               parts, report.json, contact_sheet.html and contact_sheet.png
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.manifest import Manifest, read_manifest
from ..durable_files import commit_json, read_json
from ..errors import ConfigError, DatasetError
from ..strict import parse
from .backends import Backends
from .collect import FOUND_NAME, REPORT_NAME, Collection, collect, manifest_of, publish_decided, report_of
from .contact_sheet import make_cards, write_contact_sheet
from .decisions import DECISIONS_NAME, Decision, Decisions, apply_decisions, merged, read_decisions
from .pipeline import fingerprint, make_stages, not_done
from .published import publish, require_ours
from .runners import Runner
from .settings import ExtractionSettings
from .stage import Stage
from .units import PartStore, find_videos

logger = logging.getLogger(__name__)

WORK_FOLDER = "extraction"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What an extraction left in a folder."""

    folder: Path
    found: Manifest
    """What the pipeline chose; the numbers of the contact sheet count its anchors."""
    decided: Manifest
    """The same after what was decided by eye, as in dataset.json."""
    collection: Collection
    lines: tuple[str, ...]
    """A summary, what was not done, and the files that could not be used."""


def extract(folder: Path, settings: ExtractionSettings, backends: Backends, runner: Runner) -> Extraction:
    """Do everything for a folder; what an earlier run did is used again.

    Raises:
        DatasetError: No videos, nothing left to train on, or a dataset.json that is not ours.
    """
    folder = folder.resolve()  # workers may stand elsewhere
    stages = make_stages(folder, settings, backends)
    return run_stages(folder, settings, backends, stages, runner)


def run_stages(
    folder: Path, settings: ExtractionSettings, backends: Backends, stages: Sequence[Stage], runner: Runner
) -> Extraction:
    """`extract` with stages that were made before."""
    work = folder / WORK_FOLDER
    require_ours(folder, work)
    videos = find_videos(folder)
    store = PartStore(work / "parts", fingerprint(settings, backends))

    def log_progress(done: int, total: int, video: str) -> None:
        logger.info("%d of %d: %s", done, total, video)

    units = runner.run(folder, videos, stages, store, log_progress)
    collection = collect(units, store)
    report = report_of(collection, store.fingerprint, not_done(backends))
    commit_json(work / REPORT_NAME, report)
    found = manifest_of(collection, settings)
    decided = publish_decided(folder, work, found)
    extraction = Extraction(folder=folder, found=found, decided=decided, collection=collection, lines=_lines(report))
    _write_sheet(extraction)
    return extraction


def reopen(folder: Path) -> Extraction:
    """What an earlier extraction left in a folder.

    Raises:
        DatasetError: There was none, or its files are damaged.
    """
    work = folder / WORK_FOLDER
    report, content = read_json(work / REPORT_NAME), read_json(work / FOUND_NAME)
    if report is None or content is None:
        raise DatasetError(f"There is no finished extraction in {folder}. Extract its anchors first.")
    found = parse(Manifest, content, str(work / FOUND_NAME), DatasetError)
    ids = {source.id for source in found.sources}
    records = PartStore(work / "parts", report["fingerprint"]).records()
    collection = Collection(
        records=tuple(record for record in records if record.id in ids), errors=tuple(report["errors"])
    )
    return Extraction(
        folder=folder, found=found, decided=read_manifest(folder), collection=collection, lines=_lines(report)
    )


def decide(folder: Path, decisions: Sequence[Decision]) -> Extraction:
    """Apply decisions to `folder`/dataset.json, keep them for later extractions and show them on the contact sheet.

    All decisions fit or nothing is changed. The same decisions once more change nothing.

    Raises:
        DatasetError: A decision fits no anchor, or dataset.json is not the extraction's.
    """
    folder = folder.resolve()
    work = folder / WORK_FOLDER
    before = reopen(folder)
    require_ours(folder, work)
    kept = merged(before.found, read_decisions(work / DECISIONS_NAME), decisions)
    decided, _ = apply_decisions(before.found, kept)
    publish(folder, work, decided)
    # Kept last: a crash before loses them for the next extraction, never for the manifest.
    commit_json(work / DECISIONS_NAME, asdict(Decisions(decisions=kept)))
    after = replace(before, decided=decided)
    _write_sheet(after)
    return after


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


def _lines(report: dict[str, Any]) -> tuple[str, ...]:
    return (report["summary"], *report["not_done"], *(f"{row['video']}: {row['message']}" for row in report["errors"]))


def _write_sheet(extraction: Extraction) -> None:
    cards = make_cards(extraction.folder, extraction.found, extraction.decided, extraction.collection)
    write_contact_sheet(extraction.folder / WORK_FOLDER, list(cards), extraction.lines)
