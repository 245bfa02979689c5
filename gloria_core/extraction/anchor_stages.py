"""Candidate moments enter, chosen anchors with their crops leave: measure, judge, choose, global candidates."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..conditioning.anchors import MIN_SIDE
from .backends import Box, FacePose, Judge, LookEncoder, Moment, PersonDetector
from .choose import diverse_best, fitted_crop, quality_score
from .frames import crop_box, exposure, sharpness, thumbnail
from .records import Candidate, Record, Span
from .settings import AnchorThresholds, ExpressionThresholds
from .stage import FolderStage, resources_of

# A crop as sharp as this is as good as any.
_FULLY_SHARP = 150.0
# Feet that are out of the picture cost so much.
_CUT_FEET = 0.6
# Little footage outside of the clips gives few frames there rather than five alike.
_GLOBALS_APART_SECONDS = 0.5


class Measure(FolderStage):
    """Crops every candidate and scores the crop."""

    name = "crops"

    def __init__(
        self,
        folder: Path,
        thresholds: AnchorThresholds,
        expressions: ExpressionThresholds,
        people: PersonDetector | None,
        faces: FacePose | None,
    ) -> None:
        super().__init__(folder)
        self.thresholds, self.expressions, self.people, self.faces = thresholds, expressions, people, faces
        self.resources = resources_of(people, faces)

    def setup(self) -> None:
        """Load the detectors."""
        for backend in (self.people, self.faces):
            if backend is not None:
                backend.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with boxes and scores, candidates of poor crops refused."""
        changed = {}
        for idx, candidate, moment in self._moments(record):
            changed[idx] = self._measured(candidate, moment)
        return [record.with_candidates(changed)]

    def _moments(self, record: Record) -> Iterator[tuple[int, Candidate, Moment]]:
        open_idx = [idx for idx, each in enumerate(record.candidates) if each.rejected is None]
        open_idx.sort(key=lambda idx: record.candidates[idx].time)
        video = self.video(record)
        times = [record.candidates[idx].time for idx in open_idx]
        for idx, (time, picture_HWC) in zip(open_idx, self.pictures(record, times), strict=True):
            yield idx, record.candidates[idx], Moment(video, time, picture_HWC)

    def _measured(self, candidate: Candidate, moment: Moment) -> Candidate:
        limits = self.thresholds
        is_body = candidate.kind == "viewpoint"
        reason, subject = self._subject(candidate, moment)
        size = (moment.picture_HWC.shape[0], moment.picture_HWC.shape[1])
        crop = None
        if subject is not None:
            crop = fitted_crop(subject, limits.body_margin if is_body else limits.head_margin, size, limits.border)
        if crop is None:
            return candidate.reject(reason or "the box lies outside of the picture")
        candidate = replace(candidate, box=crop.box)
        least = limits.min_body_height if is_body else limits.min_head_height
        if crop.box[3] < least or crop.box[2] < MIN_SIDE:
            return candidate.reject(f"the crop is {crop.box[2]}x{crop.box[3]} pixels, {least} high is needed")
        if is_body and crop.cut_off not in (None, "bottom"):
            return candidate.reject(f"cut off at the {crop.cut_off} of the picture")
        picture_HWC = crop_box(moment.picture_HWC, crop.box)
        full = limits.full_body_height if is_body else limits.full_head_height
        factors = {
            "size": min(1.0, crop.box[3] / full),
            "sharpness": min(1.0, sharpness(picture_HWC) / _FULLY_SHARP),
            "exposure": exposure(picture_HWC),
            "whole": _CUT_FEET if is_body and crop.cut_off else 1.0,
        }
        quality = round(quality_score(list(factors.values())), 4)
        candidate = replace(candidate, quality=quality).note(**{name: round(x, 3) for name, x in factors.items()})
        return candidate.reject(f"quality {quality:.2f}") if quality < limits.min_quality else candidate

    def _subject(self, candidate: Candidate, moment: Moment) -> tuple[str | None, Box | None]:
        """Why there is none, or the box that the crop must hold."""
        faces = [] if self.faces is None else self.faces.find(moment)
        faces = [face for face in faces if face.score >= self.expressions.min_score]
        if candidate.kind == "expression":
            return (None, faces[0].box) if len(faces) == 1 else (f"{len(faces)} faces", None)
        if candidate.label == "back" and any(abs(face.psi) <= 90 for face in faces):
            return "a face is seen, so this is no back view", None
        people = [] if self.people is None else self.people.people(moment)
        return (None, people[0]) if len(people) == 1 else (f"{len(people)} people", None)


