"""Low-rank adapters on the blocks (peft), and the file that stock ComfyUI loads them from."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, TrainingError
from ..model.dit import GloriaDiT
from .config import LoraConfig

# ComfyUI knows Wan's layers under this name and no other.
COMFY_PREFIX = "diffusion_model."
_ADAPTER = "default"
_LAYERS = {
    "self_attn": ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"),
    "cross_attn": (
        "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "cross_attn.k_img", "cross_attn.v_img",
    ),
    "ffn": ("ffn.0", "ffn.2"),
}  # fmt: skip


def lora_modules(model: GloriaDiT, config: LoraConfig) -> tuple[str, ...]:
    """Names of the linear layers that get an adapter."""
    wanted = {layer for target in config.targets for layer in _LAYERS[target]}
    return tuple(
        name
        for name, module in model.named_modules()
        if name.startswith("blocks.") and name.split(".", 2)[-1] in wanted and hasattr(module, "in_features")
    )


def add_lora(model: GloriaDiT, config: LoraConfig, seed: int = 0) -> tuple[str, ...]:
    """Adapters in place, an exact no-op until they are trained: A random, B zero. Everything else is left as it is.

    Returns:
        Names of the adapted layers.

    Raises:
        TrainingError: A target that this model does not have.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    names = lora_modules(model, config)
    for target in config.targets:
        if not any(name.split(".", 2)[-1] in _LAYERS[target] for name in names):
            raise TrainingError(f"The LoRA target '{target}' matches no layer of this model.")
    requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    settings = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(names), bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)
    for name in names:
        layer = model.get_submodule(name)
        layer.forward = functools.partial(_adapted, layer)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(model.head.head.weight.dtype)
        else:
            parameter.requires_grad_(requires_grad[name.replace(".base_layer", "")])
    return names


def _adapted(layer: nn.Module, x: Tensor) -> Tensor:
    """`base(x) + alpha / rank * B A x` with fewer passes over wide tensors than peft's own.

    The base comes last: where nothing reads this output in the backward pass, a recomputed block stops before it.
    """
    low = layer.lora_A[_ADAPTER](layer.lora_dropout[_ADAPTER](x)) * layer.scaling[_ADAPTER]
    update = layer.lora_B[_ADAPTER](low)
    return layer.base_layer(x) + update


def lora_tensors(model: GloriaDiT, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapters under ComfyUI's keys, `diffusion_model.<layer>.lora_{A,B}.weight` and `.alpha`, on the CPU.

    Args:
        weights: values by parameter name to take instead of the model's, for example an average.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or _ADAPTER not in module.lora_A:
            continue
        key = COMFY_PREFIX + name
        for part in ("lora_A", "lora_B"):
            parameter = f"{name}.{part}.{_ADAPTER}.weight"
            value = getattr(module, part)[_ADAPTER].weight if weights is None else weights[parameter]
            tensors[f"{key}.{part}.weight"] = value.detach().cpu().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(module.lora_alpha[_ADAPTER]))
    return tensors


def load_lora_tensors(model: GloriaDiT, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of a LoRA file into the adapters that `add_lora` made.

    Raises:
        CheckpointError: A file for another base, rank or choice of layers, with the numbers of keys that differ.
    """
    own = lora_tensors(model)
    missing, extra = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    wrong = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if missing or extra or wrong:
        example = sorted(missing | extra | set(wrong))[0]
        raise CheckpointError(
            f"This LoRA does not fit the model and its settings: {len(missing)} tensors are missing, {len(extra)} are "
            f"not known, {len(wrong)} have another shape (for example '{example}'). Use the base, rank and targets "
            "that it was trained with."
        )
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "lora_A") and _ADAPTER in module.lora_A:
                for part in ("lora_A", "lora_B"):
                    getattr(module, part)[_ADAPTER].weight.copy_(tensors[f"{COMFY_PREFIX}{name}.{part}.weight"])
