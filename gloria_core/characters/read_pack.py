"""A character file from a stranger enters, the character leaves: checked before it is loaded, hashes included.

The file can cost no more memory than the limits in `record.py`, nothing in it is run, and no text in it becomes a path.

Shape letters: H height, W width, C channels.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..conditioning.anchors import Anchor, AnchorLatent, AnchorSet, Origin
from ..errors import AnchorError, CharacterError
from ..shapes import SPATIAL_STRIDE_BY_CHANNELS
from .character import Character
from .record import (
    LATENT_KEY,
    MAX_HEADER_BYTES,
    MAX_LATENT_VALUES,
    MAX_PNG_BYTES_PER_PIXEL,
    PICTURE_KEY,
    PNG_OVERHEAD_BYTES,
    PictureRecord,
    Record,
    read_record,
    tensor_sha256,
)

_COUNT_BYTES = 8


def read_character(path: Path) -> Character:
    """The character of a file.

    Raises:
        CharacterError: Naming the file, what is wrong with it and what to do.
    """
    _read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            record = read_record(file.metadata() or {}, path.name)
            _check_names(set(file.keys()), record, path.name)
            anchors = tuple(_read_anchor(file, idx, each, path.name) for idx, each in enumerate(record.pictures))
        return Character(record.profile, AnchorSet(anchors))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    except AnchorError as error:
        raise CharacterError(f"'{path.name}' cannot be used: {error}") from error


def content_fingerprint(path: Path) -> str:
    """Digest of the header, where the hash of every picture stands: equal for equal characters, cheap for large ones.

    Raises:
        CharacterError: No safetensors file.
    """
    return hashlib.sha256(_read_header(path)).hexdigest()


def _read_header(path: Path) -> bytes:
    """The header as it is, its size checked before anything is made of it."""
    try:
        with path.open("rb") as file:
            count = int.from_bytes(file.read(_COUNT_BYTES), "little")
            if count > MAX_HEADER_BYTES:
                raise CharacterError(
                    f"'{path.name}' is no character file: its header would have {count} bytes, expected at most "
                    f"{MAX_HEADER_BYTES}. Choose a file that Gloria Save Character made."
                )
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CharacterError:
    return CharacterError(
        f"'{path.name}' cannot be read ({error}). Expected a whole .safetensors file that Gloria Save Character made: "
        "copy or download it again."
    )


def _check_names(given: set[str], record: Record, where: str) -> None:
    expected = {PICTURE_KEY.format(idx) for idx in range(len(record.pictures))}
    expected |= {LATENT_KEY.format(idx) for idx, each in enumerate(record.pictures) if each.latent is not None}
    if given != expected:
        different = ", ".join(sorted(given ^ expected))
        raise CharacterError(
            f"'{where}' does not hold what its description says: {different[:200]} is missing or too much. "
            "Copy or download it again."
        )


def _read_anchor(file: Any, idx: int, record: PictureRecord, where: str) -> Anchor:
    image_HWC = _read_picture(file, PICTURE_KEY.format(idx), record, where)
    latent = None
    if record.latent is not None:
        latent = AnchorLatent(record.latent.vae, _read_latent(file, LATENT_KEY.format(idx), record, where))
    return Anchor(record.kind, record.label, image_HWC, Origin(record.source, record.time), latent)


def _read_picture(file: Any, key: str, record: PictureRecord, where: str) -> torch.Tensor:
    entry = file.get_slice(key)
    dtype, shape = entry.get_dtype(), entry.get_shape()
    num_pixels = record.height * record.width
    is_png = dtype == "U8" and len(shape) == 1
    if is_png and shape[0] > num_pixels * MAX_PNG_BYTES_PER_PIXEL + PNG_OVERHEAD_BYTES:
        raise CharacterError(f"'{where}': {key} has {shape[0]} bytes, far too many for {num_pixels} pixels.")
    is_pixels = dtype == "F32" and shape in ([record.height, record.width, channels] for channels in (3, 4))
    if not is_png and not is_pixels:
        raise CharacterError(
            f"'{where}': {key} is {dtype} {shape}, expected the bytes of a PNG (U8) or pixels "
            f"(F32 [{record.height}, {record.width}, 3])."
        )
    tensor = _load(file, key, record.sha256, where)
    return _decode(tensor, key, record, where) if is_png else tensor


def _read_latent(file: Any, key: str, record: PictureRecord, where: str) -> torch.Tensor:
    entry = file.get_slice(key)
    dtype, shape = entry.get_dtype(), entry.get_shape()
    is_frame = len(shape) == 5 and shape[0] == shape[2] == 1 and shape[1] in SPATIAL_STRIDE_BY_CHANNELS
    if dtype != "F32" or not is_frame or not 0 < np.prod(shape, dtype=object) <= MAX_LATENT_VALUES:
        raise CharacterError(
            f"'{where}': {key} is {dtype} {shape}, expected one latent frame (F32 [1, 16 or 48, 1, h, w])."
        )
    latent_1C1HW = _load(file, key, record.latent.sha256, where)
    if not torch.isfinite(latent_1C1HW).all():
        raise CharacterError(f"'{where}': {key} holds values that are not finite. Ask its creator to save it again.")
    return latent_1C1HW


def _load(file: Any, key: str, sha256: str, where: str) -> torch.Tensor:
    # A copy: the library maps the file, so that a later change on disk would change what was checked.
    tensor = file.get_tensor(key).clone()
    if tensor_sha256(tensor) != sha256:
        raise CharacterError(
            f"'{where}' is damaged: {key} is not what was saved (its SHA-256 differs). Copy or download it again."
        )
    return tensor


def _decode(packed_N: torch.Tensor, key: str, record: PictureRecord, where: str) -> torch.Tensor:
    """[H, W, 3] or [H, W, 4], float32, 0 to 1; its size is compared before it is unpacked."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(packed_N.numpy().tobytes()), formats=("PNG",)) as image:
            is_as_told = image.size == (record.width, record.height) and image.mode in ("RGB", "RGBA")
            if not is_as_told:
                raise CharacterError(
                    f"'{where}': {key} is a picture of {image.width}x{image.height} pixels ({image.mode}), expected "
                    f"{record.width}x{record.height} in RGB."
                )
            pixels_HWC = torch.from_numpy(np.array(image))
    except CharacterError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CharacterError(f"'{where}': {key} is no PNG that can be read ({error}).") from error
    return pixels_HWC.to(torch.float32).div_(255)
