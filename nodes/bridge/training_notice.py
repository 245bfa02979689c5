"""A prompt enters the queue while a run trains on the device: whoever queued it is told which run and how to stop it.

Through the page (a toast), the web socket (`gloria.training`) and the log; the prompt itself goes its way.
"""

import logging
from typing import Any

from ...gloria_core.training.run_folder import read_status
from .progress import comfy_server
from .training_process import DETACHED
from .training_runs import living_runs, runs_root, uses_our_device
from .training_view import status_text

log = logging.getLogger(__name__)

TRAINING_EVENT = "gloria.training"
# They show the run, follow it or refuse to start beside it.
_TELL_THEMSELVES = {"GloriaTrainModel", "GloriaMonitorTraining"}
_SHARED = (
    "It goes on beside what you queued: both are slower, and memory may not do for both. Gloria Train Monitor with "
    "'save and stop' ends it and loses nothing."
)
_WAITING = "What you queued waits until it ends. Cancel makes it save and end; queue it again later to go on."


def training_beside_us() -> str:
    """Name of a run that trains on our device now, or an empty text."""
    return next(filter(uses_our_device, living_runs()), "")


def register_training_notice() -> None:
    """Look at every prompt that is queued from now on."""
    server = comfy_server()
    if server is not None:
        server.add_on_prompt_handler(_on_prompt)


def _on_prompt(request: dict[str, Any]) -> dict[str, Any]:
    prompt = request.get("prompt")
    is_about_training = isinstance(prompt, dict) and _TELL_THEMSELVES & _node_types(prompt)
    run = "" if is_about_training else training_beside_us()
    if run:
        text = f"{status_text(read_status(runs_root() / run) or {})}\n{_WAITING if _is_followed() else _SHARED}"
        log.warning("%s is training. %s", run, text.replace("\n", ". "))
        notice = {"run": run, "title": f"{run} is training", "text": text}
        comfy_server().send_sync(TRAINING_EVENT, notice, request.get("client_id"))
    return request


def _is_followed() -> bool:
    """Whether a prompt is being worked on that waits for a run, so that the queue waits too."""
    running, _ = comfy_server().prompt_queue.get_current_queue()
    return any(
        node.get("class_type") == "GloriaTrainModel" and node.get("inputs", {}).get("mode") != DETACHED
        for _, _, prompt, *_ in running
        for node in prompt.values()
    )


def _node_types(prompt: dict[str, Any]) -> set[str]:
    return {str(node.get("class_type")) for node in prompt.values() if isinstance(node, dict)}
