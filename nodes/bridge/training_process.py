"""The trainer as a process of its own: started, followed, stopped and found again through the files of its run folder.

A fault of the GPU cannot take ComfyUI down, its memory comes back when it ends, and it lives on when ComfyUI restarts.
"""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy import model_management

from ...gloria_core.errors import TrainingError
from ...gloria_core.training.config import TrainConfig
from ...gloria_core.training.config_file import write_config
from ...gloria_core.training.run_folder import CONFIG, LOG, is_running, read_status, request

DETACHED = "detached"  # mode of a run that no node waits for
UNDER_WAY = ("training", "validating", "saving")  # states of a run between its first step and its end
PACK_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.3
_LOG_LINES = 15
_SIGKILL = 9
_FULL_BYTES = 1 << 20

# Called with the status while the run lives, and whether it was asked to stop; may raise what Cancel raises.
OnStatus = Callable[[dict[str, Any], bool], None]


class TrainingProcess:
    """One run, whether this ComfyUI started it or an earlier one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self, config: TrainConfig) -> bool:
        """Start the run, or attach to it when it lives already (False)."""
        if is_running(self.folder):
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        write_config(self.folder / CONFIG, config)
        free_memory()
        detached: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        with (self.folder / LOG).open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gloria_core.train", str(self.folder / CONFIG)],
                cwd=PACK_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **detached,
            )  # fmt: skip
        return True

    def follow(self, on_status: OnStatus, only_its_start: bool = False) -> tuple[dict[str, Any], bool]:
        """Wait for the end; the last status, and whether Cancel ended it.

        The first Cancel asks the trainer to finish its step and save; the second one kills it.

        Args:
            only_its_start: wait until everything that can be refused was not, and the first step begins.

        Raises:
            TrainingError: The trainer failed; with its own words.
        """
        is_cancelled = False
        while self._is_alive():
            status = self._status()
            if only_its_start and not is_cancelled and status.get("state") in UNDER_WAY:
                return status, False
            try:
                on_status(status, is_cancelled)
                model_management.throw_exception_if_processing_interrupted()
            except model_management.InterruptProcessingException:
                if is_cancelled:
                    self._kill()
                    break
                is_cancelled = True
            if is_cancelled:
                # Each time anew: a trainer that has only just started drops what was asked before it.
                request(self.folder, "stop")
            time.sleep(_POLL_SECONDS)
        status = self._status()
        if status.get("state") not in ("finished", "stopped") and not is_cancelled:
            self._raise_failure()
        return status, is_cancelled

    def _is_alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return is_running(self.folder)

    def _status(self) -> dict[str, Any]:
        """The status of this process; what an earlier one left in the folder does not count."""
        status = read_status(self.folder) or {}
        if self._process is not None and status.get("pid") != self._process.pid:
            return {}
        return status

    def _kill(self) -> None:
        status = read_status(self.folder) or {}
        pid = self._process.pid if self._process is not None else status.get("pid")
        if not isinstance(pid, int) or not self._is_alive():
            return
        if os.name == "nt":
            os.kill(pid, signal.SIGTERM)
        elif os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)  # what it started ends with it
        else:
            os.kill(pid, signal.SIGKILL)  # started from a command line
        if self._process is not None:
            self._process.wait()

    def _raise_failure(self) -> None:
        status = self._status()
        if status.get("state") == "failed" and status.get("error"):
            raise TrainingError(f"Training failed: {status['error']}")
        code = None if self._process is None else self._process.poll()
        cause = ""
        if code == -_SIGKILL:
            cause = " Something killed it; usually the machine ran out of memory."
        elif shutil.disk_usage(self.folder).free < _FULL_BYTES:
            # Then it could not even write down why.
            cause = f" The disk of {self.folder} is full: free space there."
        raise TrainingError(
            f"The trainer ended unexpectedly (exit code {code}).{cause} Queue again to go on from its last checkpoint."
            f"{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        try:
            with (self.folder / LOG).open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return f" The end of {self.folder / LOG}:\n" + "\n".join(lines[-_LOG_LINES:])


def free_memory() -> None:
    """Hand ComfyUI's models back, so that the trainer finds the GPU and the host's memory free."""
    model_management.unload_all_models()
    gc.collect()
    model_management.soft_empty_cache()
