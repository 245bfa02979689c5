"""A model, settings and the largest sample enter; what the run will take of GPU, host memory and disk leaves.

Weights, gradients, optimizer and averages are exact. Activations are an estimate: per token a block keeps about
`_KEPT_WIDTHS` model widths and `_KEPT_FFN_WIDTHS` widths of its feed-forward layer for its backward pass.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from ..errors import TrainingError
from ..model.dit import GloriaDiT
from .config import TrainConfig

_BYTES = {"float32": 4, "bfloat16": 2}
_KEPT_WIDTHS, _KEPT_FFN_WIDTHS = 22, 2
# Two moments per weight; Muon keeps one of most, counted as two.
_ADAM_BYTES = {"adamw": 8, "adam": 8, "adamw8bit": 2, "muon": 8}
_CONTEXT_BYTES = 1 << 30  # CUDA itself, kernels' workspaces
_GIB = 2**30


class Free(NamedTuple):
    """Bytes that are free."""

    device: int
    host: int
    disk: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes per process."""

    weights: int
    """Frozen and trained weights on the device."""
    gradients: int
    optimizer: int
    averages: int
    activations: int
    host: int
    """Weights and activations kept in host memory."""
    disk: int
    """All checkpoints and results that are there at once."""

    @property
    def device(self) -> int:
        """Everything on the device."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations + _CONTEXT_BYTES

    def lines(self) -> list[str]:
        """A report in GiB."""
        parts = ("weights", "gradients", "optimizer", "averages", "activations")
        details = ", ".join(f"{part} {getattr(self, part) / _GIB:.1f}" for part in parts)
        return [
            f"device {self.device / _GIB:.1f} GiB ({details})",
            f"host {self.host / _GIB:.1f} GiB, disk {self.disk / _GIB:.1f} GiB",
        ]


def plan_memory(model: GloriaDiT, config: TrainConfig, tokens: int, world_size: int = 1) -> MemoryPlan:
    """The plan for a model whose trained parameters require a gradient; it may be on the meta device.

    Args:
        tokens: of the largest sample, video and anchors.
        world_size: processes; full fine-tuning splits weights, gradients and optimizer over them.
    """
    width = _BYTES[config.precision.compute]
    shards = world_size if config.method == "full" else 1
    streamed = set(_streamed_names(model, config.memory.streamed_blocks))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen_bytes = {name: _frozen_bytes(name, p, config) for name, p in model.named_parameters() if not p.requires_grad}
    streamed_bytes = sum(size for name, size in frozen_bytes.items() if name in streamed)
    # Two slots of the ring stay on the device.
    ring = 2 * streamed_bytes // max(1, min(config.memory.streamed_blocks, len(model.blocks)))
    resident = sum(frozen_bytes.values()) - streamed_bytes + ring
    per_weight = _ADAM_BYTES[config.optimizer.name]
    if width == 2:
        per_weight += {"fp32_master": 4, "kahan": 2, "stochastic": 0}[config.precision.update]
    kept, passing = _activation_bytes(model, config, tokens * config.micro_batch_size, width)
    keep_every = config.checkpoints.keep_every
    num_kept = config.total_steps // keep_every if keep_every else 0
    snapshot = trained * (width + per_weight + (4 if config.ema_decay else 0))
    return MemoryPlan(
        weights=(resident + trained * width) // shards,
        gradients=trained * width // shards,
        optimizer=trained * per_weight // shards,
        averages=(trained * 4 if config.ema_decay else 0) // shards,
        activations=passing + (0 if config.memory.offload_activations else kept),
        host=streamed_bytes + (kept if config.memory.offload_activations else 0),
        # One more is on the disk while the oldest is not yet deleted.
        disk=snapshot * (config.checkpoints.keep_last + 1 + num_kept) + trained * width * (1 + num_kept),
    )


def require_memory(
    model: GloriaDiT, config: TrainConfig, tokens: int, world_size: int, free: Free, has_gpu: bool
) -> MemoryPlan:
    """The plan, if it fits.

    Raises:
        TrainingError: It does not; with the figures and the setting that helps.
    """
    plan = plan_memory(model, config, tokens, world_size)
    needs = {"disk": (plan.disk, free.disk), "host memory": (plan.host, free.host)}
    if has_gpu:
        needs["GPU memory"] = (plan.device, free.device)
    for name, (needed, available) in needs.items():
        if needed > available:
            raise TrainingError(
                f"This run needs {needed / _GIB:.1f} GiB of {name}, {available / _GIB:.1f} GiB are free. "
                f"Plan: {'; '.join(plan.lines())}. {_remedy(name, model, config, tokens, world_size, free)}"
            )
    return plan


def _remedy(name: str, model: GloriaDiT, config: TrainConfig, tokens: int, world_size: int, free: Free) -> str:
    if name == "disk":
        return "Free space, lower checkpoints.keep_last, or raise checkpoints.keep_every."
    if name == "host memory":
        return "Lower memory.streamed_blocks or turn memory.offload_activations off, or close other programs."

    def fits(changed: TrainConfig, processes: int = world_size) -> bool:
        plan = plan_memory(model, changed, tokens, processes)
        return plan.device <= free.device and plan.host <= free.host

    slim = replace(config, memory=replace(config.memory, checkpointing=True, keep_attention=False))
    if slim != config and fits(slim):
        return f"Set {_changes(config, slim)}."
    if config.method == "full":
        enough = next((n for n in (2, 4, 8, 16, 32, 64) if n > world_size and fits(slim, n)), None)
        return "Use method lora." if enough is None else f"Use method lora, or {enough} GPUs of this size."
    for base in dict.fromkeys((config.precision.base, "fp8")):
        for offload in dict.fromkeys((config.memory.offload_activations, True)):
            for count in range(config.memory.streamed_blocks, len(model.blocks) + 1):
                changed = replace(
                    slim,
                    precision=replace(config.precision, base=base),
                    memory=replace(slim.memory, streamed_blocks=count, offload_activations=offload),
                )
                if fits(changed):
                    return f"Set {_changes(config, changed)}."
    return (
        "Lower data.frames, the size of the dataset's clips or micro_batch_size, or train the adapters alone (the "
        "stages' train: lora)."
    )


def _changes(old: TrainConfig, new: TrainConfig) -> str:
    """The settings that differ, as YAML says them."""
    changes = []
    if new.precision.base != old.precision.base:
        changes.append(f"precision.base: {new.precision.base}")
    if new.memory.checkpointing != old.memory.checkpointing:
        changes.append("memory.checkpointing: true")
    if new.memory.keep_attention != old.memory.keep_attention:
        changes.append("memory.keep_attention: false")
    if new.memory.offload_activations != old.memory.offload_activations:
        changes.append("memory.offload_activations: true")
    if new.memory.streamed_blocks != old.memory.streamed_blocks:
        changes.append(f"memory.streamed_blocks: {new.memory.streamed_blocks}")
    return " and ".join(changes)


def _activation_bytes(model: GloriaDiT, config: TrainConfig, tokens: int, width: int) -> tuple[int, int]:
    """Bytes kept from forward to backward that may move to the host, and bytes that are on the device in any case."""
    dit = model.config
    block = tokens * width * (_KEPT_WIDTHS * dit.dim + _KEPT_FFN_WIDTHS * dit.ffn_dim)
    if not config.memory.checkpointing:
        return block * dit.num_layers, 0
    inputs = tokens * width * dit.dim * dit.num_layers
    return inputs, block + (inputs if config.memory.keep_attention else 0)


def _frozen_bytes(name: str, parameter: nn.Parameter, config: TrainConfig) -> int:
    is_quantized = config.precision.base == "fp8" and name.startswith("blocks.") and parameter.ndim == 2
    if is_quantized:
        return parameter.numel() + 4 * parameter.shape[0]
    return parameter.numel() * (4 if "patch_embedding" in name else _BYTES[config.precision.compute])


def _streamed_names(model: GloriaDiT, count: int) -> list[str]:
    first = len(model.blocks) - min(count, len(model.blocks))
    return [
        name
        for name, parameter in model.named_parameters()
        if name.startswith("blocks.") and int(name.split(".")[1]) >= first and not parameter.requires_grad
    ]
