"""A source video enters, everything that its clips may take as anchors leaves: inside of clips and outside of them.

Like real footage, a video offers moments: whole frames, and crops of the body or the head where a view or an
expression happens to be seen. Those have a time, and a clip around it contains their very pose. Beside them stand the
toy world's own anchors, pictures from elsewhere, for every label.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor
from ..toyworld.anchors import (
    BODY_VIEW,
    DEFAULT_CROPS,
    HEAD_VIEW,
    MAX_EXPRESSION_YAW,
    expression_anchors,
    global_anchor,
    viewpoint_anchors,
)
from ..toyworld.canvas import VIEW_HEIGHT
from ..toyworld.doll import HEAD_Y
from ..toyworld.poses import Poses
from ..toyworld.program import VIEW_YAW
from ..toyworld.render import render
from ..toyworld.source import Source

_NUM_GLOBAL, _PER_LABEL = 6, 2
_BODY_Y = 0.505
_MAX_VIEW_ERROR = np.radians(20)
_MIN_MOOD = 0.9


@dataclass(frozen=True)
class Candidate:
    """One picture.

    Args:
        time: seconds from the start of the video; None: from elsewhere.
    """

    anchor: Anchor
    time: float | None


def anchor_candidates(source: Source, rng: np.random.Generator) -> list[Candidate]:
    """Global frames at random moments, seen views and expressions, and one picture from elsewhere for each label."""
    frames = rng.choice(source.num_frames, size=min(_NUM_GLOBAL, source.num_frames), replace=False)
    found = [_at(source, int(frame), global_anchor(source, int(frame)).anchors[0]) for frame in frames]
    poses = source.poses(0, source.num_frames)
    for label in VIEWPOINTS:
        moments = np.flatnonzero(_yaw_error(poses.yaw_T.numpy(), VIEW_YAW[label]) < _MAX_VIEW_ERROR)
        for frame in _some(moments, rng):
            found.append(_at(source, frame, _crop(source, poses, frame, "viewpoint", label)))
    is_frontal = _yaw_error(poses.head_yaw_T.numpy(), 0.0) < MAX_EXPRESSION_YAW
    for idx, label in enumerate(EXPRESSIONS):
        moments = np.flatnonzero(is_frontal & (poses.expression_TE[:, idx].numpy() > _MIN_MOOD))
        for frame in _some(moments, rng):
            found.append(_at(source, frame, _crop(source, poses, frame, "expression", label)))
    elsewhere = (*viewpoint_anchors(source, rng).anchors, *expression_anchors(source, rng).anchors)
    return found + [Candidate(anchor, None) for anchor in elsewhere]


def _crop(source: Source, poses: Poses, frame: int, kind: str, label: str) -> Anchor:
    """The character as it stands in a frame, seen closer."""
    view, center_y, size = (
        (BODY_VIEW, _BODY_Y, DEFAULT_CROPS.viewpoint)
        if kind == "viewpoint"
        else (HEAD_VIEW, HEAD_Y, DEFAULT_CROPS.expression)
    )
    pose = poses[frame : frame + 1]
    camera = torch.tensor([[float(pose.x_T), center_y, VIEW_HEIGHT / view]])
    image_1HWC = render(source.look, replace(pose, camera_T3=camera), source.backdrop, source.tint_T3, *size)
    return Anchor(kind, label, image_1HWC[0])


def _at(source: Source, frame: int, anchor: Anchor) -> Candidate:
    return Candidate(anchor, frame / source.fps)


def _some(moments: np.ndarray, rng: np.random.Generator) -> list[int]:
    chosen = rng.choice(moments, size=min(_PER_LABEL, len(moments)), replace=False) if len(moments) else []
    return [int(frame) for frame in chosen]


def _yaw_error(yaw_T: np.ndarray, wanted: float) -> np.ndarray:
    return np.abs((yaw_T - wanted + np.pi) % (2 * np.pi) - np.pi)
