"""A stock SDPose MODEL and VAE enter, an estimate of how the body is turned leaves.

SDPose finds keypoints in the picture; it knows no depth. `gloria_core/extraction/keypoints.py` says what follows from
them.
"""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from ...gloria_core.data.read_clip import probe_video
from ...gloria_core.durable_files import file_sha256
from ...gloria_core.errors import CheckpointError, DatasetError
from ...gloria_core.extraction.backends import Box, Moment, PersonDetector
from ...gloria_core.extraction.frames import pictures, sample_times
from ...gloria_core.extraction.keypoints import NUM_JOINTS, track_from_keypoints
from ...gloria_core.extraction.pose_files import BodyTrack
from ...gloria_core.extraction.records import Span
from .extraction_models import OnPicture, as_image, weights_name
from .kept_work import KeptKeypoints

# A pass through the diffusion model for each; enough for turns of 90 degrees a second.
RATE = 8.0
_TRACK_FPS = 24.0
_TOGETHER = 8
_KEEP_SECONDS = 20.0


class SdPoseBody:
    """Body turns, and the person's box where no other detector is connected.

    Args:
        people: whose box is looked at; None: the whole picture is one person.
        work: folder in which poses are kept.
    """

    def __init__(
        self, model: Any, vae: Any, people: PersonDetector | None, on_picture: OnPicture, work: Path
    ) -> None:
        if not hasattr(model.model.diffusion_model, "heatmap_head"):
            raise CheckpointError(
                "The model at pose_model is no SDPose model. Load sdpose_wholebody_fp16.safetensors with Load "
                "Checkpoint."
            )
        self._model, self._vae, self._people, self._on_picture = model, vae, people, on_picture
        self._work = work
        self._track: tuple[Path, BodyTrack] | None = None
        boxes = None if people is None else people.name
        self.name = weights_name("sdpose", model.model.diffusion_model, RATE, boxes)

    def setup(self) -> None:
        """ComfyUI loads the models when they are used."""

    def track(self, video: Path) -> BodyTrack:
        """The person of a video over time.

        Raises:
            DatasetError: Nobody alone is seen in it.
        """
        if self._track is None or self._track[0] != video:
            self._track = (video, self._make_track(video))
        return self._track[1]

    def people(self, moment: Moment) -> list[Box]:
        """The tracked person's box where there is one."""
        track = self.track(moment.video).nearest(np.array([moment.time]))
        assert track.boxes_T4 is not None
        return [] if np.isnan(track.boxes_T4[0]).any() else [Box(*track.boxes_T4[0].tolist())]

    def _make_track(self, video: Path) -> BodyTrack:
        times = sample_times(Span(start=0.0, end=probe_video(video).seconds), RATE)
        kept = KeptKeypoints(self._work, f"{self.name} {file_sha256(video)}")
        joints_TJ3, first = kept.read((len(times), NUM_JOINTS, 3))
        num_done = num_kept = first
        kept_at = monotonic()
        try:
            for num_done in self._finding(video, times, first, joints_TJ3):
                if monotonic() - kept_at >= _KEEP_SECONDS:
                    kept.write(joints_TJ3[:num_done])
                    num_kept, kept_at = num_done, monotonic()
        finally:
            if num_done > num_kept:
                kept.write(joints_TJ3[:num_done])
        if not joints_TJ3.any():
            raise DatasetError(f"Nobody is seen alone in '{video.name}', so there is no pose.")
        return track_from_keypoints(np.array(times), joints_TJ3, _TRACK_FPS)

    def _finding(self, video: Path, times: list[float], first: int, joints_TJ3: np.ndarray) -> Iterator[int]:
        """Fill in the joints from sample `first` on; yields how many samples are done."""
        waiting: list[tuple[int, torch.Tensor, list[Box]]] = []
        for idx, (time, picture_HWC) in enumerate(pictures(video, times[first:]), first):
            self._on_picture("poses")
            boxes = [] if self._people is None else self._people.people(Moment(video, time, picture_HWC))
            if self._people is None or len(boxes) == 1:
                waiting.append((idx, picture_HWC, boxes))
            if len(waiting) == _TOGETHER:
                self._find(waiting, joints_TJ3)
                waiting = []
                yield idx + 1
        self._find(waiting, joints_TJ3)
        yield len(times)

    def _find(self, waiting: list[tuple[int, torch.Tensor, list[Box]]], joints_TJ3: np.ndarray) -> None:
        """Put the joints of the pictures that wait into their places."""
        from comfy_extras.nodes_sdpose import SDPoseKeypointExtractor

        if not waiting:
            return
        images_BHWC = torch.cat([as_image(picture_HWC) for _, picture_HWC, _ in waiting])
        boxes = None
        if self._people is not None:
            boxes = [
                [{"x": box.left, "y": box.top, "width": box.right - box.left, "height": box.bottom - box.top}]
                for _, _, (box,) in waiting
            ]
        frames = SDPoseKeypointExtractor.execute(self._model, self._vae, images_BHWC, _TOGETHER, boxes).args[0]
        for (idx, _, _), frame in zip(waiting, frames, strict=True):
            joints_TJ3[idx] = _joints(frame["people"])


def _joints(people: list[dict[str, list[float]]]) -> np.ndarray:
    """Body and feet of the one person [J, 3]; zeros for a box that held no pixel."""
    if not people:
        return np.zeros((NUM_JOINTS, 3))
    joints_J3 = np.array(people[0]["pose_keypoints_2d"] + people[0]["foot_keypoints_2d"]).reshape(NUM_JOINTS, 3)
    # Joints that were not found keep a score, but their place is -1.
    joints_J3[joints_J3[:, 0] < 0] = 0
    return joints_J3
