"""What the film that is sampled now is doing enters; the page hears of it and can ask again after a reload.

It lives in memory alone: after a restart nothing is sampled, and what was finished is in the job folders.
"""

import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from comfy_execution.utils import get_executing_context

from .progress import comfy_server, show_text

FILM_EVENT = "gloria.film"
_SEND_SECONDS = 0.5

_running: dict[str, dict[str, Any]] = {}
_lock = threading.Lock()  # the page asks from another thread


def running_film(folder_name: str) -> dict[str, Any] | None:
    """What the film in this job folder is doing, or None when it is not being sampled."""
    with _lock:
        state = _running.get(folder_name)
        return None if state is None else dict(state)


class FilmStatus(AbstractContextManager["FilmStatus"]):
    """One film while it is being sampled."""

    def __init__(self, folder: Path, job: str, num_chunks: int, node_id: str | None) -> None:
        context = get_executing_context()
        self._folder = folder.name
        self._node_id = node_id
        self._last_sent = 0.0
        self._state = {
            "folder": folder.name,
            "job": job,
            "node_id": node_id,
            "prompt_id": None if context is None else context.prompt_id,
            "num_chunks": num_chunks,
        }

    def __enter__(self) -> "FilmStatus":
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _lock:
            _running.pop(self._folder, None)
        self._send({"ended": True})

    def update(self, **values: Any) -> None:
        """Say what is going on: `chunk`, `step`, `num_steps`, `eta_seconds`, `problem`."""
        with _lock:
            self._state.update(values)
            _running[self._folder] = dict(self._state)
        now = time.monotonic()
        if now - self._last_sent >= _SEND_SECONDS:
            self._last_sent = now
            self._send({})

    def finish_chunk(self, index: int, problem: str | None) -> None:
        """Tell the page at once that a chunk is on disk, and what is wrong with its preview."""
        self.update(**({} if problem is None else {"problem": problem}))
        self._send({"finished": index})

    def say(self, text: str) -> None:
        """A line under the node."""
        show_text(text, self._node_id)

    def _send(self, news: dict[str, Any]) -> None:
        server = comfy_server()
        if server is not None:
            server.send_sync(FILM_EVENT, {**self._state, **news})
