"""What one chunk of a long video gives to ComfyUI's sampler: its conditioning and its starting latent."""

from typing import Any, Literal

import torch

from ...gloria_core.errors import PlanError
from ...gloria_core.sampling.plan import Chunk

Conditioning = list[list[Any]]
PrefixMode = Literal["concat", "in_place"]


def set_values(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    """A copy of a conditioning with values set on every entry."""
    return [[embedding, {**options, **values}] for embedding, options in conditioning]


def input_channels(model: Any) -> tuple[int, int]:
    """Input and latent channels of a MODEL.

    Raises:
        PlanError: Not a Wan-like video model.
    """
    patch_embedding = getattr(model.model.diffusion_model, "patch_embedding", None)
    if patch_embedding is None or model.model.latent_format.latent_dimensions != 3:
        raise PlanError(
            f"The connected model ({type(model.model).__name__}) is not a Wan video model. Use Load Gloria Model."
        )
    return patch_embedding.weight.shape[1], model.model.latent_format.latent_channels


def model_prefix_mode(model: Any) -> PrefixMode:
    """How the base was trained to take known frames: through image channels, or as clean latents in place."""
    in_channels, latent_channels = input_channels(model)
    return "concat" if in_channels > latent_channels else "in_place"


def check_model_reads(model: Any, conditioning: Conditioning) -> None:
    """Refuse anchors or speech on a model that would ignore them without a word.

    Raises:
        PlanError: A plain Wan model with Gloria's conditions.
    """
    names = ("gloria_anchors", "gloria_audio")
    given = [name for name in names if any(options.get(name) is not None for _, options in conditioning)]
    if given and not hasattr(model.model, "gloria_config"):
        raise PlanError(
            f"The conditioning carries {' and '.join(name.removeprefix('gloria_') for name in given)}, but this model "
            f"({type(model.model).__name__}) was loaded as a plain Wan model and would ignore them. "
            "Load the same file with Load Gloria Model."
        )


def chunk_inputs(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    chunk: Chunk,
    prefix_BCTHW: torch.Tensor | None,
) -> tuple[Conditioning, Conditioning, dict[str, Any]]:
    """Conditioning and LATENT of one chunk, such that a stock sampler on them makes that chunk.

    Args:
        latent: The whole film's LATENT from Gloria Conditioning.
        prefix_BCTHW: Clean raw latents of the previous chunk's end; None for the first chunk.
    """
    values: dict[str, Any] = {"gloria_first_latent": chunk.start}
    if model_prefix_mode(model) == "concat":
        start = _concat_chunk(positive, latent, chunk, prefix_BCTHW, values)
    else:
        start = _in_place_chunk(latent, chunk, prefix_BCTHW)
    return set_values(positive, values), set_values(negative, values), start


def _span(x_BCTHW: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    return x_BCTHW[:, :, chunk.start : chunk.start + chunk.length]


def _in_place_chunk(latent: dict[str, Any], chunk: Chunk, prefix: torch.Tensor | None) -> dict[str, Any]:
    """Known frames are clean latents with mask 0; the model gives them timestep 0."""
    samples = _span(latent["samples"], chunk).clone()
    mask = latent.get("noise_mask")
    if mask is not None:
        mask = _span(mask, chunk).clone() if mask.ndim == 5 else mask
    if prefix is not None:
        samples[:, :, : chunk.prefix] = prefix
        mask = samples.new_ones(1, 1, chunk.length, 1, 1)
        mask[:, :, : chunk.prefix] = 0.0
    return {"samples": samples} if mask is None else {"samples": samples, "noise_mask": mask}


def _concat_chunk(
    positive: Conditioning, latent: dict[str, Any], chunk: Chunk, prefix: torch.Tensor | None, values: dict[str, Any]
) -> dict[str, Any]:
    """Known frames enter through mask and image channels and are denoised again."""
    samples = _span(latent["samples"], chunk)
    if prefix is None:
        mask = latent.get("noise_mask")
        return {"samples": samples} if mask is None else {"samples": samples, "noise_mask": _span(mask, chunk)}
    image = next((options["concat_latent_image"] for _, options in positive if "concat_latent_image" in options), None)
    if image is None:
        raise PlanError(
            "This base model makes video from an image, but the conditioning has no start image. "
            "Connect a global anchor or a start image to Gloria Conditioning."
        )
    # Behind the prefix the image channels say "nothing known", as they do behind the start image of chunk 0.
    unknown = fit_length(image, chunk.length).clone()
    unknown[:, :, : chunk.prefix] = prefix.to(unknown)
    mask = torch.ones_like(unknown[:, :1])
    mask[:, :, : chunk.prefix] = 0.0
    values |= {"concat_latent_image": unknown, "concat_mask": mask}
    return {"samples": samples}


def fit_length(x_BCTHW: torch.Tensor, length: int) -> torch.Tensor:
    """The first `length` frames; past the end the last one is repeated."""
    missing = length - x_BCTHW.shape[2]
    if missing <= 0:
        return x_BCTHW[:, :, :length]
    return torch.cat([x_BCTHW, x_BCTHW[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
