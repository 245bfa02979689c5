"""Weights files: a Wan base, Gloria's additions to it, and both merged in one file; safetensors only.

A file of additions and a merged file carry the settings as JSON bytes in the tensor `gloria.config`. A
tensor, unlike metadata, survives every tool that copies tensors, and tells ComfyUI's own loader that the
file is a Gloria model.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..durable_files import write_safetensors
from ..errors import CheckpointError
from .dit import GloriaDiT
from .presets import HEAD_DIM, DiTConfig, GloriaSettings

SETTINGS_KEY = "gloria.config"
_ADDITION = re.compile(r"^(gloria\.config$|audio_proj\.|blocks\.\d+\.audio_attn\.)")
# What fp8-scaled and mixed-precision files of ComfyUI store beside the weights.
_QUANTIZATION_SUFFIXES = (
    "scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_2", ".input_scale", ".comfy_quant",
)
_KNOWN_INPUTS = {(16, 16), (36, 16), (48, 48)}


def is_addition(key: str) -> bool:
    """Whether a state-dict key belongs to Gloria rather than to the Wan base."""
    return _ADDITION.match(key) is not None


def settings_to_tensor(settings: GloriaSettings) -> Tensor:
    """The settings as the uint8 tensor that marks a Gloria file."""
    return torch.frombuffer(bytearray(settings.to_json().encode()), dtype=torch.uint8)


def settings_from_tensor(tensor: Tensor) -> GloriaSettings:
    """Settings of a file, from its `gloria.config` tensor."""
    try:
        text = bytes(tensor.tolist()).decode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The tensor '{SETTINGS_KEY}' does not hold settings (dtype {tensor.dtype}, shape {tuple(tensor.shape)}); "
            "it was probably cast by another tool. Use the original Gloria file."
        ) from error
    return GloriaSettings.from_json(text)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped on the CPU.

    Raises:
        CheckpointError: Not a safetensors file, or a damaged one.
    """
    if path.suffix not in (".safetensors", ".sft"):
        raise CheckpointError(
            f"'{path.name}' is not a safetensors file. Other formats can run code when they are opened: "
            "get the .safetensors version of this model."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"The file '{path}' does not exist.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{path.name}' is damaged or incomplete ({error}). Its size is {path.stat().st_size} bytes: "
            "compare that with the source and download it again."
        ) from error


def holds_gloria_weights(path: Path) -> bool:
    """Whether a weights file carries Gloria's additions; reads its header only.

    Raises:
        CheckpointError: Not a safetensors file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return SETTINGS_KEY in file.keys()  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path.name}' is not a readable safetensors file ({error}).") from error


def detect_config(state_dict: Mapping[str, Tensor]) -> DiTConfig:
    """Sizes of the model that a state dict belongs to, read from its keys and shapes.

    Raises:
        CheckpointError: Not a Wan T2V, I2V or TI2V model.
    """
    for key in ("head.modulation", "patch_embedding.weight", "blocks.0.ffn.0.weight", "head.head.weight"):
        if key not in state_dict:
            raise CheckpointError(
                f"This is not a Wan video model: '{key}' is missing among its {len(state_dict)} tensors. "
                "Choose a Wan 2.1 or Wan 2.2 T2V, I2V or TI2V diffusion model."
            )
    dim = state_dict["head.modulation"].shape[-1]
    out_dim = state_dict["head.head.weight"].shape[0] // 4
    in_dim = state_dict["patch_embedding.weight"].shape[1]
    if (in_dim, out_dim) not in _KNOWN_INPUTS:
        raise CheckpointError(
            f"This Wan variant takes {in_dim} input channels and gives {out_dim}. Gloria works on T2V (16), "
            "I2V (36) and TI2V-5B (48) models."
        )
    text_weight = state_dict.get("text_embedding.0.weight")
    # A 4-bit weight is packed, so its shape says nothing; every public model has Wan's default width.
    text_dim = DiTConfig.text_dim if text_weight is None or text_weight.dtype == torch.uint8 else text_weight.shape[1]
    positions = state_dict.get("img_emb.emb_pos")
    settings = state_dict.get(SETTINGS_KEY)
    return DiTConfig(
        model_type="i2v" if "img_emb.proj.0.bias" in state_dict else "t2v",
        in_dim=in_dim,
        out_dim=out_dim,
        dim=dim,
        ffn_dim=state_dict["blocks.0.ffn.0.weight"].shape[0],
        num_heads=dim // HEAD_DIM,
        num_layers=_count_blocks(state_dict),
        text_dim=text_dim,
        image_position_tokens=None if positions is None else positions.shape[1],
        gloria=GloriaSettings() if settings is None else settings_from_tensor(settings),
    )


def _count_blocks(keys: Iterable[str]) -> int:
    return 1 + max(int(key.split(".")[1]) for key in keys if key.startswith("blocks."))


def expected_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Every state-dict key of a model and its shape."""
    model = GloriaDiT(config, device="meta")
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def check_state_dict(state_dict: Mapping[str, Tensor], config: DiTConfig, source: str) -> None:
    """Raises CheckpointError with counts unless the tensors are exactly those of the model.

    Scales of quantised files are allowed, and the packed shapes of their weights are not compared.
    """
    expected = expected_shapes(config)
    tensors = {key: tensor for key, tensor in state_dict.items() if key != SETTINGS_KEY}
    extra = [key for key in tensors if key not in expected and not key.endswith(_QUANTIZATION_SUFFIXES)]
    missing = [key for key in expected if key not in tensors]
    wrong = [
        f"{key} {tuple(tensors[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].dtype != torch.uint8 and tuple(tensors[key].shape) != shape
    ]
    problems = [("missing", missing), ("unexpected", extra), ("of another shape", wrong)]
    if not any(keys for _, keys in problems):
        return
    details = "; ".join(f"{len(keys)} {name} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
                        for name, keys in problems if keys)
    raise CheckpointError(f"{source} does not fit: of {len(expected)} tensors {details}.")


