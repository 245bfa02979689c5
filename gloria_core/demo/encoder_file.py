"""A demo encoder's weights and sizes go into one safetensors file, and come back checked.

The sizes stand in the file's header under `gloria_demo_encoder`: by them the file is told from the public encoders,
which stock loaders know by their widths alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..durable_files import write_safetensors
from ..errors import CheckpointError

HEADER = "gloria_demo_encoder"
Kind = Literal["text", "audio"]


@dataclass(frozen=True)
class EncoderFile:
    """What a file holds."""

    sizes: dict[str, Any]
    weights: dict[str, Tensor]


def write_encoder(path: Path, kind: Kind, sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Half precision: the weights are small numbers of which fp16 keeps eleven bits."""
    metadata = {"format": "pt", HEADER: json.dumps({"kind": kind, **sizes}, sort_keys=True)}
    write_safetensors(path, {name: tensor.detach().cpu().half() for name, tensor in weights.items()}, metadata)


def read_encoder(path: Path, kind: Kind) -> EncoderFile:
    """Sizes, and weights as float32.

    Raises:
        CheckpointError: Unreadable, of another kind, or not of the demo model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            weights = {name: file.get_tensor(name).float() for name in file.keys()} if header else {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}.") from error
    sizes = json.loads(header) if header else {}
    if sizes.pop("kind", None) != kind:
        raise CheckpointError(
            f"'{path.name}' is no {kind} encoder of the Gloria demo model. Use the stock loaders for public encoders "
            "(Load CLIP, Load Audio Encoder), and this one for the two files of the demo model."
        )
    return EncoderFile(sizes, weights)
