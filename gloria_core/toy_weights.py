"""Random weights of toy size in the file formats of the public models: what runs when no trained model is at hand.

Every file has the real key names, so ComfyUI's stock loaders and ours read it like a downloaded one; equal
seeds give equal files. Run `python -m gloria_core.toy_weights <ComfyUI models folder>` to write the whole set.
"""

import argparse
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .durable_files import write_safetensors
from .model.checkpoint import SETTINGS_KEY, expected_shapes, is_addition, settings_to_tensor
from .model.presets import TOY_I2V, TOY_T2V, TOY_TI2V, DiTConfig

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
KeysAndShapes = Iterator[tuple[str, tuple[int, ...]]]

VAE_CHANNELS = 16
VAE_WIDTH = 4  # 96 in the public file; ComfyUI reads it from decoder.head.0.gamma
VAE_MULTIPLIERS = (1, 2, 4, 4)
VAE_TEMPORAL_DOWNSAMPLE = (False, True, True)
VAE_RESIDUAL_BLOCKS = 2
CLIP_WIDTH, CLIP_LAYERS, CLIP_VOCABULARY, CLIP_POSITIONS = 768, 12, 49408, 77  # CLIP-L; stock loaders know no smaller
METADATA = {"format": "pt", "description": "Random toy weights: untrained, for trying the software only."}


def write_toy_models(models_dir: Path, seed: int = 0) -> dict[str, Path]:
    """Write the whole set into ComfyUI's model folders; returns the paths by role."""
    paths = {
        "dit_t2v": models_dir / "diffusion_models" / "toy_wan_t2v.safetensors",
        "dit_i2v": models_dir / "diffusion_models" / "toy_wan_i2v.safetensors",
        "dit_ti2v": models_dir / "diffusion_models" / "toy_wan_ti2v.safetensors",
        "gloria": models_dir / "gloria" / "toy_gloria.safetensors",
        "vae": models_dir / "vae" / "toy_wan_2.1_vae.safetensors",
        "text_encoder": models_dir / "text_encoders" / "toy_clip_l.safetensors",
        "audio_encoder": models_dir / "audio_encoders" / "toy_wav2vec2_base.safetensors",
    }
    for role, config in (("dit_t2v", TOY_T2V), ("dit_i2v", TOY_I2V), ("dit_ti2v", TOY_TI2V)):
        write_toy_dit(paths[role], config, seed)
    write_toy_gloria(paths["gloria"], TOY_T2V.with_audio(), seed)
    write_toy_vae(paths["vae"], seed=seed)
    write_toy_text_encoder(paths["text_encoder"], seed)
    write_toy_audio_encoder(paths["audio_encoder"], seed)
    return paths