def merge(
    base: Mapping[str, Tensor], gloria: Mapping[str, Tensor], base_name: str, gloria_name: str
) -> dict[str, Tensor]:
    """One state dict from a Wan base and a file of Gloria additions, after checking that they belong together.

    Raises:
        CheckpointError: The second file has no Gloria settings, has base weights, or was made for another base.
    """
    if SETTINGS_KEY not in gloria:
        raise CheckpointError(
            f"'{gloria_name}' is not a Gloria weights file: it has no '{SETTINGS_KEY}' among its {len(gloria)} tensors."
        )
    foreign = [key for key in gloria if not is_addition(key)]
    if foreign:
        raise CheckpointError(
            f"'{gloria_name}' has {len(foreign)} tensors of a whole model (such as {foreign[0]}): it is a merged file. "
            "Choose it as the base and set the Gloria weights to 'none'."
        )
    merged = {key: tensor for key, tensor in base.items() if not is_addition(key)} | dict(gloria)
    check_state_dict(merged, detect_config(merged), f"'{gloria_name}' on the base '{base_name}'")
    return merged


def gloria_additions(model: GloriaDiT) -> dict[str, Tensor]:
    """What a file of Gloria weights holds: the audio branch and the settings."""
    additions = {key: tensor for key, tensor in model.state_dict().items() if is_addition(key)}
    return additions | {SETTINGS_KEY: settings_to_tensor(model.config.gloria)}


def write_gloria_weights(model: GloriaDiT, path: Path) -> None:
    """Writes the additions alone, to be used with the base they were trained on."""
    write_safetensors(path, gloria_additions(model), {"gloria": model.config.gloria.to_json()})


def write_merged(model: GloriaDiT, path: Path) -> None:
    """Writes the whole model as one file, which ComfyUI's own *Load Diffusion Model* recognises."""
    tensors = dict(model.state_dict()) | {SETTINGS_KEY: settings_to_tensor(model.config.gloria)}
    write_safetensors(path, tensors, {"gloria": model.config.gloria.to_json()})


def load_dit(
    base: Path, gloria: Path | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> GloriaDiT:
    """A model for use without ComfyUI, from a base (or merged) file and optionally Gloria weights.

    Raises:
        CheckpointError: Damaged, quantised or not matching files.
    """
    state_dict = read_safetensors(base)
    scales = [key for key in state_dict if key.endswith(_QUANTIZATION_SUFFIXES)]
    if scales:
        raise CheckpointError(
            f"'{base.name}' is quantised ({len(scales)} scale tensors). Outside ComfyUI use the fp16 or bf16 file."
        )
    if gloria is not None:
        state_dict = merge(state_dict, read_safetensors(gloria), base.name, gloria.name)
    config = detect_config(state_dict)
    check_state_dict(state_dict, config, f"'{base.name}'")
    model = GloriaDiT(config, device="meta", dtype=dtype)
    weights = {key: tensor.to(device, dtype) for key, tensor in state_dict.items() if key != SETTINGS_KEY}
    weights |= {key: weights[key].float() for key in ("patch_embedding.weight", "patch_embedding.bias")}
    model.load_state_dict(weights, assign=True)
    return model


def describe(config: DiTConfig) -> str:
    """One line about a model, for logs and reports."""
    hearing = config.gloria.audio_blocks
    audio = f"audio branch in {len(hearing)} of them" if config.gloria.has_audio else "no audio branch"
    return f"{config.num_layers} blocks of width {config.dim}, {audio}, {config.in_dim} input channels"
