"""Faces enter, candidate moments of the eight expressions leave, by name, never by a classifier's own numbering."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..conditioning.anchors import EXPRESSIONS
from .backends import ExpressionClassifier, Face, FacePose, Moment
from .choose import fitted_crop
from .frames import crop_box, sample_times
from .records import Candidate, Record, Reject, Span
from .settings import AnchorThresholds, ExpressionThresholds
from .stage import FolderStage, resources_of


class Expressions(FolderStage):
    """Labels moments by what the face shows."""

    name = "expressions"

    def __init__(
        self,
        folder: Path,
        thresholds: ExpressionThresholds,
        anchors: AnchorThresholds,
        faces: FacePose,
        classifier: ExpressionClassifier,
    ) -> None:
        super().__init__(folder)
        self.thresholds, self.anchors, self.faces, self.classifier = thresholds, anchors, faces, classifier
        self.resources = resources_of(faces, classifier)

    def setup(self) -> None:
        """Load detector and classifier."""
        self.faces.setup()
        self.classifier.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with expression candidates; refused ones if the person shows only one expression."""
        refused: dict[str, int] = {}
        found = [candidate for span in record.spans for candidate in self._candidates(record, span, refused)]
        distinct = {candidate.label for candidate in found}
        if len(distinct) < self.thresholds.min_distinct:
            reason = f"{len(distinct)} expression in this source, {self.thresholds.min_distinct} are needed"
            found = [candidate.reject(reason) for candidate in found]
        rejects = [
            Reject(
                stage=self.name, start=record.spans[0].start, end=record.spans[-1].end,
                reason=f"{count / self.thresholds.rate:.2f} s show no expression: {reason}",
            )
            for reason, count in sorted(refused.items())
        ]  # fmt: skip
        return [replace(record, candidates=record.candidates + tuple(found), rejects=(*record.rejects, *rejects))]

    def _candidates(self, record: Record, span: Span, refused: dict[str, int]) -> list[Candidate]:
        """One candidate for each stretch of one expression: its surest moment."""
        video = self.video(record)
        times = sample_times(span, self.thresholds.rate)
        probabilities: list[Mapping[str, float] | None] = []
        for time, picture_HWC in self.pictures(record, times):
            faces = self.faces.find(Moment(video, time, picture_HWC))
            reason = self._refusal(faces)
            if reason is None:
                crop = fitted_crop(faces[0].box, self.anchors.head_margin, tuple(picture_HWC.shape[:2]), 0.0)
                (one,) = self.classifier.classify([crop_box(picture_HWC, crop.box)])
                probabilities.append(_checked(one))
            else:
                refused[reason] = refused.get(reason, 0) + 1
                probabilities.append(None)
        labels = [self._label(one) for one in smoothed(probabilities)]
        refused_weak = sum(one is not None and label is None for one, label in zip(probabilities, labels, strict=True))
        if refused_weak:
            refused["no clear expression"] = refused.get("no clear expression", 0) + refused_weak
        found = []
        for label, start, stop in stretches(labels, self.thresholds.min_samples):
            best = max(range(start, stop), key=lambda idx: (probabilities[idx] or {}).get(label, 0.0))
            probability = (probabilities[best] or {}).get(label, 0.0)
            evidence = {"probability": round(float(probability), 3)}
            found.append(Candidate(kind="expression", label=label, time=round(times[best], 4), evidence=evidence))
        return found

    def _refusal(self, faces: list[Face]) -> str | None:
        faces = [face for face in faces if face.score >= self.thresholds.min_score]
        if not faces:
            return "no face"
        if len(faces) > 1:
            return "more than one face"
        if abs(faces[0].psi) > self.thresholds.max_psi:
            return "face turned away"
        if faces[0].box.height * (1 + 2 * self.anchors.head_margin) < self.anchors.min_head_height:
            return "face too small"
        return None

    def _label(self, probabilities: Mapping[str, float] | None) -> str | None:
        if probabilities is None:
            return None
        label = max(EXPRESSIONS, key=lambda name: probabilities[name])
        return label if probabilities[label] >= self.thresholds.min_probability else None


def smoothed(probabilities: list[Mapping[str, float] | None]) -> list[dict[str, float] | None]:
    """Means over each sample and its neighbours, where there is a face."""
    means: list[dict[str, float] | None] = []
    for idx, here in enumerate(probabilities):
        near = [one for one in probabilities[max(0, idx - 1) : idx + 2] if one is not None]
        mean = {name: sum(one[name] for one in near) / max(1, len(near)) for name in EXPRESSIONS}
        means.append(None if here is None else mean)
    return means


def stretches(labels: list[str | None], min_samples: int) -> list[tuple[str, int, int]]:
    """Label, start and stop of every long enough stretch of one label."""
    found, start = [], 0
    for idx in range(1, len(labels) + 1):
        if idx == len(labels) or labels[idx] != labels[start]:
            label = labels[start]
            if label is not None and idx - start >= min_samples:
                found.append((label, start, idx))
            start = idx
    return found


def _checked(probabilities: Mapping[str, float]) -> Mapping[str, float]:
    assert set(probabilities) == set(EXPRESSIONS), f"a classifier answered {sorted(probabilities)}"
    return probabilities
