"""What stands in the header of a character file: its fields, its limits, and how both are checked.

A character is one safetensors file, since people, hubs and virus scanners know it as the format that runs no code, its
header can be read without its pictures, and it has no file names inside that could lead out of a folder, as an archive
has. A picture is a tensor: the bytes of a PNG where 8 bits hold it exactly, which is small and which every program
reads, its float32 values where they do not. Either way it comes back bit for bit.

The schema number counts every change of the fields. A reader takes its own and older numbers, refuses newer ones, and
refuses fields it does not know; metadata of other tools, under other names, is left alone.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..conditioning.anchors import LABELS, MAX_ANCHORS, MAX_SIDE
from ..errors import CharacterError
from ..strict import parse
from .character import Profile, check_plain_name, check_text

SCHEMA = 1
RECORD_KEY = "gloria.character"
HASH_KEY = "gloria.character_sha256"
PICTURE_KEY = "picture.{}"
LATENT_KEY = "latent.{}"
MAX_HEADER_BYTES = 1 << 20
# Sixteen frames of 4K footage; as float32 they take two gigabytes.
MAX_TOTAL_PIXELS = 160_000_000
MAX_SOURCE_CHARS = 255
# A PNG of noise with alpha takes a little more than four bytes a pixel; whatever is larger holds something else.
MAX_PNG_BYTES_PER_PIXEL = 5
PNG_OVERHEAD_BYTES = 1 << 16
# An expression or viewpoint at its standard size has a quarter of this.
MAX_LATENT_VALUES = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class LatentRecord:
    """Tensor `latent.N`: float32 [1, 16 or 48, 1, h, w], made of the picture at its standard size."""

    vae: str
    """Fingerprint of the VAE."""
    sha256: str

    def __post_init__(self) -> None:
        _check_sha256(self.vae, "vae")
        _check_sha256(self.sha256, "sha256")


@dataclass(frozen=True, kw_only=True)
class PictureRecord:
    """Tensor `picture.N`: uint8, the bytes of a PNG; or float32 [height, width, 3 or 4]."""

    kind: str
    """global, viewpoint or expression."""
    label: str
    height: int
    width: int
    sha256: str
    """Of the tensor's bytes."""
    source: str = ""
    """Name of the video it was taken from."""
    time: float | None = None
    """Seconds from the start of that video."""
    latent: LatentRecord | None = None

    def __post_init__(self) -> None:
        if self.label not in LABELS.get(self.kind, ()):
            raise CharacterError(f"a picture is a {self.kind[:40]!r} with the label {self.label[:40]!r}, unknown here.")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise CharacterError(f"the {self.label} picture is {self.width}x{self.height} pixels.")
        if self.latent is not None and self.kind == "global":
            raise CharacterError("the global picture has a latent, which none can have: it follows the video's size.")
        if self.time is not None and not 0 <= self.time < math.inf:
            raise CharacterError(f"the {self.label} picture was taken at {self.time} s, expected 0 or later.")
        check_text(self.source, "source", MAX_SOURCE_CHARS, is_one_line=True)
        check_plain_name(self.source, "source")
        _check_sha256(self.sha256, "sha256")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The JSON in the header under `gloria.character`; `gloria.character_sha256` is the SHA-256 of that text."""

    schema: int = SCHEMA
    profile: Profile
    pictures: tuple[PictureRecord, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.pictures) <= MAX_ANCHORS:
            raise CharacterError(f"there are {len(self.pictures)} pictures, expected 1 to {MAX_ANCHORS}.")
        pixels = sum(each.height * each.width for each in self.pictures)
        if pixels > MAX_TOTAL_PIXELS:
            raise CharacterError(
                f"the pictures have {pixels} pixels in all, expected at most {MAX_TOTAL_PIXELS}: scale them down. "
                "Viewpoints are used at about 512x512 pixels, expressions at 256x256."
            )


def record_metadata(record: Record) -> dict[str, str]:
    """The record as header entries."""
    text = json.dumps(asdict(record), ensure_ascii=False, sort_keys=True)
    return {RECORD_KEY: text, HASH_KEY: _sha256_of(text)}


def read_record(metadata: Mapping[str, str], where: str) -> Record:
    """The record of a header.

    Args:
        where: name of the file, for messages.

    Raises:
        CharacterError: Not a character, of a newer version, damaged, or with fields that do not belong there.
    """
    text = metadata.get(RECORD_KEY)
    if text is None:
        raise CharacterError(
            f"'{where}' is a safetensors file, but no character. Choose a file that Gloria Save Character made; "
            "LoRAs and models go into their own folders and loaders."
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, str(error)) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise CharacterError(
            f"'{where}' was saved by a newer version of Gloria (schema {schema}, this version reads up to {SCHEMA}). "
            "Update the Gloria node pack."
        )
    if metadata.get(HASH_KEY) != _sha256_of(text):
        raise _damaged(where, "its description is not the one that was saved")
    unknown = [key for key in metadata if key.startswith("gloria.") and key not in (RECORD_KEY, HASH_KEY)]
    if unknown:
        raise CharacterError(f"'{where}' has the header entries {', '.join(unknown)[:200]}, which no character has.")
    if schema != SCHEMA:
        raise CharacterError(f"'{where}' has the schema {schema!r:.40}, expected {SCHEMA}.")
    return parse(Record, content, f"'{where}'", CharacterError)


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes of a tensor on the CPU."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()


def _damaged(where: str, what: str) -> CharacterError:
    return CharacterError(f"'{where}' is damaged or was changed by another tool: {what}. Copy or download it again.")


def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_sha256(text: Any, field: str) -> None:
    if not _SHA256.fullmatch(text):
        raise CharacterError(f"{field} is {text[:40]!r}, expected 64 hexadecimal digits.")
