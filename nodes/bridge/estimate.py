"""A MODEL, its conditioning and a latent enter; what they cost on this machine leaves."""

import time
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sampler_helpers
import torch

from ...gloria_core.errors import PlanError
from ...gloria_core.sampling.cost import DiTShape
from ...gloria_core.shapes import LatentSize
from .conditioning import Conditioning, input_channels
from .timeline import active_anchors

_WAN_TEXT_TOKENS = 512
_MEASURE_SECONDS = 0.2
_MATMUL_SIDE = {"cpu": 1024}
_MATMUL_SIDE_GPU = 4096


class ModelFacts(NamedTuple):
    """What of a MODEL decides cost."""

    shape: DiTShape
    weight_bytes: int


def film_size(model: Any, latent: dict[str, Any]) -> LatentSize:
    """Size of the film, checked against the model."""
    samples = latent["samples"]
    _, channels = input_channels(model)
    if samples.ndim != 5 or samples.shape[:2] != (1, channels):
        raise PlanError(
            f"The latent has shape {list(samples.shape)}, this model takes [1, {channels}, frames, height, width]. "
            "Use Gloria Conditioning with the VAE that belongs to the model."
        )
    return LatentSize(*samples.shape[1:])


def model_facts(model: Any, positive: Conditioning) -> ModelFacts:
    """Sizes of the transformer and bytes of its weights."""
    network = model.model.diffusion_model
    dim = network.patch_embedding.weight.shape[0]
    ffn_dim = network.blocks[0].ffn[0].out_features
    vision = [options["clip_vision_output"] for _, options in positive if options.get("clip_vision_output") is not None]
    image_tokens = vision[0].penultimate_hidden_states.shape[1] if vision else 0
    text_tokens = max([_WAN_TEXT_TOKENS, *(embedding.shape[1] for embedding, _ in positive)])
    shape = DiTShape(dim, ffn_dim, len(network.blocks), text_tokens + image_tokens)
    return ModelFacts(shape, model.model_size())


def anchor_tokens(positive: Conditioning) -> dict[str, int]:
    """Tokens by anchor slot, for example {"global": 1560, "viewpoint left": 1024}."""
    counts: dict[str, int] = {}
    for _, options in positive[:1]:
        for latent, (kind, label) in zip(*active_anchors(options), strict=True):
            slot = kind if kind == label else f"{kind} {label}"
            counts[slot] = counts.get(slot, 0) + LatentSize(*latent.shape[1:]).grid.count
    return counts


def peak_memory_bytes(model: Any, positive: Conditioning, chunk_size: LatentSize) -> float:
    """ComfyUI's own estimate of a step's working memory, anchors included: what it keeps free before sampling."""
    conds = {"positive": comfy.sampler_helpers.convert_cond(positive)}
    required, _ = comfy.sampler_helpers.estimate_memory(model, [1, *chunk_size], conds)
    return required


def matmul_rate(model: Any) -> tuple[float, str]:
    """Operations per second of a plain matrix product on the model's device and in its type, and their names."""
    device = model.load_device
    dtype = model.model.get_dtype_inference()
    if dtype.itemsize < 2:  # fp8 weights are multiplied in the wider type unless the fast mode is on
        dtype = torch.bfloat16
    side = _MATMUL_SIDE.get(device.type, _MATMUL_SIDE_GPU)
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    torch.matmul(a, b)  # the first product loads libraries
    count, seconds = 0, 0.0
    _synchronize(device)
    start = time.perf_counter()
    while seconds < _MEASURE_SECONDS:
        torch.matmul(a, b)
        _synchronize(device)
        count += 1
        seconds = time.perf_counter() - start
    name = f"{comfy.model_management.get_torch_device_name(device)} in {str(dtype).removeprefix('torch.')}"
    return 2 * side**3 * count / seconds, name


def _synchronize(device: torch.device) -> None:
    backend = getattr(torch, device.type, None)
    if backend is not None and hasattr(backend, "synchronize"):
        backend.synchronize()
