"""Progress of a long loop in ComfyUI: bar, remaining time under the node, and the Cancel button."""

import sys
import time
from typing import Any

import comfy.utils
from comfy import model_management

TEXT_INTERVAL_SECONDS = 1.0


def format_seconds(seconds: float) -> str:
    """Hours, minutes and seconds, for example 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def comfy_server() -> Any | None:
    """ComfyUI's server, which is imported before any node; None in scripts that run nodes without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def show_text(text: str, node_id: str | None) -> None:
    """Lines under the node in the page."""
    server = comfy_server()
    if server is not None and node_id is not None:
        # Nodes 2.0 reads it as Markdown, in which a line that shall stay one ends with two spaces.
        server.send_progress_text(text.replace("\n", "  \n"), node_id)


class NodeProgress:
    """Call with (done, total) between pieces of work; raises when the user pressed Cancel."""

    def __init__(self, node_id: str | None, unit: str) -> None:
        self._node_id = node_id
        self._unit = unit
        self._bar: comfy.utils.ProgressBar | None = None
        self._first_done = 0
        self._started = self._last_text = 0.0

    def __call__(self, done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if self._bar is None:
            # Work found done from an earlier run says nothing about the speed of this one.
            self._bar, self._first_done, self._started = comfy.utils.ProgressBar(total), done, now
        self._bar.update_absolute(done, total)
        if now - self._last_text < TEXT_INTERVAL_SECONDS and done < total:
            return
        self._last_text = now
        text = f"{done} of {total} {self._unit}"
        if self._first_done < done < total:
            remaining = (now - self._started) / (done - self._first_done) * (total - done)
            text += f", {format_seconds(remaining)} left"
        show_text(text, self._node_id)
