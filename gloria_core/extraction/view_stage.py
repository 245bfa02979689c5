"""A body track enters, candidate moments of the four viewpoints leave."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from .backends import BodyPose
from .pose_files import BodyTrack
from .records import Candidate, Record, Reject, Span
from .settings import ExtractionSettings
from .stage import FolderStage, resources_of
from .view_bands import best_moments, label_views

_MOMENTS_PER_RUN = 3


class Viewpoints(FolderStage):
    """Labels moments by the body's orientation."""

    name = "viewpoints"

    def __init__(self, folder: Path, settings: ExtractionSettings, body: BodyPose) -> None:
        super().__init__(folder)
        self.settings, self.body = settings, body
        self.resources = resources_of(body)

    def setup(self) -> None:
        """Load the pose estimator."""
        self.body.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with viewpoint candidates."""
        track = self.body.track(self.video(record))
        found: list[Candidate] = []
        refused: dict[str, int] = {}
        for span in record.spans:
            found += self._candidates(span, track, refused)
        fps = self.settings.fps
        rejects = [
            Reject(
                stage=self.name, start=record.spans[0].start, end=record.spans[-1].end,
                reason=f"{count / fps:.2f} s show no viewpoint: {reason}",
            )
            for reason, count in sorted(refused.items())
        ]  # fmt: skip
        return [replace(record, candidates=record.candidates + tuple(found), rejects=(*record.rejects, *rejects))]

    def _candidates(self, span: Span, track: BodyTrack, refused: dict[str, int]) -> list[Candidate]:
        fps, thresholds = self.settings.fps, self.settings.views
        grid_T = span.start + np.arange(max(1, int(span.seconds * fps))) / fps
        on_grid = track.nearest(grid_T)
        labels = label_views(on_grid.psi_T, on_grid.upright_T, on_grid.elevation_T, on_grid.head_psi_T, fps, thresholds)
        for reason, count in labels.refused.items():
            refused[reason] = refused.get(reason, 0) + count
        return [
            Candidate(
                kind="viewpoint",
                label=run.label,
                time=round(float(grid_T[frame]), 4),
                evidence={"psi": round(float(labels.psi_T[frame]), 1), "turns": round(float(labels.speed_T[frame]), 1)},
            )
            for run in labels.runs
            for frame in best_moments(run, labels, fps, self.settings.anchors.apart_seconds, _MOMENTS_PER_RUN)
        ]
