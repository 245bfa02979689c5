"""A stock vision-language CLIP enters, expressions, second looks at them and captions leave, by text generation."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...gloria_core.errors import CheckpointError
from ...gloria_core.extraction.backends import Verdict
from ...gloria_core.extraction.endpoint import EndpointError
from ...gloria_core.extraction.judge import (
    NONE,
    QUESTIONS_HASH,
    WHICH,
    WHICH_SCHEMA,
    as_probabilities,
    checked_answer,
    second_look,
)
from .extraction_models import as_image, weights_name
from .kept_work import KeptAnswers

logger = logging.getLogger(__name__)

_ANSWER_TOKENS, _CAPTION_TOKENS = 64, 160
_STILL_SIDE = 384
_EYE_TEST_SIDE = 64
_NOTHING_SURE = {"label": NONE, "confidence": 0.0}
_DESCRIBE = (
    "These are four moments of one video clip, in reading order. Describe the clip for a video generator in one to "
    "three sentences: the person, the clothing, the place, what the person does and how the camera moves. Write "
    "nothing else."
)


class LocalModel:
    """Expression classifier, judge and captioner: one model with its questions, without sampling."""

    def __init__(self, clip: Any, answers: KeptAnswers) -> None:
        if not _sees(clip):
            raise CheckpointError(
                "The model at vision_language_model reads no pictures where the stock Generate Text node shows it one: "
                "load one that does, for example Qwen3-VL, Qwen3.5 or Gemma 4 (a newer ComfyUI knows more of them)."
            )
        self._clip, self._answers = clip, answers
        self.name = weights_name("text generation", clip.cond_stage_model, QUESTIONS_HASH)

    def setup(self) -> None:
        """ComfyUI loads the model when it is used."""

    def classify(self, crops: Sequence[Tensor]) -> list[Mapping[str, float]]:
        """What the model sees in each crop; an answer in another form than was asked for is none."""
        return [as_probabilities(self._asked_or_nothing(crop_HWC)) for crop_HWC in crops]

    def judge(self, crop_HWC: Tensor, label: str) -> Verdict:
        """The verdict. The same question would get the same answer again, so an unusable one drops the anchor."""
        try:
            outcome, to, reason = second_look(label, lambda question, schema: self._asked(question, schema, crop_HWC))
        except EndpointError as error:
            outcome, to, reason = "drop", None, f"no usable answer: {error}"
        return Verdict(outcome=outcome, label=to, reason=reason, attempts=1, judge=self.name)

    def caption(self, pictures: Sequence[Tensor]) -> str:
        """One to three sentences about four pictures of one clip."""
        stills = [_small(picture_HWC) for picture_HWC in pictures]
        rows = [torch.cat(stills[start : start + 2], dim=1) for start in (0, 2)]
        return " ".join(self._generated(_DESCRIBE, torch.cat(rows), _CAPTION_TOKENS).split())

    def _asked_or_nothing(self, crop_HWC: Tensor) -> dict[str, Any]:
        try:
            return self._asked(WHICH, WHICH_SCHEMA, crop_HWC)
        except EndpointError as error:
            logger.warning("%s gave no usable answer: %s", self.name, error)
            return _NOTHING_SURE

    def _asked(self, question: str, schema: dict[str, Any], crop_HWC: Tensor) -> dict[str, Any]:
        text = self._generated(question, crop_HWC, _ANSWER_TOKENS)
        # Many models put their JSON into a fence or behind a word.
        return checked_answer(text[text.find("{") : text.rfind("}") + 1], schema)

    def _generated(self, prompt: str, picture_HWC: Tensor, max_tokens: int) -> str:
        """The model's words; without sampling equal questions have equal answers, so each is asked once."""
        key = hashlib.sha256(f"{self.name} {prompt} {max_tokens} {tuple(picture_HWC.shape)}".encode())
        key.update(picture_HWC.contiguous().numpy().tobytes())
        return self._answers.get(key.hexdigest(), lambda: self._generate(prompt, picture_HWC, max_tokens))

    def _generate(self, prompt: str, picture_HWC: Tensor, max_tokens: int) -> str:
        from comfy_extras.nodes_textgen import TextGenerate

        image_BHWC = as_image(picture_HWC)
        (text,) = TextGenerate.execute(
            self._clip, prompt, max_tokens, {"sampling_mode": "off"}, image=image_BHWC
        ).args
        return text


def _sees(clip: Any) -> bool:
    """Whether a picture becomes part of what the model reads; text encoders without eyes ignore it silently."""
    tokens = clip.tokenize("?", image=as_image(torch.zeros(_EYE_TEST_SIDE, _EYE_TEST_SIDE, 3, dtype=torch.uint8)))
    return any(isinstance(token[0], Mapping) for batches in tokens.values() for batch in batches for token in batch)


def _small(picture_HWC: Tensor) -> Tensor:
    """One of four stills, all of one size."""
    still_1CHW = picture_HWC.movedim(-1, 0)[None].float()
    side = _STILL_SIDE / max(picture_HWC.shape[:2])
    size = [max(1, round(length * side)) for length in picture_HWC.shape[:2]]
    small_CHW = F.interpolate(still_1CHW, size=size, mode="bilinear", antialias=True)[0]
    return small_CHW.movedim(0, -1).round().clamp(0, 255).byte()
