"""The film that quickstart.py makes enters, what it shows beside what its timeline asked for leaves.

    python -m benchmarks.demo_film .quickstart/base/output/gloria/cpu_talking_video_00001_.mp4

Frames are read by the toy world's analysis by synthesis (docs/toyworld.md). View and mood are asked from half a second
after their cue to the next cue, views only where the doll keeps still. Chance is 0.25 for views and 0.125 for moods.

Legend: T read frames, F video frames, H W pixels, C colors.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.conditioning.cues import Cue, parse_cues
from gloria_core.demo.example_pictures import DEMO_CHARACTER, example_source
from gloria_core.demo.film_sheet import read_frames
from gloria_core.media.read_audio import read_audio
from gloria_core.toyworld.program import VIEW_YAW
from gloria_core.toyworld.readout import Reader, Reading
from gloria_core.toyworld.speech import mouth_opening_of
from quickstart import WORKFLOW

from .toyworld.measure import FRONT, correlation, degrees_between, marks_told_by_anchors, right_marks

_SETTLE_SECONDS = 0.5
_VIEW_DEGREES = 45.0
_DRIFT_SECONDS = 10


@dataclass(frozen=True)
class FilmReport:
    """Shares of frames, a correlation, and color differences (delta E 1976) at both ends of the film."""

    readable: float
    view: float
    mood: float
    mark_front: float
    mark_elsewhere: float | None
    mark_color_elsewhere: float | None
    mouth_follows_speech: float
    room_first: float
    room_last: float
    palette_first: float
    palette_last: float


class Asked(NamedTuple):
    """What a cue asks of its frames."""

    frames_T: Tensor
    """Whether each read frame is its."""
    view: str | None
    """None where the doll turns."""
    mood: str


def report_on(film: Path, every: int = 2) -> FilmReport:
    """Read every so many frames of a film of the demo character."""
    frames, fps = read_frames(film)
    frames_T = torch.arange(0, len(frames), every)
    pictures_THWC = torch.from_numpy(np.stack(frames[::every])).float() / 255
    source = example_source(DEMO_CHARACTER)
    reading = Reader(source).read(pictures_THWC)
    asked = _asked(frames_T, fps)
    num_ends = _DRIFT_SECONDS * fps
    first_T, last_T = frames_T < num_ends, frames_T >= len(frames) - num_ends
    color_TV, right_TV = right_marks(reading, source.character.marks)
    elsewhere_TV = marks_told_by_anchors(reading)
    return FilmReport(
        readable=_share(reading.is_readable_T),
        view=_share(torch.cat([_faces(reading, one.view)[one.frames_T] for one in asked if one.view is not None])),
        mood=_share(torch.cat([_feels(reading, one.mood)[one.frames_T & reading.sees_face_T] for one in asked])),
        mark_front=_share(right_TV[:, FRONT][reading.sees_mark_TV[:, FRONT]]),
        mark_elsewhere=_share(right_TV[elsewhere_TV]) if elsewhere_TV.any() else None,
        mark_color_elsewhere=_share(color_TV[elsewhere_TV]) if elsewhere_TV.any() else None,
        mouth_follows_speech=_mouth_follows_speech(film, reading, frames_T, fps, len(frames)),
        room_first=float(reading.room_delta_T[first_T].mean()),
        room_last=float(reading.room_delta_T[last_T].mean()),
        palette_first=float(reading.palette_delta_T[first_T].mean()),
        palette_last=float(reading.palette_delta_T[last_T].mean()),
    )


def _asked(frames_T: Tensor, fps: float) -> list[Asked]:
    (timeline,) = (n for n in json.loads(WORKFLOW.read_text()).values() if n["class_type"] == "GloriaEncodeTimeline")
    cues = parse_cues(timeline["inputs"]["cues"])
    ends = [float(cue.seconds) for cue in cues[1:]] + [float("inf")]
    return [_asked_by(cue, end, frames_T / fps) for cue, end in zip(cues, ends, strict=True)]


def _asked_by(cue: Cue, end: float, times_T: Tensor) -> Asked:
    still = re.search(r"keeps facing the (\w+)", cue.text)
    mood = re.search(r"feels (\w+)", cue.text)
    assert mood is not None, cue.text
    inside_T = (times_T >= float(cue.seconds) + _SETTLE_SECONDS) & (times_T < end)
    return Asked(inside_T, None if still is None else still[1], mood[1])


def _faces(reading: Reading, view: str) -> Tensor:
    off_T = degrees_between(reading.poses.yaw_T, torch.tensor(VIEW_YAW[view]))
    return (off_T < _VIEW_DEGREES) & reading.is_readable_T


def _feels(reading: Reading, mood: str) -> Tensor:
    return (reading.expressions() == EXPRESSIONS.index(mood)) & reading.is_readable_T


def _mouth_follows_speech(film: Path, reading: Reading, frames_T: Tensor, fps: float, num_frames: int) -> float:
    """Correlation of the mouth with the opening that the film's own sound asks for, where a face is seen."""
    opening_F = torch.from_numpy(mouth_opening_of(read_audio(film).waveform_N.numpy(), fps, num_frames))
    seen_T = reading.sees_face_T & reading.is_readable_T
    return correlation(reading.poses.mouth()[seen_T], opening_F[frames_T[seen_T]])


def _share(are_T: Tensor) -> float:
    return float(are_T.float().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo_film", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("film", type=Path)
    options = parser.parse_args(arguments)
    for name, value in asdict(report_on(options.film)).items():
        print(f"{name:22} {value:.2f}" if value is not None else f"{name:22} -")
    return 0


if __name__ == "__main__":
    sys.exit(main())
