"""A head crop and a classifier's label enter, keep, relabel or drop leaves (paper section 3 and supplement 1.1).

A vision-language model is asked twice at temperature 0: which expression is it, without a hint, and does it show this
one, yes or no. The label is kept if both answers agree with it, changed if the first is sure and the second confirms
that one, and dropped otherwise.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..conditioning.anchors import EXPRESSIONS
from .backends import Verdict
from .endpoint import Endpoint, EndpointError, ask, find_endpoint

logger = logging.getLogger(__name__)

NONE = "none"
DEFINITIONS = {
    "surprise": "raised brows, wide eyes, open mouth",
    "angry": "lowered drawn brows, hard stare, tight or shouting mouth",
    "disgust": "wrinkled nose, raised upper lip",
    "fear": "raised drawn-together brows, wide eyes, stretched lips",
    "contempt": "one corner of the mouth tightened or raised, one-sided",
    "sad": "inner brows raised, lowered corners of the mouth, heavy lids",
    "neutral": "relaxed face without any of the others",
    "happy": "raised cheeks and corners of the mouth, a smile",
}
_SURE = 0.7
_JPEG_QUALITY = 92
_MAX_SIDE = 512

WHICH = (
    "Which expression does the face show? Choose one of these, or none if no face or no clear one is to be seen:\n"
    + "\n".join(f"- {name}: {text}" for name, text in DEFINITIONS.items())
    + '\nAnswer only with JSON: {"label": "<one of the names, or none>", "confidence": <0 to 1>}'
)
WHICH_SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": [*EXPRESSIONS, NONE]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["label", "confidence"],
    "additionalProperties": False,
}
_IS_IT = (
    'Does the face clearly show this expression: {label} ({definition})? Answer only with JSON: {{"answer": "yes"}} or '
    '{{"answer": "no"}}'
)
_IS_IT_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


# Question and the form of its answer enter, an answer of that form leaves.
Asked = Callable[[str, dict[str, Any]], dict[str, Any]]
QUESTIONS_HASH = hashlib.sha256((WHICH + _IS_IT + json.dumps(DEFINITIONS)).encode()).hexdigest()[:8]


class Finding(NamedTuple):
    """What the two answers mean."""

    outcome: Literal["keep", "relabel", "drop"]
    label: str | None
    reason: str


def second_look(label: str, asked: Asked) -> Finding:
    """Ask both questions about a picture that was labelled `label`."""
    seen = asked(WHICH, WHICH_SCHEMA)
    blind, is_sure = seen["label"], seen["confidence"] >= _SURE
    if blind == NONE:
        return Finding("drop", None, "no clear expression")
    if blind != label and not is_sure:
        return Finding("drop", None, f"looks more like {blind}, but not surely")
    if asked(_IS_IT.format(label=blind, definition=DEFINITIONS[blind]), _IS_IT_SCHEMA)["answer"] == "no":
        return Finding("drop", None, f"{blind} was not confirmed")
    if blind == label:
        return Finding("keep", label, "confirmed")
    return Finding("relabel", blind, f"{blind} rather than {label}")


def as_probabilities(seen: Mapping[str, Any]) -> dict[str, float]:
    """The answer to the first question as a classifier's: what is not for its label is shared by the others."""
    if seen["label"] == NONE:
        return {name: 1 / len(EXPRESSIONS) for name in EXPRESSIONS}
    rest = (1 - seen["confidence"]) / (len(EXPRESSIONS) - 1)
    return {name: float(seen["confidence"]) if name == seen["label"] else rest for name in EXPRESSIONS}


def _go_on() -> None:
    """Nobody watches."""


@dataclass
class EndpointJudge:
    """A vision-language model behind a named endpoint.

    Args:
        endpoint_name: a name in the server's file of endpoints.
        file: that file; None: the one in the environment.
    """

    endpoint_name: str
    file: Path | None = None
    pause_seconds: float = 1.0
    """Before the second attempt; doubled before each further one."""
    on_attempt: Callable[[], None] = _go_on
    """Called before every attempt; what it raises ends the run."""
    endpoint: Endpoint = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = find_endpoint(self.endpoint_name, self.file)

    @property
    def name(self) -> str:
        """Model and hash of the questions."""
        return f"{self.endpoint.model} {QUESTIONS_HASH}"

    def setup(self) -> None:
        """Nothing to load."""

    def judge(self, crop_HWC: Tensor, label: str) -> Verdict:
        """The verdict; "no answer" if the endpoint fails as often as it may."""
        picture = _jpeg(crop_HWC)
        attempts = [0]
        try:
            outcome, to, reason = second_look(
                label, lambda question, schema: self._asked(question, schema, picture, attempts)
            )
        except EndpointError as error:
            logger.warning("The judge '%s' gave no answer: %s", self.endpoint_name, error)
            outcome, to, reason = "no answer", None, f"no answer: {error}"
        return Verdict(outcome=outcome, label=to, reason=reason, attempts=attempts[0], judge=self.name)

    def _asked(self, question: str, schema: dict[str, Any], picture: bytes, attempts: list[int]) -> dict[str, Any]:
        """A checked answer within the allowed number of attempts for one question."""
        for attempt in range(self.endpoint.attempts):
            self.on_attempt()
            attempts[0] += 1
            try:
                return checked_answer(ask(self.endpoint, question, picture, schema), schema)
            except EndpointError as error:
                if not error.is_worth_retrying or attempt + 1 == self.endpoint.attempts:
                    raise
                time.sleep(self.pause_seconds * 2**attempt)
        raise AssertionError("unreachable: there is at least one attempt")


def checked_answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The answer, exactly in its form.

    Raises:
        EndpointError: Prose, or other words than were asked for.
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise EndpointError("the answer is not the JSON that was asked for", is_worth_retrying=True) from None
    if not isinstance(answer, dict) or set(answer) != set(schema["required"]):
        raise EndpointError("the answer has other fields than were asked for", is_worth_retrying=True)
    for name, rule in schema["properties"].items():
        value = answer[name]
        fits = value in rule["enum"] if rule["type"] == "string" else _is_share(value)
        if not fits:
            raise EndpointError(f"the answer's '{name}' is none of those that were asked for", is_worth_retrying=True)
    return answer


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _jpeg(crop_HWC: Tensor) -> bytes:
    from PIL import Image

    image = Image.fromarray(crop_HWC.contiguous().numpy())
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    return data.getvalue()
