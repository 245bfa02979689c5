"""The text of an anchor board enters, the file of each slot leaves: JSON such as `{"front": "anchors/front.png"}`."""

import json
from typing import Any

from ..errors import AnchorError
from .anchors import LABELS

# Labels are unique over all kinds, so a label alone names a slot.
KIND_OF_SLOT = {label: kind for kind, labels in LABELS.items() for label in labels}
MAX_TEXT_CHARS = 1 << 16


def parse_board(text: str) -> dict[str, str]:
    """Slot -> file name, in the order of the slots; an empty text is an empty board."""
    if not text.strip():
        return {}
    if len(text) > MAX_TEXT_CHARS:
        raise AnchorError(f"The anchor board holds {len(text)} characters, expected at most {MAX_TEXT_CHARS}.")
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnchorError(
            f"The anchor board is not JSON ({error}). Expected slots with file names, "
            f'for example {{"front": "her.png"}}.'
        ) from error
    return check_board(content)


def check_board(content: Any) -> dict[str, str]:
    """Slot -> file name from parsed JSON, in the order of the slots; whatever is not that is named."""
    if not isinstance(content, dict):
        raise AnchorError(f"The anchor board is a JSON {type(content).__name__}, expected slots with file names.")
    for slot, name in content.items():
        if slot not in KIND_OF_SLOT:
            raise AnchorError(
                f"The anchor board has a slot {str(slot)[:40]!r}. Known slots are: {', '.join(KIND_OF_SLOT)}."
            )
        if not isinstance(name, str) or not name.strip():
            raise AnchorError(
                f"The slot {slot} of the anchor board holds {str(name)[:40]!r}, expected the name of an image file. "
                f"Leave an empty slot out."
            )
    return {slot: content[slot] for slot in KIND_OF_SLOT if slot in content}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise AnchorError(f"The anchor board names the slot {repeated[:40]!r} twice: keep one file for each slot.")
    return content
