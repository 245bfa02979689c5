"""Latents of the chunks enter one by one, one frame-major safetensors file leaves, readable without loading it.

Frame-major ([T, C, h, w]) so that the film can be written in order and any span of frames lies together.

Shapes: T latent frames of the film, C channels, H W latent height and width, B batch (always 1).
"""

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..durable_files import commit_file
from .blend import blend_overlap
from .plan import Chunk, ChunkPlan

TENSOR_NAME = "frames"
_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_ALIGNMENT = 8


def film_pieces(plan: ChunkPlan, load: Callable[[Chunk], Tensor], blend: bool) -> Iterator[Tensor]:
    """Frames [T, C, H, W] of the film in order, holding one chunk at a time.

    Args:
        load: gives the raw latents [C, T, H, W] of a chunk, prefix included.
        blend: cross-fade overlaps; otherwise the earlier chunk's latents stay.
    """
    num_overlap = plan.prefix_latents
    pending: Tensor | None = None  # end of the film so far, which the next chunk may still change
    for chunk in plan.chunks:
        frames_TCHW = load(chunk).transpose(0, 1)
        if pending is not None and chunk.prefix:
            overlap = blend_overlap(pending, frames_TCHW[: chunk.prefix], time_dim=0) if blend else pending
            frames_TCHW = torch.cat([overlap, frames_TCHW[chunk.prefix :]])
        is_last = chunk.index == len(plan.chunks) - 1
        keep = 0 if is_last else num_overlap
        split = frames_TCHW.shape[0] - keep
        if split:
            yield frames_TCHW[:split]
        pending = frames_TCHW[split:].clone()


def write_film(path: Path, pieces: Iterator[Tensor], shape_TCHW: tuple[int, ...], dtype: torch.dtype) -> str:
    """Write the film at constant memory and return the SHA-256 of the file."""
    header = _header(shape_TCHW, dtype)
    num_bytes = math.prod(shape_TCHW) * dtype.itemsize

    def file_bytes() -> Iterator[bytes | memoryview]:
        yield header
        for piece in pieces:
            yield tensor_bytes(piece)

    return commit_file(path, file_bytes(), len(header) + num_bytes)


def open_film(path: Path) -> Tensor:
    """The film as a [1, C, T, H, W] view of the mapped file: pages are read when touched, writes stay in memory."""
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(header_size))[TENSOR_NAME]
    dtype = _DTYPES[entry["dtype"]]
    storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    offset = (8 + header_size + entry["data_offsets"][0]) // dtype.itemsize
    frames_TCHW = torch.empty(0, dtype=dtype).set_(storage, offset, entry["shape"])
    return frames_TCHW.transpose(0, 1)[None]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor, without a copy when it is contiguous and on the CPU."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _header(shape_TCHW: tuple[int, ...], dtype: torch.dtype) -> bytes:
    num_bytes = math.prod(shape_TCHW) * dtype.itemsize
    entry = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape_TCHW), "data_offsets": [0, num_bytes]}
    content = json.dumps({"__metadata__": {"format": "pt"}, TENSOR_NAME: entry}).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return struct.pack("<Q", len(content)) + content
