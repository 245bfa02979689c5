"""A prepared model and a draw plan enter; optimizer steps follow until the stages are done or somebody asks to stop.

Everything that a step depends on is in the draw plan (a pure function of the step) and in what a snapshot holds, so a
resumed run computes the same bits as an unbroken one.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch, SampleDraw
from ..data.draws import DrawPlan
from ..errors import DatasetError, TrainingError
from ..model.dit import GloriaDiT
from .config import TrainConfig
from .distributed import Workers
from .ema import Ema
from .load_model import DTYPES
from .loss_bins import LossBins
from .lr_schedule import learning_rate
from .objective import batch_loss
from .optimizer import build_optimizer
from .progress import Progress
from .sharding import own_part, split_like
from .trainable import trainable_parameters

# Draws, and whether they have speech -> batches on the CPU; raises DatasetError for a damaged entry.
LoadBatches = Callable[[Sequence[SampleDraw], bool], list[Batch]]


class Trainer:
    """The loop over optimizer steps and its state."""

    def __init__(
        self,
        config: TrainConfig,
        workers: Workers,
        model: GloriaDiT,
        plan: DrawPlan,
        load_batches: LoadBatches,
        progress: Progress,
    ) -> None:
        self.config = config
        self.workers = workers
        self.model = model
        self.progress = progress
        self.step = 0
        self.losses: list[float] = []
        self.bad_steps = 0
        """Skipped steps in a row."""
        self.bad_entries = 0
        self._bad_entry = "in another process."
        self._plan = plan
        self._load_batches = load_batches
        self._dtype = DTYPES[config.precision.compute]
        self.trained: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.optimizer = build_optimizer(self.trained, config.optimizer, config.precision, config.seed)
        self.ema = Ema(self.trained, config.ema_decay) if config.ema_decay else None
        self.bins = LossBins()
        self._stage_idx: int | None = None
        self._forward: nn.Module = model

    @property
    def ends_stage(self) -> bool:
        """Whether the step behind us was the last of its stage."""
        stage_idx, stage_step = self.config.stage_at(self.step - 1)
        return stage_step + 1 == self.config.stages[stage_idx].steps

    def train_step(self) -> None:
        """One optimizer step over the global batch.

        Raises:
            TrainingError: Too many steps in a row without a finite loss, or too many damaged entries.
        """
        started = time.perf_counter()
        stage_idx, stage_step = self.config.stage_at(self.step)
        self._enter_stage(stage_idx)
        stage = self.config.stages[stage_idx]
        # Dropout is the only use of the global generator; seeded by step it needs no place in a snapshot.
        torch.manual_seed(_step_seed(self.config.seed, self.step, self.workers.rank))
        draw = self._plan.step(self.step)
        batches = self._load(draw.samples, stage.audio)
        lr = learning_rate(self.config.optimizer, stage.lr or self.config.optimizer.lr, stage_step, stage.steps)
        losses_B, loss = self._backward(batches)
        norm = self.optimizer.clip_gradients(self.config.optimizer.clip_norm)
        is_finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if is_finite:
            self.optimizer.step(lr, self.step)
            self.bad_steps = 0
            if self.ema is not None:
                self.ema.update(self.step)
        self.optimizer.zero_grad()
        self.step += 1
        self._record(stage.name, draw.batch_type, draw.samples, losses_B, loss, norm, lr, time.perf_counter() - started)
        if not is_finite:
            self._count_bad_step()

    def state_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of tensors that a snapshot holds."""
        groups: dict[str, dict[str, Tensor]] = {
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_tensors(),
        }
        if self.ema is not None:
            groups["ema"] = self.ema.tensors()
        # Every process saves its own part of what is split, and process 0 everything otherwise.
        suffix = f"_{self.workers.rank}" if self.workers.is_sharded else ""
        return {
            group + suffix: {name: own_part(tensor) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }

    def state(self) -> dict[str, Any]:
        """The rest of a snapshot, as plain values."""
        return {
            "step": self.step,
            "losses": self.losses,
            "bad_steps": self.bad_steps,
            "bad_entries": self.bad_entries,
            "bins": self.bins.state(),
            "elapsed_seconds": self.progress.elapsed_seconds,
        }

    def restore(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Continue from what `state_tensors` and `state` gave."""
        weights, optimizer, *averages = groups.values()
        if set(weights) != set(self.trained):
            raise TrainingError(
                f"The checkpoint holds {len(weights)} trained tensors, this run trains {len(self.trained)}: it belongs "
                "to another configuration."
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(split_like(weights[name], parameter))
        self.optimizer.load_state_tensors(self._split_like_weights(optimizer))
        if self.ema is not None:
            self.ema.load_tensors({name: split_like(x, self.trained[name]) for name, x in averages[0].items()})
        self.step = state["step"]
        self.losses = list(state["losses"])
        self.bad_steps, self.bad_entries = state["bad_steps"], state["bad_entries"]
        self.bins.load_state(state["bins"])
        self.progress.restore(state["elapsed_seconds"], self.losses)

    def _split_like_weights(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Optimizer state, named `<part>.<weight>`; step counters are plain numbers."""
        weights = {key: self.trained.get(key.partition(".")[2]) for key in tensors}
        return {
            key: x if x.ndim == 0 or weights[key] is None else split_like(x, weights[key])
            for key, x in tensors.items()
        }

    def loss_of(self, batch: Batch) -> Tensor:
        """Loss [B] of a batch with the current weights; for validation."""
        return batch_loss(self.model, self.model.config, batch.to(self.workers.device), self._dtype)

    def _enter_stage(self, stage_idx: int) -> None:
        if stage_idx == self._stage_idx:
            return
        self._stage_idx = stage_idx
        trainable_parameters(self.model, self.config, self.config.stages[stage_idx])
        self._forward = self.workers.wrap(self.model)

    def _load(self, samples: Sequence[SampleDraw], audio: bool) -> list[Batch]:
        """Batches of this process's share; a sample with a damaged entry is left out and named."""
        share = self.workers.share(samples)
        size = self.config.micro_batch_size
        batches: list[Batch] = []
        for start in range(0, len(share), size):
            micro = share[start : start + size]
            try:
                batches += self._load_batches(micro, audio)
            except DatasetError:
                batches += [batch for draw in micro for batch in self._load_one(draw, audio)]
        if self.workers.max(self.bad_entries) > self.config.data.max_bad_entries:
            raise TrainingError(
                f"{self.bad_entries} samples could not be read (data.max_bad_entries allows "
                f"{self.config.data.max_bad_entries}); the log names them all. The last: {self._bad_entry}"
            )
        return batches

    def _load_one(self, draw: SampleDraw, audio: bool) -> list[Batch]:
        try:
            return self._load_batches([draw], audio)
        except DatasetError as error:
            self.bad_entries += 1
            self._bad_entry = str(error)
            self.progress.warn(f"step {self.step + 1} leaves out a sample ({self.bad_entries} so far): {error}")
            return []

    def _backward(self, batches: list[Batch]) -> tuple[list[tuple[SampleDraw, float]], Tensor]:
        """Gradients of the mean loss over the global batch; the loss of each sample here, and that mean."""
        weight = self.workers.count / self.config.batch_size
        total = torch.zeros((), device=self.workers.device)
        losses: list[tuple[SampleDraw, Tensor]] = []
        # Sharded weights are gathered in every forward pass, so all processes need the same number of them.
        num_passes = int(self.workers.max(len(batches))) if self.workers.count > 1 else len(batches)
        if self.workers.max(float(not batches)):
            return [], torch.full((), torch.nan, device=self.workers.device)
        for idx in range(num_passes):
            batch = batches[min(idx, len(batches) - 1)].to(self.workers.device)
            with self.workers.backward_pass(self._forward, is_last=idx == num_passes - 1):
                loss_B = self._loss(batch)
                share = loss_B.sum() * (weight if idx < len(batches) else 0.0)
                share.backward()
            if idx < len(batches):
                total += share.detach()
                losses += list(zip(batch.draws, loss_B.detach(), strict=True))
        return [(draw, float(loss)) for draw, loss in losses], self.workers.mean(total)

    def _loss(self, batch: Batch) -> Tensor:
        try:
            return batch_loss(self._forward, self.model.config, batch, self._dtype)
        except torch.OutOfMemoryError as error:
            frames, height, width = batch.latents_BCTHW.shape[2:]
            raise TrainingError(
                f"The GPU ran out of memory in step {self.step + 1} on {len(batch.draws)} sample(s) of {frames} latent "
                f"frames of {width}x{height} with {len(batch.anchors)} anchors. Nothing before this step is lost. "
                "Lower micro_batch_size or data.frames, raise memory.streamed_blocks, or turn memory.checkpointing on."
            ) from error

    def _record(
        self,
        stage: str,
        batch_type: str,
        samples: Sequence[SampleDraw],
        losses: list[tuple[SampleDraw, float]],
        loss: Tensor,
        norm: Tensor,
        lr: float,
        seconds: float,
    ) -> None:
        for draw, value in losses:
            self.bins.add(draw.sigma, value)
        self.losses.append(float(loss))
        self.progress.after_step(
            {
                "step": self.step,
                "stage": stage,
                "type": batch_type,
                "loss": float(loss),
                "grad_norm": float(norm),
                "lr": lr,
                "seconds": round(seconds, 4),
                "samples": len(samples),
                "anchors": sum(len(draw.anchors) for draw in samples),
            },
            self.bins,
        )

    def _count_bad_step(self) -> None:
        self.bad_steps += 1
        self.progress.warn(f"step {self.step} is skipped: its loss or gradient is not finite")
        if self.bad_steps >= self.config.max_bad_steps:
            raise TrainingError(
                f"{self.bad_steps} steps in a row had a loss or gradient that is NaN or infinite, the last is step "
                f"{self.step}. Lower the learning rate, or set precision.compute to float32. The last checkpoint is "
                "good."
            )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7], "big")
