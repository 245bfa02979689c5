"""The shape of every stage: set up once, one record in, records out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from .frames import pictures
from .records import Record


@dataclass(frozen=True)
class Resources:
    """What one copy of a stage occupies."""

    cpus: float = 1.0
    gpus: float = 0.0


def resources_of(*backends: object) -> Resources:
    """What a stage occupies that runs these backends: the largest share of a GPU that one of them asks for."""
    return Resources(gpus=max(getattr(backend, "gpus", 0.0) for backend in backends))


class Stage(Protocol):
    """One step of the pipeline.

    A stage drops nothing silently: a record without good spans goes on with its rejects and is left alone by the rest.
    """

    name: str
    resources: Resources
    asks_others: bool
    """Whether an answer may fail to come, so that a later run asks again."""

    def setup(self) -> None:
        """Load what is heavy, in the process that will use it."""

    def process(self, record: Record) -> list[Record]:
        """One record in, one or (after a split) several out."""


def _go_on() -> None:
    """Nobody watches."""


class FolderStage:
    """A stage that reads the folder's videos."""

    name = ""
    resources = Resources()
    asks_others = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_picture: Callable[[], None] = _go_on
        """Called before every picture; what it raises ends the run."""

    def setup(self) -> None:
        """Nothing to load."""

    def video(self, record: Record) -> Path:
        """The record's file."""
        return self.folder / record.video

    def pictures(self, record: Record, times: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """Rising moments of the record's video with their uint8 pictures [H, W, C]."""
        for time, picture_HWC in pictures(self.video(record), times):
            self.on_picture()
            yield time, picture_HWC
