"""A step of a stage enters, its learning rate leaves."""

import math

from .config import OptimizerConfig


def learning_rate(config: OptimizerConfig, base_lr: float, stage_step: int, stage_steps: int) -> float:
    """Rate of the 0-based `stage_step`: a linear warm-up, then constant or falling to 0 at the stage's end."""
    if stage_step < config.warmup_steps:
        return base_lr * (stage_step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return base_lr
    done = (stage_step - config.warmup_steps) / max(1, stage_steps - config.warmup_steps)
    if config.schedule == "linear":
        return base_lr * (1 - done)
    return base_lr * 0.5 * (1 + math.cos(math.pi * done))
