"""The lines that a run writes enter as they are written; what a chart shows of them leaves, however long the run is.

Once there are too many points, neighbouring steps are merged, so that 200000 steps take no more room than 1000. What
was read is kept: the next look reads only what is new.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .progress import Smoothed
from .run_folder import METRICS, VALIDATION, read_metrics, read_validation

MAX_POINTS = 1000
_PIECE_BYTES = 1 << 20


class StepPoint(NamedTuple):
    """One step, or several in a row: lowest and highest loss of them, smoothed loss and learning rate of the last."""

    step: int
    low: float | None
    high: float | None
    smooth: float | None
    lr: float | None


class HeldOutPoint(NamedTuple):
    """The held-out loss after a step."""

    step: int
    loss: float


class _Thinned:
    """Points by step; when there are more than `MAX_POINTS`, twice as many steps share one."""

    def __init__(self, merge: Callable[[Any, Any], Any]) -> None:
        self._merge = merge
        self.steps_per_point = 1
        self._points: dict[int, Any] = {}

    def add(self, point: Any) -> None:
        self._put(point)
        if len(self._points) > MAX_POINTS:
            points, self._points = self._points, {}
            self.steps_per_point *= 2
            for earlier in points.values():
                self._put(earlier)

    def after(self, step: int) -> list[Any]:
        return [point for point in self._points.values() if point.step > step]

    def _put(self, point: Any) -> None:
        place = (point.step - 1) // self.steps_per_point
        earlier = self._points.get(place)
        self._points[place] = point if earlier is None else self._merge(earlier, point)


class RunHistory:
    """One run, read by whoever looks at it again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity: tuple[Any, ...] = ()
        self._start_over()

    @property
    def version(self) -> str:
        """Changes when points that were given out before no longer hold: the run went back, or steps were merged."""
        strides = (self._steps.steps_per_point, self._held_out.steps_per_point)
        return "-".join(map(str, (*self._identity, *strides)))

    def update(self, process: Any) -> None:
        """Read what is new.

        Args:
            process: names the process that trains. A new one cuts the files back to the last checkpoint.
        """
        identity = (process, _file_number(self._folder / METRICS), _file_number(self._folder / VALIDATION))
        if identity != self._identity:
            self._identity = identity
            self._start_over()
        while lines := self._next_metrics():
            for line in lines:
                self._add_step(line)
        lines, self._validation_end = read_validation(self._folder, self._validation_end)
        for line in lines:
            if line.get("loss") is not None:
                self._held_out.add(HeldOutPoint(line["step"], line["loss"]))

    def steps_after(self, step: int) -> list[StepPoint]:
        """Points whose last step is a later one. The newest point grows: ask again from the one before it."""
        return self._steps.after(step)

    def held_out_after(self, step: int) -> list[HeldOutPoint]:
        """Held-out losses after later steps."""
        return self._held_out.after(step)

    def _start_over(self) -> None:
        self._metrics_end = self._validation_end = 0
        self._smooth = Smoothed()
        self._steps = _Thinned(_merge_steps)
        self._held_out = _Thinned(lambda _earlier, later: later)
        self.stages: list[tuple[int, str]] = []
        """First step and name of each."""
        self.first_bins: list[float | None] = []
        """Loss by range of noise levels, as it was when each range was first counted."""
        self.last_bins: list[float | None] = []
        """The same now."""

    def _next_metrics(self) -> list[dict[str, Any]]:
        lines, self._metrics_end = read_metrics(self._folder, self._metrics_end, _PIECE_BYTES)
        return lines

    def _add_step(self, line: dict[str, Any]) -> None:
        step, loss = line["step"], line.get("loss")
        if loss is not None:
            self._smooth.add(loss)
        self._steps.add(StepPoint(step, loss, loss, self._smooth.value, line.get("lr")))
        if not self.stages or self.stages[-1][1] != line.get("stage"):
            self.stages.append((step, str(line.get("stage"))))
        if "loss_bins" in line:
            self.last_bins = line["loss_bins"]
            earlier = self.first_bins or [None] * len(self.last_bins)
            self.first_bins = [now if old is None else old for old, now in zip(earlier, self.last_bins, strict=True)]


def _merge_steps(earlier: StepPoint, later: StepPoint) -> StepPoint:
    lows = [point.low for point in (earlier, later) if point.low is not None]
    highs = [point.high for point in (earlier, later) if point.high is not None]
    return later._replace(low=min(lows, default=None), high=max(highs, default=None))


def _file_number(path: Path) -> int:
    """A file that takes another's place has another number."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
