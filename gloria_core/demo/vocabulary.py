"""A prompt enters, the numbers of its words leave: every word of the toy world's captions is one token.

Four dozen words need no subwords. A word the demo model never saw has no meaning to it, so it is named in the log
instead of being spelled out in pieces that look understood.
"""

import logging
import re
from dataclasses import dataclass

from ..toyworld.captions import VOCABULARY

logger = logging.getLogger(__name__)

PAD, END, UNKNOWN = 0, 1, 2
_SPECIAL = ("<pad>", "</s>", "<unk>")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their numbers, behind the special ones."""

    words: tuple[str, ...] = (*_SPECIAL, *VOCABULARY)

    def encode(self, prompt: str) -> list[int]:
        """Numbers of the prompt's words and of its end; case and punctuation do not count."""
        numbers = {word: number for number, word in enumerate(self.words)}
        found = [word.lower() for word in _WORD.findall(prompt)]
        unknown = sorted({word for word in found if word not in numbers})
        if unknown:
            logger.warning(
                "The demo model does not know: %s. It knows: %s.",
                ", ".join(unknown),
                ", ".join(self.words[len(_SPECIAL) :]),
            )
        return [*(numbers.get(word, UNKNOWN) for word in found), END]

    def decode(self, numbers: list[int]) -> str:
        """The words of numbers, without the end and what fills up."""
        return " ".join(self.words[number] for number in numbers if number not in (PAD, END))
