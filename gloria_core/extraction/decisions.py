"""What a person decided on the contact sheet enters, a manifest with anchors relabelled and dropped leaves.

{"schema": 1, "decisions": [
    {"source": "0f3c", "kind": "expression", "label": "sad", "time": 12.25, "action": "relabel", "to": "neutral"},
    {"source": "0f3c", "kind": "viewpoint", "label": "back", "time": 4.5, "action": "drop"}]}
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from ..conditioning.anchors import LABELS
from ..data.manifest import MANIFEST_NAME, Manifest, ManifestSource, read_manifest
from ..durable_files import commit_json, read_json
from ..errors import DatasetError
from ..strict import parse
from .published import publish, require_ours

DECISIONS_SCHEMA = 1
DECISIONS_NAME = "decisions.json"
# Times go through JSON and a browser.
_SAME_SECONDS = 5e-4


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one anchor that the pipeline chose."""

    source: str
    kind: Literal["global", "viewpoint", "expression"]
    label: str
    """As the pipeline labelled it."""
    time: float
    action: Literal["drop", "relabel"]
    to: str | None = None

    def __post_init__(self) -> None:
        if (self.action == "relabel") != (self.to is not None):
            raise DatasetError("'to' belongs to a relabel, and only to it.")
        for label in (self.label, self.to):
            if label is not None and label not in LABELS[self.kind]:
                raise DatasetError(f"'{label}' is no {self.kind} label, expected {', '.join(LABELS[self.kind])}.")


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A decisions file."""

    schema: int = DECISIONS_SCHEMA
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != DECISIONS_SCHEMA:
            raise DatasetError(f"schema is {self.schema}, this version reads {DECISIONS_SCHEMA}.")


def read_decisions(path: Path) -> tuple[Decision, ...]:
    """The decisions of a file; none if there is no file.

    Raises:
        DatasetError: It holds something else.
    """
    if not path.exists():
        return ()
    content = read_json(path)
    if content is None:
        raise DatasetError(f"{path} is not a JSON object.")
    return parse(Decisions, content, str(path), DatasetError).decisions


def apply_decisions(manifest: Manifest, decisions: Sequence[Decision]) -> tuple[Manifest, list[Decision]]:
    """The manifest after the decisions in their order, and those that fit no anchor of it."""
    sources = {source.id: source for source in manifest.sources}
    unmatched = []
    for decision in decisions:
        source = sources.get(decision.source)
        decided = None if source is None else _decided(source, decision)
        if decided is None:
            unmatched.append(decision)
        else:
            sources[decision.source] = decided
    return replace(manifest, sources=tuple(sources.values())), unmatched


def decide(folder: Path, work: Path, decisions_file: Path) -> Manifest:
    """Apply a file of decisions to `folder`/dataset.json and keep them for the next extraction.

    All decisions fit or nothing is changed.

    Raises:
        DatasetError: A decision fits no anchor, or dataset.json is not the extraction's.
    """
    if not decisions_file.is_file():
        raise DatasetError(f"There is no file {decisions_file}.")
    require_ours(folder, work)
    decisions = read_decisions(decisions_file)
    manifest, unmatched = apply_decisions(read_manifest(folder), decisions)
    if unmatched:
        raise DatasetError(
            f"{len(unmatched)} decisions fit no anchor of {folder / MANIFEST_NAME}, the first is "
            f"{json.dumps(asdict(unmatched[0]))}. They may be applied already, or belong to another dataset."
        )
    publish(folder, work, manifest)
    # Kept last: a crash before loses them for the next extraction, never for the manifest.
    kept = (*read_decisions(work / DECISIONS_NAME), *decisions)
    commit_json(work / DECISIONS_NAME, asdict(Decisions(decisions=kept)))
    return manifest


def _decided(source: ManifestSource, decision: Decision) -> ManifestSource | None:
    for idx, anchor in enumerate(source.anchors):
        is_same = (anchor.kind, anchor.label) == (decision.kind, decision.label) and anchor.time is not None
        if is_same and abs(anchor.time - decision.time) < _SAME_SECONDS:
            left = () if decision.to is None else (replace(anchor, label=decision.to),)
            return replace(source, anchors=source.anchors[:idx] + left + source.anchors[idx + 1 :])
    return None
