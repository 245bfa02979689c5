"""The status of a run enters, a few lines for people leave; and what a node does while it waits for a run."""

from pathlib import Path
from typing import Any

import comfy.utils
import torch

from ...gloria_core.errors import GloriaError
from .progress import format_seconds, show_text
from .training_process import UNDER_WAY
from .training_samples import decode_new_samples

_STOPPING = "cancelled: it finishes this step and saves; Cancel again ends it at once"


def status_text(status: dict[str, Any]) -> str:
    """A few short lines about a run, for people."""
    state, step = status.get("state", "starting"), status.get("step", 0)
    if state == "starting":
        first = [f"starting: {status.get('message') or 'loading PyTorch'}"]
    else:
        first = [state, f"step {step}/{status.get('total_steps', 0)}"]
    if state in UNDER_WAY and status.get("eta_seconds") is not None:
        first.append(f"{format_seconds(status['eta_seconds'])} left")
    second = []
    if status.get("smooth_loss") is not None:
        second.append(f"loss {status['smooth_loss']:.4f}")
    if status.get("seconds_per_step"):
        second.append(f"{status['seconds_per_step']:.2f} s/step")
    if status.get("memory_bytes"):
        second.append(f"{status['memory_bytes'] / 2**30:.1f} GiB memory")
    if status.get("stage"):
        second.append(f"stage {status['stage']}")
    lines = (", ".join(first), ", ".join(second), status.get("warning"))
    return "\n".join(str(line) for line in lines if line)


class LiveView:
    """Shows a run while a node follows it: bar and lines of text; and decodes its validation clips."""

    def __init__(self, folder: Path, total_steps: int, opening: str, node_id: str | None, vae: Any | None) -> None:
        self._folder = folder
        self._opening = opening
        self._node_id = node_id
        self._vae = vae
        self._bar = comfy.utils.ProgressBar(total_steps)
        self._text = ""
        self._clip_problem = ""

    def __call__(self, status: dict[str, Any], is_stopping: bool) -> None:
        """Bring the page up to date; raises when the user pressed Cancel."""
        self.say(_STOPPING if is_stopping else "", status)
        if status.get("state", "starting") == "starting":
            # What is on disk may still be that of an earlier process, and cut back to its last checkpoint.
            return
        if not is_stopping:
            self._decode()
        self._bar.update_absolute(status.get("step", 0))

    def finish(self, status: dict[str, Any], files: str) -> str:
        """The last state and the names of the results; the text that is shown."""
        self(status, is_stopping=False)
        return self.say(f"{status_text(status)}\n{files}")

    def say(self, news: str, status: dict[str, Any] | None = None) -> str:
        """Show lines under the node: news, how the run is, and what is true of it all the time."""
        lines = (news, "" if status is None else status_text(status), self._opening, self._clip_problem)
        text = "\n".join(line for line in lines if line)
        if text != self._text:
            self._text = text
            show_text(text, self._node_id)
        return text

    def _decode(self) -> None:
        if self._vae is None:
            return
        try:
            decode_new_samples(self._folder, self._vae)
        except (torch.OutOfMemoryError, GloriaError) as error:
            # The run itself does not need the clips.
            self._vae = None
            self._clip_problem = f"validation clips are only shown roughly: {error}"
