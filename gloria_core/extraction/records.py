"""What flows from stage to stage: one person's stretch of one video, in seconds, boxes and labels, never pixels."""

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from ..data.manifest import ManifestClip
from ..errors import DatasetError
from ..strict import parse

Kind = Literal["global", "viewpoint", "expression"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds of the video, `end` not included."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Footage that a stage took away, and why."""

    stage: str
    start: float
    end: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A moment that may become an anchor."""

    kind: Kind
    label: str
    time: float
    box: tuple[int, int, int, int] | None = None
    """Crop: left, top, width, height."""
    quality: float = 0.0
    """0 to 1."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What spoke for it, by name."""
    rejected: str | None = None
    """Why it is no anchor; None: it is, so far."""

    def reject(self, reason: str) -> "Candidate":
        """The same candidate, refused."""
        return replace(self, rejected=reason)

    def note(self, **evidence: Any) -> "Candidate":
        """The same candidate with more evidence."""
        return replace(self, evidence={**self.evidence, **evidence})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One person in one video: the stretches that are still good, and what was found in them."""

    id: str
    video: str
    """Path inside the folder."""
    seconds: float = 0.0
    height: int = 0
    width: int = 0
    has_audio: bool = False
    spans: tuple[Span, ...] = ()
    clips: tuple[ManifestClip, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    caption: str = ""
    rejects: tuple[Reject, ...] = ()

    def alive(self, *kinds: str) -> tuple[Candidate, ...]:
        """Candidates of these kinds that nobody refused yet."""
        return tuple(each for each in self.candidates if each.kind in kinds and each.rejected is None)

    def with_candidates(self, changed: dict[int, Candidate]) -> "Record":
        """The record with some candidates replaced, by their place."""
        return replace(self, candidates=tuple(changed.get(idx, each) for idx, each in enumerate(self.candidates)))


def to_json(records: tuple[Record, ...]) -> list[dict[str, Any]]:
    """Plain values; equal records give equal ones."""
    return json.loads(json.dumps([asdict(record) for record in records]))


def from_json(content: Any, where: str) -> tuple[Record, ...]:
    """The records again."""
    return tuple(parse(Record, each, where, DatasetError) for each in content)


def cut(record: Record, stage: str, times: list[float], verdicts: list[str | None], min_seconds: float) -> Record:
    """The record without the samples that have a verdict, and without stretches that become too short.

    Args:
        times: rising sample moments, each standing for the time up to the next; every span starts with one.
        verdicts: a reason to refuse each, or None.
    """
    spans, rejects = [], list(record.rejects)
    for span in record.spans:
        pairs = zip(times, verdicts, strict=True)
        inside = [(time, verdict) for time, verdict in pairs if span.start <= time < span.end]
        for start, end, reason in _stretches(span, inside):
            if reason is None and end - start < min_seconds:
                reason = f"shorter than {min_seconds:g} s"
            if reason is None:
                spans.append(Span(start=start, end=end))
            else:
                rejects.append(Reject(stage=stage, start=start, end=end, reason=reason))
    return replace(record, spans=tuple(spans), rejects=tuple(rejects))


def _stretches(span: Span, samples: list[tuple[float, str | None]]) -> list[tuple[float, float, str | None]]:
    """Neighbouring samples of one verdict, joined; together they cover the span."""
    changes = [
        (time, verdict) for idx, (time, verdict) in enumerate(samples) if idx == 0 or verdict != samples[idx - 1][1]
    ]
    edges = [span.start, *(time for time, _ in changes[1:]), span.end]
    return [(start, end, verdict) for (start, end), (_, verdict) in zip(pairwise(edges), changes, strict=True)]
