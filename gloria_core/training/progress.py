"""What a run tells the outside: one line of metrics per step, a status with speed, time left and memory, and a log."""

import logging
import math
import statistics
import time
from collections import deque
from datetime import timedelta
from typing import Any

import torch

from .config import TrainConfig
from .distributed import Workers
from .loss_bins import LossBins
from .run_folder import RunFolder

logger = logging.getLogger(__name__)

STATUS_SECONDS = 0.5
LOG_SECONDS = 15.0
# The loss of one step says more about its noise level than about the model.
SMOOTHING = 0.98
_SPEED_STEPS = 50


class Smoothed:
    """Mean of all losses so far, recent ones weighing most; from the first one on without a bias towards it."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, loss: float) -> None:
        """Take one loss in."""
        self._sum = SMOOTHING * self._sum + loss
        self._weight = SMOOTHING * self._weight + 1

    @property
    def value(self) -> float | None:
        """None before the first loss."""
        return self._sum / self._weight if self._weight else None


class Progress:
    """Writes the files that the page and the monitor read, and the log; silent in all processes but the first."""

    def __init__(self, config: TrainConfig, workers: Workers, folder: RunFolder | None) -> None:
        self._total = config.total_steps
        self._bin_every = max(1, min(50, config.total_steps // 20))
        self._device = workers.device
        self._folder = folder
        self._seconds: deque[float] = deque(maxlen=_SPEED_STEPS)
        self._smooth = Smoothed()
        self._elapsed_before = 0.0
        self._started = time.monotonic()
        self._last_write = 0.0
        self._last_log = -math.inf
        self._status: dict[str, Any] = {"state": "starting", "step": 0, "total_steps": self._total, "message": ""}

    @property
    def elapsed_seconds(self) -> float:
        """Time spent training, earlier parts of a resumed run included."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def has_results(self) -> bool:
        """Whether the results of this process are written."""
        return bool(self._status.get("results"))

    def restore(self, elapsed_seconds: float, losses: list[float]) -> None:
        """Go on from a snapshot."""
        self._elapsed_before = elapsed_seconds
        self._smooth = Smoothed()
        for loss in losses:
            self._smooth_in(loss)
        self._status |= {"step": len(losses)}

    def say(self, state: str, message: str = "", **values: Any) -> None:
        """Change of state, written at once."""
        self._status |= {"state": state, "message": message, **values}
        if self._folder is not None and message:
            logger.info("%s", message)
        self._write_status()

    def warn(self, message: str) -> None:
        """Something that does not end the run and that people should know; the status keeps the last one."""
        logger.warning("%s", message)
        self._status["warning"] = message

    def after_step(self, metrics: dict[str, Any], bins: LossBins) -> None:
        """One line of metrics and, twice a second or when training goes on again, the status."""
        self._seconds.append(metrics["seconds"])
        self._smooth_in(metrics["loss"])
        is_back = self._status["state"] != "training"
        seconds = statistics.median(self._seconds)
        self._status |= {
            "state": "training",
            "message": "",
            "stage": metrics["stage"],
            "step": metrics["step"],
            "loss": _finite(metrics["loss"]),
            "smooth_loss": self._smooth.value,
            "lr": metrics["lr"],
            "seconds_per_step": seconds,
            "eta_seconds": seconds * (self._total - metrics["step"]),
            "memory_bytes": peak_memory_bytes(self._device),
            "elapsed_seconds": self.elapsed_seconds,
        }
        if self._folder is None:
            return
        line = {**metrics, "loss": _finite(metrics["loss"]), "grad_norm": _finite(metrics["grad_norm"])}
        if metrics["step"] % self._bin_every == 0 or metrics["step"] == self._total:
            line["loss_bins"] = bins.means()
        self._folder.append_metrics(line)
        now = time.monotonic()
        # Where steps are quick and saves are frequent, the state would otherwise never be told again.
        if is_back or now - self._last_write >= STATUS_SECONDS:
            self._write_status()
        if now - self._last_log >= LOG_SECONDS or metrics["step"] == self._total:
            self._last_log = now
            self._log_step()

    def add_validation(self, values: dict[str, Any]) -> None:
        """One line of validation.jsonl."""
        if self._folder is None:
            return
        self._folder.write_validation(values)
        if "loss" in values:
            logger.info("held-out loss after step %d: %.4f", values["step"], values["loss"])

    def _log_step(self) -> None:
        status = self._status
        loss = "no finite loss yet" if status["smooth_loss"] is None else f"loss {status['smooth_loss']:.4f}"
        logger.info(
            "step %d of %d, %s, %s, %.2f s/step, %s left", status["step"], self._total, status["stage"], loss,
            status["seconds_per_step"], timedelta(seconds=round(status["eta_seconds"])),
        )  # fmt: skip

    def _smooth_in(self, loss: float) -> None:
        if math.isfinite(loss):
            self._smooth.add(loss)

    def _write_status(self) -> None:
        if self._folder is not None:
            self._folder.write_status(self._status)
        self._last_write = time.monotonic()


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory of this process so far: the GPU's tensors, or on the CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
