"""What a person decided on the contact sheet enters, a manifest with anchors relabelled and dropped leaves.

{"schema": 1, "decisions": [
    {"source": "0f3c", "kind": "expression", "label": "sad", "time": 12.25, "action": "relabel", "to": "neutral"},
    {"source": "0f3c", "kind": "viewpoint", "label": "back", "time": 4.5, "action": "drop"}]}

or by the numbers of the contact sheet, one decision on a line: `12 neutral`, `7 drop`, `9 keep`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from ..conditioning.anchors import LABELS
from ..data.manifest import Manifest, ManifestAnchor, ManifestSource
from ..durable_files import read_json
from ..errors import DatasetError
from ..strict import parse

DECISIONS_SCHEMA = 1
DECISIONS_NAME = "decisions.json"
# Times go through JSON and a browser.
_SAME_SECONDS = 5e-4
# Kinds as the contact sheet shows them.
SHEET_KINDS = ("viewpoint", "expression", "global")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one anchor that the pipeline chose: the one of this kind at this time."""

    source: str
    kind: Literal["global", "viewpoint", "expression"]
    label: str
    """As it is labelled by now."""
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
    unmatched = []
    for decision in decisions:
        anchor = _anchor_of(manifest, decision)
        if anchor is None:
            unmatched.append(decision)
            continue
        decided = () if decision.to is None else (replace(anchor, label=decision.to),)
        sources = []
        for source in manifest.sources:
            if source.id == decision.source:
                idx = source.anchors.index(anchor)
                source = replace(source, anchors=source.anchors[:idx] + decided + source.anchors[idx + 1 :])
            sources.append(source)
        manifest = replace(manifest, sources=tuple(sources))
    return manifest, unmatched


def merged(found: Manifest, kept: Sequence[Decision], new: Sequence[Decision]) -> tuple[Decision, ...]:
    """One decision for each anchor of `found` that becomes another, the newest; kept ones that fit nothing stay.

    Raises:
        DatasetError: A new decision fits no anchor.
    """
    standing: dict[tuple[str, str, float], Decision] = {}
    unmatched = []
    for decision in (*kept, *new):
        anchor = _anchor_of(found, decision)
        if anchor is None:
            unmatched.append(decision)
            continue
        key = (decision.source, anchor.kind, anchor.time)
        standing.pop(key, None)
        if decision.to != anchor.label:
            standing[key] = replace(decision, label=anchor.label, time=anchor.time)
    lost = [decision for decision in unmatched if decision in new]
    if lost:
        raise DatasetError(
            f"{len(lost)} decisions fit no anchor that was found here, the first is {json.dumps(asdict(lost[0]))}. "
            "They belong to another dataset, or to footage that has changed since."
        )
    return (*unmatched, *standing.values())


def sheet_order(source: ManifestSource) -> list[ManifestAnchor]:
    """A source's anchors as the contact sheet shows them."""
    return sorted(
        source.anchors,
        key=lambda anchor: (SHEET_KINDS.index(anchor.kind), LABELS[anchor.kind].index(anchor.label), anchor.time),
    )


def decisions_of_text(text: str, found: Manifest) -> tuple[Decision, ...]:
    """Decisions as lines with numbers, or as what the contact sheet saves.

    Raises:
        DatasetError: Neither of them.
    """
    if not text.lstrip().startswith("{"):
        return _decisions_of_lines(text, found)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The decisions are not the file that the contact sheet saves ({error}).") from error
    return parse(Decisions, content, "decisions", DatasetError).decisions


def _decisions_of_lines(text: str, found: Manifest) -> tuple[Decision, ...]:
    """Decisions written by the numbers of the contact sheet, which count what was found from 1 on.

    Raises:
        DatasetError: A line that cannot be read, with what was expected.
    """
    numbered = [(source, anchor) for source in found.sources for anchor in sheet_order(source)]
    decisions = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        number, _, word = line.partition(" ")
        word = word.strip().lower()
        if not number.isascii() or not number.isdecimal() or not 1 <= int(number) <= len(numbered):
            raise DatasetError(
                f"'{line[:60]}' does not start with a number of the contact sheet (1 to {len(numbered)}). Expected "
                "lines like '12 back', '7 drop' or '9 keep'."
            )
        source, anchor = numbered[int(number) - 1]
        labels = LABELS[anchor.kind]
        if word not in ("drop", "keep", *labels):
            raise DatasetError(
                f"'{line[:60]}': number {number} is a {anchor.kind} anchor, which can become {', '.join(labels)}, drop "
                "or keep."
            )
        to = {"drop": None, "keep": anchor.label}.get(word, word)
        decisions.append(
            Decision(
                source=source.id, kind=anchor.kind, label=anchor.label, time=anchor.time,
                action="drop" if to is None else "relabel", to=to,
            )
        )  # fmt: skip
    return tuple(decisions)


def _anchor_of(manifest: Manifest, decision: Decision) -> ManifestAnchor | None:
    for source in manifest.sources:
        for anchor in source.anchors:
            is_same = (source.id, anchor.kind) == (decision.source, decision.kind) and anchor.time is not None
            if is_same and abs(anchor.time - decision.time) < _SAME_SECONDS:
                return anchor
    return None
