"""A character enters, a file that can be given away leaves, and beside it the card that file browsers show.

Shape letters: H height, W width, C channels, N bytes.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
import torch

from ..conditioning.anchors import Anchor
from ..durable_files import commit_file, write_safetensors
from .card import draw_card, draw_thumbnail
from .character import Character
from .record import LATENT_KEY, PICTURE_KEY, LatentRecord, PictureRecord, Record, record_metadata, tensor_sha256

CARD_SUFFIX = ".png"
_THUMBNAIL_QUALITY = 80


def write_character(path: Path, character: Character) -> None:
    """Write `path` and its card with the suffix .png; equal characters give equal files.

    Raises:
        CharacterError: More pixels than a reader takes.
        JournalError: The disk is full or not writable.
    """
    pictures, tensors = [], {}
    for idx, anchor in enumerate(character.anchors.anchors):
        packed = pack_picture(anchor.image_HWC)
        tensors[PICTURE_KEY.format(idx)] = packed
        if anchor.latent is not None:
            tensors[LATENT_KEY.format(idx)] = anchor.latent.latent_1C1HW.to("cpu", torch.float32).contiguous()
        pictures.append(_picture_record(anchor, packed, tensors.get(LATENT_KEY.format(idx))))
    record = Record(profile=character.profile, pictures=tuple(pictures))
    write_safetensors(path, tensors, {"format": "pt", **record_metadata(record), **_shown_by_others(character)})
    card = io.BytesIO()
    draw_card(character).save(card, "PNG")
    commit_file(path.with_suffix(CARD_SUFFIX), [card.getvalue()], card.tell())


def pack_picture(image_HWC: torch.Tensor) -> torch.Tensor:
    """uint8 [N], the bytes of a PNG, where 8 bits hold the picture exactly; else its float32 values [H, W, C]."""
    from PIL import Image

    image_HWC = image_HWC.detach().to("cpu", torch.float32).contiguous()
    pixels_HWC = (image_HWC * 255).round().clamp(0, 255).to(torch.uint8)
    # Compared as bits, because a minus zero equals zero.
    if not torch.equal((pixels_HWC.to(torch.float32) / 255).view(torch.int32), image_HWC.view(torch.int32)):
        return image_HWC
    packed = io.BytesIO()
    Image.fromarray(pixels_HWC.numpy()).save(packed, "PNG")
    return torch.from_numpy(np.frombuffer(packed.getvalue(), np.uint8).copy())


def _picture_record(anchor: Anchor, packed: torch.Tensor, latent: torch.Tensor | None) -> PictureRecord:
    height, width = anchor.image_HWC.shape[:2]
    return PictureRecord(
        kind=anchor.kind,
        label=anchor.label,
        height=height,
        width=width,
        sha256=tensor_sha256(packed),
        # Folders of the creator's machine are nobody's business.
        source=anchor.origin.source.replace("\\", "/").rsplit("/", 1)[-1],
        time=anchor.origin.time,
        latent=None if latent is None else LatentRecord(vae=anchor.latent.vae, sha256=tensor_sha256(latent)),
    )


def _shown_by_others(character: Character) -> dict[str, str]:
    """What model browsers look for: ModelSpec 1.0.1, and the cover that ComfyUI shows where the card is missing.

    Nothing here is read back, so a tool may change it.
    """
    profile = character.profile
    thumbnail = io.BytesIO()
    draw_thumbnail(character).save(thumbnail, "JPEG", quality=_THUMBNAIL_QUALITY)
    cover = base64.b64encode(thumbnail.getvalue()).decode()
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": "gloria-character",
        "implementation": "gloria",
        "title": profile.name,
        "description": profile.description,
        "author": profile.author,
        "license": profile.license,
        "trigger_phrase": profile.prompt,
        "usage_hint": "ComfyUI: Gloria Load Character",
        "thumbnail": f"data:image/jpeg;base64,{cover}",
    }
    shown = {f"modelspec.{name}": text for name, text in fields.items() if text}
    return {**shown, "ssmd_cover_images": json.dumps([cover])}
