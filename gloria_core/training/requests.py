"""What others ask of a running training: files and signals enter, one decision for all processes leaves."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from .distributed import Workers
from .run_folder import RunFolder

_SIGNALS = ("SIGTERM", "SIGINT", "SIGBREAK")


class Asked(NamedTuple):
    """What to do after this step."""

    stop: bool
    save: bool
    sample: bool


class Requests:
    """Looked at between steps, so a step is never torn apart."""

    def __init__(self, folder: RunFolder | None, workers: Workers) -> None:
        self._folder = folder
        self._workers = workers
        self._was_signalled = False

    def poll(self) -> Asked:
        """Everything asked since the last call, the same in every process."""
        names = self._folder.requests() if self._folder is not None else set()
        flags = ("stop" in names or self._was_signalled, "save" in names, "sample" in names)
        return Asked(*(bool(self._workers.max(float(flag))) for flag in flags))

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Take a signal to end as a request to stop; the second one ends the process as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous: dict[int, Any] = {}

        def on_signal(number: int, _frame: Any) -> None:
            self._was_signalled = True
            signal.signal(number, previous[number])

        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None:
                previous[number] = signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