def write_toy_dit(path: Path, config: DiTConfig = TOY_T2V, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """A Wan DiT of `config`'s sizes with Wan's keys only, as the base of a Gloria model."""
    shapes = {name: shape for name, shape in expected_shapes(config).items() if not is_addition(name)}
    _save(path, random_state_dict(shapes, seed, dtype))


def write_toy_gloria(path: Path, config: DiTConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Gloria weights for any base of `config`'s width and depth; its audio branch is audible, not zero."""
    shapes = {name: shape for name, shape in expected_shapes(config).items() if is_addition(name)}
    _save(path, random_state_dict(shapes, seed, dtype) | {SETTINGS_KEY: settings_to_tensor(config.gloria)})


def write_toy_vae(path: Path, width: int = VAE_WIDTH, seed: int = 0) -> None:
    """A Wan 2.1 video VAE whose narrowest layer has `width` channels."""
    _save(path, random_state_dict(dict(vae_shapes(width)), seed, torch.float32))


def write_toy_text_encoder(path: Path, seed: int = 0) -> None:
    """A CLIP-L text encoder, half precision: the smallest one that CLIPLoader reads (any type, e.g. `wan`)."""
    _save(path, random_state_dict(dict(_clip_shapes()), seed, torch.float16))


def write_toy_audio_encoder(path: Path, seed: int = 0) -> None:
    """A wav2vec2-base, half precision: the smallest one that AudioEncoderLoader reads."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = Wav2Vec2Model(Wav2Vec2Config()).state_dict()
    _save(path, {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()})


def random_state_dict(shapes: Shapes, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights that keep activations at unit scale: norms are 1, biases small, matrices 1 / sqrt(fan in)."""
    return {name: _random_tensor(name, shape, seed).to(dtype) for name, shape in shapes.items()}


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    is_norm = name.endswith(".gamma") or (name.endswith(".weight") and len(shape) == 1)
    if is_norm:
        return torch.ones(shape)
    values = torch.randn(shape, generator=generator)
    if name.endswith("embedding.weight") and len(shape) == 2:
        return values * 0.02  # lookup tables: CLIP's own scale
    if name.endswith("modulation"):
        return values / math.sqrt(shape[-1])  # Wan's own start
    if len(shape) == 1:
        return values * 0.02
    return values / math.sqrt(math.prod(shape[1:]))


def vae_shapes(width: int) -> KeysAndShapes:
    """Keys and shapes of Wan 2.1's VAE, in the layout of its public file."""
    widths = [width * multiplier for multiplier in VAE_MULTIPLIERS]
    deepest = widths[-1]
    yield from _conv("encoder.conv1", 3, width, (3, 3, 3))
    yield from _vae_encoder_stages(width, widths)
    yield from _vae_middle("encoder.middle", deepest)
    yield from _vae_head("encoder.head", deepest, 2 * VAE_CHANNELS)
    yield from _conv("conv1", 2 * VAE_CHANNELS, 2 * VAE_CHANNELS, (1, 1, 1))
    yield from _conv("conv2", VAE_CHANNELS, VAE_CHANNELS, (1, 1, 1))
    yield from _conv("decoder.conv1", VAE_CHANNELS, deepest, (3, 3, 3))
    yield from _vae_middle("decoder.middle", deepest)
    yield from _vae_decoder_stages(deepest, widths[::-1])
    yield from _vae_head("decoder.head", width, 3)


def _vae_encoder_stages(num_in: int, widths: list[int]) -> KeysAndShapes:
    idx = 0
    for stage, num_out in enumerate(widths):
        for _ in range(VAE_RESIDUAL_BLOCKS):
            yield from _vae_residual(f"encoder.downsamples.{idx}", num_in, num_out)
            num_in, idx = num_out, idx + 1
        if stage < len(widths) - 1:
            yield from _conv(f"encoder.downsamples.{idx}.resample.1", num_out, num_out, (3, 3))
            if VAE_TEMPORAL_DOWNSAMPLE[stage]:
                yield from _conv(f"encoder.downsamples.{idx}.time_conv", num_out, num_out, (3, 1, 1))
            idx += 1


def _vae_decoder_stages(num_in: int, widths: list[int]) -> KeysAndShapes:
    idx = 0
    for stage, num_out in enumerate(widths):
        for _ in range(VAE_RESIDUAL_BLOCKS + 1):
            yield from _vae_residual(f"decoder.upsamples.{idx}", num_in, num_out)
            num_in, idx = num_out, idx + 1
        if stage < len(widths) - 1:
            yield from _conv(f"decoder.upsamples.{idx}.resample.1", num_out, num_out // 2, (3, 3))
            if VAE_TEMPORAL_DOWNSAMPLE[::-1][stage]:
                yield from _conv(f"decoder.upsamples.{idx}.time_conv", num_out, 2 * num_out, (3, 1, 1))
            num_in, idx = num_out // 2, idx + 1


def _vae_middle(prefix: str, width: int) -> KeysAndShapes:
    yield from _vae_residual(f"{prefix}.0", width, width)
    yield f"{prefix}.1.norm.gamma", (width, 1, 1)
    yield from _conv(f"{prefix}.1.to_qkv", width, 3 * width, (1, 1))
    yield from _conv(f"{prefix}.1.proj", width, width, (1, 1))
    yield from _vae_residual(f"{prefix}.2", width, width)


def _vae_residual(prefix: str, num_in: int, num_out: int) -> KeysAndShapes:
    yield f"{prefix}.residual.0.gamma", (num_in, 1, 1, 1)
    yield from _conv(f"{prefix}.residual.2", num_in, num_out, (3, 3, 3))
    yield f"{prefix}.residual.3.gamma", (num_out, 1, 1, 1)
    yield from _conv(f"{prefix}.residual.6", num_out, num_out, (3, 3, 3))
    if num_in != num_out:
        yield from _conv(f"{prefix}.shortcut", num_in, num_out, (1, 1, 1))


def _vae_head(prefix: str, num_in: int, num_out: int) -> KeysAndShapes:
    yield f"{prefix}.0.gamma", (num_in, 1, 1, 1)
    yield from _conv(f"{prefix}.2", num_in, num_out, (3, 3, 3))


def _clip_shapes() -> KeysAndShapes:
    yield "text_model.embeddings.token_embedding.weight", (CLIP_VOCABULARY, CLIP_WIDTH)
    yield "text_model.embeddings.position_embedding.weight", (CLIP_POSITIONS, CLIP_WIDTH)
    for idx in range(CLIP_LAYERS):
        layer = f"text_model.encoder.layers.{idx}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _conv(f"{layer}.self_attn.{name}", CLIP_WIDTH, CLIP_WIDTH)
        yield from _norm(f"{layer}.layer_norm1", CLIP_WIDTH)
        yield from _conv(f"{layer}.mlp.fc1", CLIP_WIDTH, 4 * CLIP_WIDTH)
        yield from _conv(f"{layer}.mlp.fc2", 4 * CLIP_WIDTH, CLIP_WIDTH)
        yield from _norm(f"{layer}.layer_norm2", CLIP_WIDTH)
    yield from _norm("text_model.final_layer_norm", CLIP_WIDTH)
    yield "text_projection.weight", (CLIP_WIDTH, CLIP_WIDTH)


def _conv(prefix: str, num_in: int, num_out: int, kernel: tuple[int, ...] = ()) -> KeysAndShapes:
    """A convolution, or with an empty kernel a linear layer."""
    yield f"{prefix}.weight", (num_out, num_in, *kernel)
    yield f"{prefix}.bias", (num_out,)


def _norm(prefix: str, width: int) -> KeysAndShapes:
    yield f"{prefix}.weight", (width,)
    yield f"{prefix}.bias", (width,)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_safetensors(path, tensors, METADATA)
    logger.info("wrote %s (%.0f MB)", path, path.stat().st_size / 1e6)


def main() -> None:
    """Command line: write the whole set into a ComfyUI models folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models_dir", type=Path, help="ComfyUI's models folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_toy_models(arguments.models_dir, arguments.seed)


if __name__ == "__main__":
    main()
