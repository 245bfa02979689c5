"""Parts enter, one manifest and one report leave; the same parts always give the same bytes."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.manifest import Manifest, ManifestAnchor, ManifestClip, ManifestSource
from ..durable_files import commit_json
from ..errors import DatasetError
from .decisions import DECISIONS_NAME, apply_decisions, read_decisions
from .published import publish, require_ours
from .records import Candidate, Record
from .settings import ExtractionSettings
from .units import PartStore, Unit

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
FOUND_NAME = "found.json"
_KINDS = ("global", "viewpoint", "expression")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All parts together."""

    records: tuple[Record, ...]
    errors: tuple[dict[str, str], ...] = ()
    """Videos that could not be used: video, stage, message."""


def collect(units: Sequence[Unit], store: PartStore) -> Collection:
    """The records of all units; of two equal files the first by name counts, the other is an error row."""
    records: list[Record] = []
    errors: list[dict[str, str]] = []
    seen: dict[str, str] = {}
    for unit in sorted(units, key=lambda unit: unit.video):
        done = store.read(unit)
        if done is None:
            raise DatasetError(f"The part of '{unit.video}' is missing in {store.folder}. Run the same again.")
        if done.error is not None:
            errors.append({"video": unit.video, "stage": done.error.stage, "message": done.error.message})
        elif unit.content in seen:
            message = f"holds the same as '{seen[unit.content]}', which is used."
            errors.append({"video": unit.video, "stage": "collect", "message": message})
        else:
            seen[unit.content] = unit.video
            records += done.records
    return Collection(records=tuple(records), errors=tuple(errors))


def manifest_of(collection: Collection, settings: ExtractionSettings) -> Manifest:
    """The training manifest of everything that has a clip.

    Raises:
        DatasetError: Nothing has.
    """
    sources = [
        ManifestSource(
            id=record.id,
            video=record.video,
            caption=record.caption,
            clips=record.clips,
            anchors=tuple(_anchor(each) for each in _ordered(record)),
        )
        for record in collection.records
        if record.clips
    ]
    if not sources:
        raise DatasetError(
            f"No footage is left to train on, no stretch is as long as a clip of {settings.clip_frames} frames at "
            f"{settings.fps:g} a second: {summary(collection)}. extraction/report.json says what was refused and why; "
            "shorter clips are a setting (clip_frames)."
        )
    return Manifest(fps=settings.fps, sources=tuple(_held_out(sources, settings.hold_out_every)))


def publish_decided(folder: Path, work: Path, found: Manifest) -> Manifest:
    """Keep what was found, and write dataset.json with what was decided by eye before.

    Raises:
        DatasetError: dataset.json was changed by somebody else and would be lost.
    """
    require_ours(folder, work)
    commit_json(work / FOUND_NAME, asdict(found))
    manifest, unmatched = apply_decisions(found, read_decisions(work / DECISIONS_NAME))
    for decision in unmatched:
        logger.warning("a decision fits no anchor any more: %s", decision)
    publish(folder, work, manifest)
    return manifest


def report_of(collection: Collection, made_with: str, left_out: Sequence[str]) -> dict[str, Any]:
    """Everything that was found or refused, for people and programs."""
    return {
        "fingerprint": made_with,
        "summary": summary(collection),
        "not_done": list(left_out),
        "errors": list(collection.errors),
        "rejected_footage": [
            {"video": record.video, "source": record.id, "stage": each.stage, "start": round(each.start, 3),
             "end": round(each.end, 3), "reason": each.reason}
            for record in collection.records
            for each in record.rejects
        ],
        "rejected_anchors": [
            {"video": record.video, "source": record.id, "kind": each.kind, "label": each.label, "time": each.time,
             "reason": each.rejected}
            for record in collection.records
            for each in record.candidates
            if each.rejected is not None
        ],
    }  # fmt: skip


def summary(collection: Collection) -> str:
    """One line."""
    labels = Counter(each.label for record in collection.records for each in record.candidates if not each.rejected)
    clips = sum(len(record.clips) for record in collection.records)
    anchors = ", ".join(f"{label} {count}" for label, count in sorted(labels.items())) or "none"
    return (
        f"{len({record.video for record in collection.records})} videos, {len(collection.errors)} that could not be "
        f"used, {len(collection.records)} sources, {clips} clips; anchors: {anchors}"
    )


def _ordered(record: Record) -> list[Candidate]:
    kept = [each for each in record.candidates if each.rejected is None]
    return sorted(kept, key=lambda each: (_KINDS.index(each.kind), each.label, -each.quality, each.time))


def _anchor(candidate: Candidate) -> ManifestAnchor:
    return ManifestAnchor(kind=candidate.kind, label=candidate.label, time=candidate.time, box=candidate.box)


def _held_out(sources: list[ManifestSource], every: int) -> list[ManifestSource]:
    """Every so many clips one is for validation, from twice as many on; clips never overlap here."""
    total = sum(len(source.clips) for source in sources)
    if not every or total < 2 * every:
        return sources
    count = 0
    held = []
    for source in sources:
        clips: list[ManifestClip] = []
        for clip in source.clips:
            count += 1
            clips.append(replace(clip, split="validation") if count % every == 0 else clip)
        held.append(replace(source, clips=tuple(clips)))
    return held
