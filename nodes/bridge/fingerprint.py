"""Whatever decides a film's content enters (models, conditioning, latents), digests that survive a restart leave.

Only content counts: no ids, addresses, uuids, devices or file paths. Large weights are sampled, not read in full,
so a 14B model costs a fraction of a second; conditioning and latents are read in full.
"""

import enum
import functools
import hashlib
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

from .timeline import ACTIVE_ANCHORS, TIMELINE

FULL_WEIGHT_BYTES = 4 << 20
_NUM_SAMPLES = 1 << 12
_BLOCK_BYTES = 16 << 20
_MAX_DEPTH = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
# What an object is for, or where it lives, rather than what it holds.
_SKIPPED_ATTRIBUTES = {"uuid", "hook_ref", "device", "load_device", "offload_device", "parent"}
_SHARED_GROUPS = {
    "gloria_anchors": "anchors",
    "gloria_anchor_slots": "anchors",
    "gloria_audio": "audio",
    "concat_latent_image": "start_image",
    "concat_mask": "start_image",
    "clip_vision_output": "clip_vision",
}
# They change along the film: `film_inputs.py` counts them chunk by chunk.
_PER_CHUNK = {TIMELINE, ACTIVE_ANCHORS}


def fingerprint(value: Any) -> str:
    """Digest of a model, a conditioning, a latent or any nest of plain values, tensors and objects."""
    return _Walker().digest(value)


def conditioning_fingerprints(positive: list[Any], negative: list[Any]) -> dict[str, dict[str, str]]:
    """Journal inputs of a pair of conditionings, split so that a change can be named: prompt, anchors, audio, ..."""
    groups: dict[str, list[Any]] = {}
    prompts = {"positive_prompt": positive, "negative_prompt": negative}
    for name, conditioning in (("positive", positive), ("negative", negative)):
        for _, options in conditioning:
            for key, value in options.items():
                if key in _SHARED_GROUPS:
                    groups.setdefault(_SHARED_GROUPS[key], []).append((name, key, value))
    digests = {name: prompt_fingerprint(conditioning) for name, conditioning in prompts.items()}
    digests |= {group: fingerprint(content) for group, content in groups.items()}
    return {name: {"digest": digest} for name, digest in digests.items()}


def prompt_fingerprint(conditioning: list[Any]) -> str:
    """Digest of the texts of a conditioning and of what belongs to them alone."""
    elsewhere = _SHARED_GROUPS.keys() | _PER_CHUNK
    return fingerprint(
        [
            (embedding, {key: value for key, value in options.items() if key not in elsewhere})
            for embedding, options in conditioning
        ]
    )


