"""A character as artists share it: labelled pictures, and what its creator says about them, checked when made."""

import unicodedata
from collections import Counter
from dataclasses import dataclass

from ..conditioning.anchors import AnchorSet
from ..errors import CharacterError

BY_HAND = "by hand"
# Texts stand in the file's header, which every tool reads in full.
MAX_CHARS = {
    "name": 120, "prompt": 4000, "description": 4000, "author": 200, "license": 4000, "provenance": 16000,
    "notes": 16000, "lora": 200,
}  # fmt: skip
_ONE_LINE = ("name", "author", "lora")
_LINE_SIGNS = "\n\r\t"
_NO_TEXT = ("Cc", "Cs")  # control signs and halves of signs, in Unicode's terms


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the creator says; lengths are in `MAX_CHARS`."""

    name: str
    prompt: str = ""
    """Words that describe the character in the prompt of every video."""
    description: str = ""
    """For people who look for a character."""
    author: str = ""
    license: str = ""
    """What others may do with the character."""
    provenance: str = BY_HAND
    """Where the pictures come from: by hand, or footage and the settings of its extraction."""
    notes: str = ""
    lora: str = ""
    """Name of a LoRA file that goes with the character; it is shown, never opened."""

    def __post_init__(self) -> None:
        for field, most in MAX_CHARS.items():
            check_text(getattr(self, field), field, most, field in _ONE_LINE)
        if not self.name.strip():
            raise CharacterError("The character has no name: give it one, people will see it.")
        check_plain_name(self.lora, "lora")


@dataclass(frozen=True, eq=False)
class Character:
    """Pictures and profile."""

    profile: Profile
    anchors: AnchorSet


def check_text(text: str, field: str, most: int, is_one_line: bool = False) -> None:
    """Refuse what is too long for a header, or what a page would not show as it is."""
    if len(text) > most:
        raise CharacterError(f"{field} has {len(text)} characters, expected at most {most}: shorten it.")
    allowed = "" if is_one_line else _LINE_SIGNS
    bad = [sign for sign in text if unicodedata.category(sign) in _NO_TEXT and sign not in allowed]
    if bad:
        place = "one line of " if is_one_line else ""
        raise CharacterError(f"{field} holds the sign {bad[0]!a}, expected {place}plain text: remove it.")


def check_plain_name(name: str, field: str) -> None:
    """Refuse a file name with folders: whoever reads it could take it for a path."""
    if "/" in name or "\\" in name or name in (".", ".."):
        raise CharacterError(f"{field} is {name[:80]!r}, expected a file name without folders.")


def describe(character: Character) -> str:
    """Who made it, what others may do with it and what is inside, in lines for people."""
    profile = character.profile
    lines = [profile.name + (f", by {profile.author}" if profile.author else "")]
    lines.append(f"Licence: {profile.license or 'none given; ask whoever gave you the file'}")
    lines.append(f"Pictures: {_pictures(character.anchors)}")
    lines.append(f"Origin: {profile.provenance or 'not told'}")
    num_latents = sum(anchor.latent is not None for anchor in character.anchors.anchors)
    if num_latents:
        lines.append(f"Stored latents: {num_latents}, for the VAE that made them")
    if profile.lora:
        lines.append(f"LoRA that goes with it: {profile.lora}")
    lines += [text for text in (profile.description, profile.notes) if text]
    return "\n".join(lines)


def _pictures(anchors: AnchorSet) -> str:
    counts = Counter("scene" if anchor.kind == "global" else anchor.label for anchor in anchors.anchors)
    return ", ".join(label if count == 1 else f"{label} x{count}" for label, count in counts.items())