class JudgeExpressions(FolderStage):
    """Has the best expression candidates looked at again: kept, relabelled or dropped, and the verdict noted."""

    name = "judge"
    asks_others = True

    def __init__(self, folder: Path, thresholds: AnchorThresholds, judge: Judge) -> None:
        super().__init__(folder)
        self.thresholds, self.judge = thresholds, judge

    def setup(self) -> None:
        """Read where the judge is."""
        self.judge.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with verdicts; what no judge confirmed is no anchor."""
        changed: dict[int, Candidate] = {}
        order = sorted(
            (idx for idx, each in enumerate(record.candidates) if each.kind == "expression" and not each.rejected),
            key=lambda idx: (-record.candidates[idx].quality, record.candidates[idx].time),
        )
        taken: dict[str, int] = {}
        for idx in order:
            candidate = record.candidates[idx]
            taken[candidate.label] = taken.get(candidate.label, 0) + 1
            if taken[candidate.label] > self.thresholds.shortlist:
                changed[idx] = candidate.reject(f"{self.thresholds.shortlist} better ones of this label were judged")
                continue
            changed[idx] = self._judged(record, candidate)
        return [record.with_candidates(changed)]

    def _judged(self, record: Record, candidate: Candidate) -> Candidate:
        ((_, picture_HWC),) = self.pictures(record, [candidate.time])
        verdict = self.judge.judge(crop_box(picture_HWC, candidate.box), candidate.label)
        candidate = candidate.note(
            judge=verdict.judge, verdict=verdict.outcome, verdict_reason=verdict.reason, attempts=verdict.attempts
        )
        if verdict.outcome == "relabel":
            return replace(candidate, label=verdict.label).note(classified=candidate.label)
        return candidate if verdict.outcome == "keep" else candidate.reject(f"judge: {verdict.reason}")


class Choose(FolderStage):
    """Keeps the best few of every label that differ: by how they look to a model, or by their colors."""

    name = "choose"

    def __init__(self, folder: Path, thresholds: AnchorThresholds, looks: LookEncoder | None = None) -> None:
        super().__init__(folder)
        self.thresholds, self.looks = thresholds, looks
        self.resources = resources_of(looks)

    def setup(self) -> None:
        """Load the encoder."""
        if self.looks is not None:
            self.looks.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with all other candidates refused."""
        labels: dict[tuple[str, str], list[int]] = {}
        for idx, each in enumerate(record.candidates):
            if each.rejected is None:
                labels.setdefault((each.kind, each.label), []).append(idx)
        features = self._features(record, sorted(idx for group in labels.values() for idx in group))
        changed = {}
        for group in labels.values():
            chosen = diverse_best(
                [record.candidates[idx].quality for idx in group],
                [record.candidates[idx].time for idx in group],
                torch.stack([features[idx] for idx in group]),
                self.thresholds.per_label,
                self.thresholds.apart_seconds,
            )
            for place, idx in enumerate(group):
                if place not in chosen:
                    changed[idx] = record.candidates[idx].reject("better or more different ones were chosen")
        return [record.with_candidates(changed)]

    def _features(self, record: Record, places: list[int]) -> dict[int, Tensor]:
        places = sorted(places, key=lambda idx: record.candidates[idx].time)
        times = [record.candidates[idx].time for idx in places]
        feature = thumbnail if self.looks is None else self.looks.embed
        return {
            idx: feature(crop_box(picture_HWC, record.candidates[idx].box))
            for idx, (_, picture_HWC) in zip(places, self.pictures(record, times), strict=True)
        }


class GlobalCandidates(FolderStage):
    """Draws whole frames, half inside the clips, half outside; the same ones for the same file."""

    name = "globals"

    def __init__(self, folder: Path, fps: float, thresholds: AnchorThresholds) -> None:
        super().__init__(folder)
        self.fps, self.thresholds = fps, thresholds

    def process(self, record: Record) -> list[Record]:
        """The record with global candidates; fewer outside where the clips leave little over."""
        if not record.clips:
            return [record]
        inside = [Span(start=clip.start, end=clip.start + clip.frames / self.fps) for clip in record.clips]
        outside = without(record.spans, inside)
        rng = random.Random(record.id)
        room = math.ceil(sum(span.seconds for span in outside) / _GLOBALS_APART_SECONDS)
        num_outside = min(self.thresholds.num_global // 2, room)
        times = [
            *((time, "inside") for time in spread(inside, self.thresholds.num_global - num_outside, rng)),
            *((time, "outside") for time in spread(outside, num_outside, rng)),
        ]
        found = tuple(
            Candidate(kind="global", label="global", time=round(time, 3), quality=1.0, evidence={"place": place})
            for time, place in sorted(times)
        )
        return [replace(record, candidates=record.candidates + found)]


def without(spans: tuple[Span, ...], holes: list[Span]) -> list[Span]:
    """What is left of spans beside rising holes."""
    left = []
    for span in spans:
        start = span.start
        for hole in holes:
            if hole.start >= span.end or hole.end <= start:
                continue
            if hole.start > start:
                left.append(Span(start=start, end=hole.start))
            start = max(start, hole.end)
        if start < span.end:
            left.append(Span(start=start, end=span.end))
    # Nothing is gained from what is shorter than a few frames, and its end may be the file's.
    return [span for span in left if span.seconds > 0.1]


def spread(spans: list[Span], num: int, rng: random.Random) -> list[float]:
    """One random moment in each of `num` equal shares of the spans' total length, away from the very ends."""
    total = sum(span.seconds for span in spans)
    moments = []
    for idx in range(num):
        place = (idx + rng.uniform(0.05, 0.95)) / num * total
        for span in spans:
            if place < span.seconds:
                moments.append(span.start + min(place, span.seconds - 0.05))
                break
            place -= span.seconds
    return moments