def tensor_fingerprint(tensor: torch.Tensor, full_bytes: float = math.inf) -> str:
    """Digest of dtype, shape and content; tensors above `full_bytes` are sampled at evenly spread places."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    with torch.no_grad():
        if tensor.numel() * tensor.element_size() > full_bytes:
            digest.update(_bytes(_samples(tensor)))
        else:
            for block in _blocks(_countable(tensor)):
                # Films start as gigabytes of zeros; a marker for an empty block saves hashing them.
                digest.update(_bytes(block) if torch.count_nonzero(block) else f"zeros {block.numel()}".encode())
    return digest.hexdigest()


def model_fingerprint(model: ModelPatcher) -> str:
    """Digest of a MODEL: unpatched weights, patches with their strengths, replaced parts and options."""
    walker = _Walker(FULL_WEIGHT_BYTES)
    config = getattr(model.model, "model_config", None)
    parts = {
        "class": type(model.model).__name__,
        "config": getattr(config, "unet_config", None),
        "weights": _weights(model),
        "patches": model.patches,
        "object_patches": {**model.object_patches, "model_sampling": model.get_model_object("model_sampling")},
        "model_options": model.model_options,
        "wrappers": getattr(model, "wrappers", {}),
        "hook_patches": list(getattr(model, "hook_patches", {}).values()),
        "additional_models": getattr(model, "additional_models", {}),
    }
    return walker.digest(parts)


def _weights(model: ModelPatcher) -> dict[str, torch.Tensor]:
    """The weights as they came from the file: where a LoRA is baked in just now, the backup is the original."""
    network = model.model.diffusion_model
    named = {f"diffusion_model.{name}": tensor for name, tensor in network.named_parameters()}
    return {name: model.backup[name].weight if name in model.backup else tensor for name, tensor in named.items()}


class _Walker:
    """Digests nested values; `full_bytes` is the size above which tensors are sampled."""

    def __init__(self, full_bytes: float = math.inf) -> None:
        self._full_bytes = full_bytes
        self._open: set[int] = set()

    def digest(self, value: Any) -> str:
        """Digest of one value, from the digests of what it holds."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, repr(value))
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (torch.dtype, torch.Size, np.generic, enum.Enum)):
            return _hash(str(value))
        if isinstance(value, np.ndarray):
            return _hash("array", str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes().hex())
        if isinstance(value, type):
            return _hash("class", value.__qualname__)
        if id(value) in self._open or len(self._open) >= _MAX_DEPTH:
            return _hash("seen", type(value).__qualname__)
        self._open.add(id(value))
        try:
            return self._nested(value)
        finally:
            self._open.discard(id(value))

    def _nested(self, value: Any) -> str:
        if isinstance(value, ModelPatcher):
            return model_fingerprint(value)
        if isinstance(value, Mapping):
            return _hash("mapping", *sorted(self.digest(key) + self.digest(item) for key, item in value.items()))
        if isinstance(value, (set, frozenset)):
            return _hash("set", *sorted(self.digest(item) for item in value))
        if isinstance(value, (list, tuple)):
            return _hash("sequence", *(self.digest(item) for item in value))
        if isinstance(value, functools.partial):
            return _hash("partial", self.digest(value.func), self.digest(value.args), self.digest(value.keywords))
        if isinstance(value, types.MethodType):
            return _hash("method", value.__func__.__qualname__, self.digest(value.__self__))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        return _hash("object", type(value).__qualname__, self._attributes(vars(value) if _has_dict(value) else {}))

    def _tensor(self, tensor: torch.Tensor) -> str:
        packed = getattr(tensor, "_qdata", None)  # ComfyUI's quantised tensors: data and scales
        if packed is None:
            return tensor_fingerprint(tensor, self._full_bytes)
        return _hash("quantised", self.digest(packed), self.digest(getattr(tensor, "_params", None)))

    def _function(self, function: Callable[..., Any]) -> str:
        """Settings of model patches live in defaults and closures."""
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        return _hash("function", function.__qualname__, self.digest(function.__defaults__), self.digest(cells))

    def _module(self, module: torch.nn.Module) -> str:
        if type(module).__name__ == "OptimizedModule":  # torch.compile's wrapper: what it computes is the model's
            return _hash("compiled")
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        plain = {name: item for name, item in vars(module).items() if not name.startswith("_")}
        return _hash("module", type(module).__qualname__, self.digest(tensors), self._attributes(plain))

    def _attributes(self, attributes: Mapping[str, Any]) -> str:
        return self.digest({name: item for name, item in attributes.items() if name not in _SKIPPED_ATTRIBUTES})


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensor in row-major order, a bounded piece at a time, whatever its strides."""
    if tensor.ndim == 0 or tensor.numel() * tensor.element_size() <= _BLOCK_BYTES:
        yield tensor
    elif tensor.is_contiguous():
        yield from tensor.view(-1).split(_BLOCK_BYTES // tensor.element_size())
    else:
        for part in tensor.unbind(0):
            yield from _blocks(part)


def _samples(tensor: torch.Tensor) -> torch.Tensor:
    """Values at evenly spread places, gathered on the tensor's own device."""
    places = torch.linspace(0, tensor.numel() - 1, _NUM_SAMPLES, dtype=torch.float64).long()
    index = [axis.to(tensor.device) for axis in torch.unravel_index(places, tensor.shape)]
    return _countable(tensor.detach())[tuple(index)]


def _countable(tensor: torch.Tensor) -> torch.Tensor:
    """8-bit floats as bytes: torch can neither gather nor count them."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def _has_dict(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, types.ModuleType)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading an empty cell raises
    except ValueError:
        return False
    return True
