"""A model, a method and a stage enter; what is trained leaves, everything else is frozen."""

from torch import nn

from ..errors import TrainingError
from ..model.checkpoint import is_addition
from ..model.dit import GloriaDiT
from .config import StageConfig, TrainConfig
from .lora import add_lora


def prepare_trainable(model: GloriaDiT, config: TrainConfig) -> None:
    """Everything that any stage trains requires a gradient afterwards, and nothing else."""
    model.requires_grad_(config.method == "full")
    if config.method == "lora":
        if any(stage.train != "audio" for stage in config.stages):
            add_lora(model, config.lora, config.seed)
        for name, parameter in model.named_parameters():
            if is_addition(name):
                parameter.requires_grad_(config.trains_audio)
    model.train()


def trainable_parameters(model: GloriaDiT, config: TrainConfig, stage: StageConfig) -> dict[str, nn.Parameter]:
    """The parameters of one stage by name; only they require a gradient afterwards.

    Raises:
        TrainingError: The stage would train nothing.
    """
    chosen = {}
    for name, parameter in model.named_parameters():
        is_audio = is_addition(name)
        if config.method == "full":
            is_trained = stage.train == "all" or is_audio
        else:
            is_trained = stage.train != "lora" if is_audio else stage.train != "audio" and ".lora_" in name
        parameter.requires_grad_(is_trained)
        if is_trained:
            chosen[name] = parameter
    if not chosen:
        raise TrainingError(f"Stage '{stage.name}' trains nothing: the model has no audio branch. Set train to all.")
    return chosen
