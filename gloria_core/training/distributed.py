"""One or many processes, one trainer: what the processes must agree on goes through here (accelerate underneath)."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .config import TrainConfig

T = TypeVar("T")
# What accelerate's launcher sets for schemes of its own.
_FOREIGN_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}  # fmt: skip


class Workers:
    """The processes of one run; a single process when it was started without a launcher."""

    def __init__(self, config: TrainConfig) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        for variable, name in _FOREIGN_SHARDING.items():
            if os.environ.get(variable, "false").lower() == "true":
                raise ConfigError(
                    f"The launcher was asked for {name}, but Gloria splits a full fine-tuning by itself. "
                    "Launch with --multi_gpu and without it (in 'accelerate config' too)."
                )
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but PyTorch sees no CUDA GPU. Use device auto or cpu.")
        # A branch without speech or without LoRA in a batch leaves its parameters without gradient.
        handler = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
        use_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
        self._accelerator = Accelerator(cpu=use_cpu, mixed_precision="no", kwargs_handlers=[handler])
        self._shard = config.method == "full" and self.count > 1
        if config.batch_size % self.count:
            raise ConfigError(
                f"batch_size is {config.batch_size}, which {self.count} processes cannot share evenly. Use a multiple."
            )

    @property
    def count(self) -> int:
        """Number of processes."""
        return self._accelerator.num_processes

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    @property
    def is_sharded(self) -> bool:
        """Whether weights are split over the processes (FSDP2) instead of repeated (DDP)."""
        return self._shard

    def share(self, samples: Sequence[T]) -> Sequence[T]:
        """This process's part of a global batch."""
        size = len(samples) // self.count
        return samples[self.rank * size : (self.rank + 1) * size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training: gradients of its trainable parameters are averaged over the processes."""
        if self.count == 1 or self.is_sharded or not any(p.requires_grad for p in model.parameters()):
            return model
        return self._accelerator.prepare_model(model)

    @contextlib.contextmanager
    def backward_pass(self, wrapped: nn.Module, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the last backward pass of a step only."""
        if self.is_sharded:
            wrapped.set_requires_gradient_sync(is_last)
            yield
        elif is_last or self.count == 1:
            yield
        else:
            with self._accelerator.no_sync(wrapped):
                yield

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a small tensor over the processes."""
        return self._accelerator.reduce(values, "mean") if self.count > 1 else values

    def gather(self, values: Tensor) -> Tensor:
        """A tensor of every process, concatenated in rank order."""
        return self._accelerator.gather(values) if self.count > 1 else values

    def max(self, value: float) -> float:
        """Largest value over the processes; with it they agree on flags and counts."""
        if self.count == 1:
            return value
        return float(self.gather(torch.tensor([value], device=self.device)).max())

    def barrier(self) -> None:
        """Wait for every process."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the group, so that the process can end."""
        self._accelerator.end_training()
