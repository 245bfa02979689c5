"""Videos and stages enter, their parts are on disk when it ends: in this process, or on a Ray cluster.

Both do the same work on the same units and write the same bytes.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from ..errors import DatasetError, GloriaError
from .stage import Stage
from .units import PartStore, StageRun, Unit, open_unit, unit_content, unit_from_content

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]


class Runner(Protocol):
    """Does all units."""

    def run(
        self, folder: Path, videos: Sequence[str], stages: Sequence[Stage], store: PartStore, on_unit: Progress
    ) -> list[Unit]:
        """Make every part that is missing; the units without records, in any order."""


def stage_groups(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Neighbouring stages that occupy the same, to run in one process."""
    for _, group in groupby(stages, key=lambda stage: stage.resources):
        yield list(group)


@dataclass
class LocalRunner:
    """One video after the other, here.

    Args:
        stop_on: errors that end the run, for example a Cancel; all others become rows.
    """

    stop_on: tuple[type[BaseException], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    """Time spent in each stage by the last run."""

    def run(
        self, folder: Path, videos: Sequence[str], stages: Sequence[Stage], store: PartStore, on_unit: Progress
    ) -> list[Unit]:
        """Make every part that is missing."""
        store.folder.mkdir(parents=True, exist_ok=True)
        run = StageRun(folder, stages, store, self.stop_on)
        self.seconds = run.seconds
        units = []
        for idx, video in enumerate(videos):
            units.append(_finish(run(open_unit(folder, video, store)), store))
            on_unit(idx + 1, len(videos), video)
        return units


@dataclass(frozen=True, kw_only=True)
class RayRunner:
    """Videos spread over a Ray cluster that shares the folder; the extra `scale`.

    Args:
        address: of a running cluster; None starts one on this machine.
        workers: copies of every group of stages.
    """

    address: str | None = None
    workers: int = 2

    def run(
        self, folder: Path, videos: Sequence[str], stages: Sequence[Stage], store: PartStore, on_unit: Progress
    ) -> list[Unit]:
        """Make every part that is missing.

        Raises:
            DatasetError: Ray is not installed, or a worker cannot load a model or write a part.
        """
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise DatasetError(f"This runner needs Ray Data ({error}): pip install 'ray[data]'.") from error
        store.folder.mkdir(parents=True, exist_ok=True)
        groups = list(stage_groups(stages))
        if not ray.is_initialized():
            # Every worker of every group waits for its place, however few processors there are.
            places = math.ceil(self.workers * sum(group[0].resources.cpus for group in groups))
            ray.init(address=self.address, num_cpus=None if self.address else places, log_to_driver=False)
        items = [{"video": video, "unit": b"", "failure": ""} for video in videos]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        for idx, group in enumerate(groups):
            rows = rows.map(
                _RayStages,
                fn_constructor_args=(folder, group, store, idx == len(groups) - 1),
                concurrency=self.workers,
                num_cpus=group[0].resources.cpus,
                num_gpus=group[0].resources.gpus or None,
            )
        units = []
        for row in rows.iter_rows():
            if row["failure"]:
                raise DatasetError(row["failure"])
            units.append(_unpacked(row))
            on_unit(len(units), len(videos), row["video"])
        return units


class _RayStages:
    """A group of stages in an actor."""

    def __init__(self, folder: Path, stages: Sequence[Stage], store: PartStore, is_last: bool) -> None:
        self.folder, self.store, self.is_last = folder, store, is_last
        self.run = StageRun(folder, stages, store)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["failure"]:
            return row
        try:
            return {**row, "unit": _packed(self._after(row))}
        except GloriaError as error:  # not of the video; Ray would bury it under its own
            return {**row, "failure": str(error)}

    def _after(self, row: dict[str, Any]) -> Unit:
        unit = _unpacked(row) if row["unit"] else open_unit(self.folder, row["video"], self.store)
        unit = self.run(unit)
        return _finish(unit, self.store) if self.is_last else unit


def _finish(unit: Unit, store: PartStore) -> Unit:
    """Write the part of a unit; its records are on disk from then on, not in memory."""
    if not unit.is_done:
        store.write(unit)
    return replace(unit, records=(), is_done=True)


def _packed(unit: Unit) -> bytes:
    """A unit between two processes, as JSON."""
    return json.dumps(unit_content(unit)).encode()


def _unpacked(row: dict[str, Any]) -> Unit:
    return unit_from_content(json.loads(row["unit"]), row["video"])
