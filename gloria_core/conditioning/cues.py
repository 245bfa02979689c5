"""Lines of text with a time enter, the prompt and the active anchors of every chunk leave.

    0:00 she speaks to the camera
    0:12 she turns around
    0:20 [happy, front] she smiles

A cue lasts until the next one. The labels in brackets name the anchors that are active meanwhile, beside the global
one, which always is; without brackets all are. Until the first cue nothing is cued: the base prompt, all anchors.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from ..errors import CueError
from ..sampling.plan import Chunk, ChunkPlan
from ..shapes import pixel_span_of_latent
from .anchors import EXPRESSIONS, KINDS, VIEWPOINTS

LABELS = (KINDS[0], *VIEWPOINTS, *EXPRESSIONS)
_LINE = re.compile(r"(?P<time>\S+)\s*(?:\[(?P<labels>[^\]]*)\])?\s*(?P<text>.*)")
_TIME = re.compile(r"(?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d\d(?:\.\d{1,3})?)", re.ASCII)
_EXAMPLE = "for example '0:12 she turns around' or '1:05.5 [happy, front] she smiles'"
_SHOWN_CHARS = 60


@dataclass(frozen=True)
class Cue:
    """What happens from one moment on.

    Args:
        seconds: when it begins.
        text: what happens, empty for the base prompt alone.
        labels: anchors that are active beside the global one; empty means all.
    """

    seconds: Fraction
    text: str
    labels: tuple[str, ...] = ()

    @property
    def time(self) -> str:
        """When it begins, as a person writes it: 0:12 or 1:02:03.5."""
        minutes, seconds = divmod(self.seconds, 60)
        hours, minutes = divmod(int(minutes), 60)
        whole, rest = divmod(seconds, 1)
        fraction = f"{float(rest):.3f}"[1:].rstrip("0").rstrip(".")
        return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{int(whole):02d}{fraction}"

    def prompt(self, base: str) -> str:
        """The base prompt followed by what happens."""
        return " ".join(part for part in (base.strip(), self.text) if part)

    def is_active(self, label: str) -> bool:
        """Whether an anchor of this label is looked at meanwhile."""
        return not self.labels or label == KINDS[0] or label in self.labels


def parse_cues(text: str) -> tuple[Cue, ...]:
    """All cues in order, the first at 0: empty lines count for nothing, anything else must be a cue."""
    cues: list[Cue] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            cue = _parse_line(line.strip(), number)
            if cues and cue.seconds <= cues[-1].seconds:
                raise CueError(
                    f"Line {number} of the cues begins at {cue.time}, expected a time after {cues[-1].time}, where the "
                    "cue before it begins. Put the lines in order, each time once."
                )
            cues.append(cue)
    if not cues or cues[0].seconds > 0:
        cues.insert(0, Cue(Fraction(0), ""))
    return tuple(cues)


def new_frames(chunk: Chunk, pixel_frames: int) -> tuple[int, int]:
    """Half-open span of the video frames that a chunk adds to a film of `pixel_frames`."""
    first = pixel_span_of_latent(chunk.start + chunk.prefix)[0]
    return first, min(pixel_span_of_latent(chunk.stop - 1)[1], pixel_frames)


def cue_of_span(cues: tuple[Cue, ...], first_frame: int, stop_frame: int, fps: Fraction) -> int:
    """Index of the cue that covers most of these frames; of two that cover as many, the earlier one."""
    starts = [math.ceil(cue.seconds * fps) for cue in cues]  # the first frame shown at or after the cue's time
    stops = [*starts[1:], max(stop_frame, starts[-1])]
    covered = [min(stop, stop_frame) - max(start, first_frame) for start, stop in zip(starts, stops, strict=True)]
    return covered.index(max(covered))


def cues_of_chunks(cues: tuple[Cue, ...], plan: ChunkPlan, pixel_frames: int, fps: Fraction) -> tuple[int, ...]:
    """For every chunk the index of its cue: the one that covers most of the frames it adds."""
    return tuple(cue_of_span(cues, *new_frames(chunk, pixel_frames), fps) for chunk in plan.chunks)


def check_labels(cues: tuple[Cue, ...], given: tuple[str, ...]) -> None:
    """Refuse cues that name an anchor there is no image of."""
    for cue in cues:
        for label in cue.labels:
            if label not in given:
                raise CueError(
                    f"The cue at {cue.time} names the anchor '{label}', but "
                    f"{'the anchors are ' + ', '.join(given) if given else 'no anchors are connected'}. "
                    "Give an image for it in Gloria Anchors, or take it out of the brackets."
                )


def _parse_line(line: str, number: int) -> Cue:
    shown = line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 3] + "..."
    match = _LINE.fullmatch(line)
    time = _TIME.fullmatch(match["time"]) if match else None
    if time is None:
        raise CueError(
            f"Line {number} of the cues is {shown!r}, expected a time (minutes:seconds) and what happens then, "
            f"{_EXAMPLE}. One line is one cue."
        )
    seconds, minutes, hours = Fraction(time["seconds"]), int(time["minutes"]), int(time["hours"] or 0)
    if seconds >= 60 or (time["hours"] and minutes >= 60):
        raise CueError(f"Line {number} of the cues begins at {match['time']}, expected seconds and minutes below 60.")
    labels = _parse_labels(match["labels"], number)
    if match["text"].startswith("["):
        raise CueError(f"Line {number} of the cues is {shown!r}, expected one list of anchors in [ ], {_EXAMPLE}.")
    if not match["text"] and not labels:
        raise CueError(f"Line {number} of the cues says nothing after its time, expected what happens, {_EXAMPLE}.")
    return Cue(hours * 3600 + minutes * 60 + seconds, match["text"], labels)


def _parse_labels(text: str | None, number: int) -> tuple[str, ...]:
    if text is None:
        return ()
    labels = tuple(label.strip().lower() for label in text.split(","))
    for label in labels:
        if label not in LABELS:
            raise CueError(
                f"Line {number} of the cues names the anchor {label!r}, expected one or more of {', '.join(LABELS)}."
            )
    return tuple(dict.fromkeys(labels))
