"""Captions of the toy world enter, a small UMT5 encoder and its file leave.

The encoder is trained before the diffusion model and then frozen, as Wan's is, so that prompts can be cached. Random
frozen weights would say which words there are but hardly in which order ("happy then sad"); so each token's output is
trained to tell its own word, its neighbours and its place, which takes minutes. Half of what it reads is words in
random order: in captions alone a neighbour can be guessed from the grammar without looking at it.

Legend: B prompts, L tokens, D width, V words, O offsets.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ..toyworld.captions import caption
from ..toyworld.program import make_program
from .encoder_file import read_encoder, write_encoder
from .sizes import DemoSizes
from .vocabulary import END, PAD, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

logger = logging.getLogger(__name__)

_STREAM = 81
_BATCH, _LR = 64, 4e-3
_OFFSETS = (-2, -1, 0, 1, 2)
_NEIGHBOURS, _VIEW = (-1, 1, -2, 2), 5.0
_HEAD_WIDTH = 32
_CLIP_SECONDS = (0.5, 6.0)


class TextEncoder:
    """The encoder as a dataset build uses it."""

    def __init__(self, model: "UMT5EncoderModel", vocabulary: Vocabulary, min_tokens: int) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.min_tokens = min_tokens

    @torch.inference_mode()
    def __call__(self, prompt: str) -> Tensor:
        """[L, D], zeros behind the prompt's own tokens."""
        tokens_BL = batch_tokens([self.vocabulary.encode(prompt)], self.min_tokens)
        mask_BL = (tokens_BL != PAD).long()
        return (self.model(tokens_BL, mask_BL).last_hidden_state * mask_BL[..., None])[0]


def train_text_encoder(sizes: DemoSizes, path: Path) -> dict[str, float]:
    """Write the trained encoder to `path`; the share of words and places it tells right of what it never read."""
    vocabulary, generator = Vocabulary(), torch.Generator().manual_seed(sizes.seed)
    settings = _settings(sizes, len(vocabulary.words))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sizes.seed)
        model = _build(settings)
        _look_at_neighbours(model)
        num_words = len(vocabulary.words)
        reader = nn.Linear(sizes.encoders.text_width, len(_OFFSETS) * num_words + sizes.text_tokens)
    optimizer = torch.optim.AdamW([*model.parameters(), *reader.parameters()], lr=_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=sizes.encoders.text_steps + 1)
    prompts = _reading_matter(vocabulary, sizes, sizes.seed, 32 * _BATCH)
    for _ in range(sizes.encoders.text_steps):
        chosen = torch.randint(len(prompts), (_BATCH,), generator=generator).tolist()
        loss, _ = _reading_loss(model, reader, batch_tokens([prompts[idx] for idx in chosen], sizes.text_tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    unseen = _reading_matter(vocabulary, sizes, sizes.seed + 1, 4 * _BATCH)
    with torch.inference_mode():
        _, figures = _reading_loss(model, reader, batch_tokens(unseen, sizes.text_tokens))
    weights = {name: x for name, x in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    header = {"config": settings, "words": list(vocabulary.words), "min_tokens": sizes.text_tokens}
    write_encoder(path, "text", header, weights)
    logger.info("text encoder: %s", ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


def load_text_encoder(path: Path) -> TextEncoder:
    """The encoder of a file, on the CPU."""
    file = read_encoder(path, "text")
    model = _build(file.sizes["config"])
    model.load_state_dict({**file.weights, "encoder.embed_tokens.weight": file.weights["shared.weight"]})
    return TextEncoder(model, Vocabulary(tuple(file.sizes["words"])), file.sizes["min_tokens"])


def random_captions(seed: int, num: int) -> list[str]:
    """Captions of random stretches of random programs."""
    rng = np.random.default_rng((_STREAM, seed))
    captions = []
    while len(captions) < num:
        program = make_program(int(rng.integers(2**31)))
        for _ in range(8):
            seconds = rng.uniform(*_CLIP_SECONDS)
            opening = np.full(2, float(rng.integers(2)))
            captions.append(caption(program, rng.uniform(0, program.seconds - seconds), seconds, opening))
    return captions[:num]


def _reading_matter(vocabulary: Vocabulary, sizes: DemoSizes, seed: int, num: int) -> list[list[int]]:
    """Captions, and as many random rows of words."""
    rng = np.random.default_rng((_STREAM, seed, 1))
    captions = [vocabulary.encode(text) for text in random_captions(seed, num // 2)]
    lengths = rng.integers(1, sizes.text_tokens, size=num - len(captions))
    rows = [[*rng.integers(UNKNOWN, len(vocabulary.words), size=length).tolist(), END] for length in lengths]
    return captions + rows


def batch_tokens(prompts: Sequence[Sequence[int]], min_tokens: int) -> Tensor:
    """Prompts filled up to the longest, and to `min_tokens` at least [B, L]."""
    length = max(min_tokens, *(len(prompt) for prompt in prompts))
    return torch.tensor([[*prompt, *(PAD,) * (length - len(prompt))] for prompt in prompts])


def _reading_loss(model: nn.Module, reader: nn.Linear, tokens_BL: Tensor) -> tuple[Tensor, dict[str, float]]:
    """How well a linear layer reads words and places off each token's output."""
    is_word_BL = tokens_BL != PAD
    hidden_BLD = model(tokens_BL, is_word_BL.long()).last_hidden_state
    num_words = model.config.vocab_size
    words, places_BLP = reader(hidden_BLD).split([len(_OFFSETS) * num_words, hidden_BLD.shape[1]], dim=-1)
    words_BLOV = words.unflatten(-1, (len(_OFFSETS), num_words))
    reach = max(_OFFSETS)
    padded = pad(tokens_BL, (reach, reach), value=PAD)
    length = tokens_BL.shape[1]
    wanted_BLO = torch.stack([padded[:, reach + by : reach + by + length] for by in _OFFSETS], dim=-1)
    place_BL = torch.arange(length).expand_as(tokens_BL)
    loss = cross_entropy(words_BLOV[is_word_BL].flatten(0, 1), wanted_BLO[is_word_BL].flatten())
    loss = loss + cross_entropy(places_BLP[is_word_BL], place_BL[is_word_BL])
    right_words = (words_BLOV.argmax(-1) == wanted_BLO)[is_word_BL].float().mean()
    right_places = (places_BLP.argmax(-1) == place_BL)[is_word_BL].float().mean()
    return loss, {"words": float(right_words), "places": float(right_places)}


def _settings(sizes: DemoSizes, num_words: int) -> dict[str, Any]:
    width = sizes.encoders.text_width
    return {
        "model_type": "umt5", "vocab_size": num_words, "d_model": width, "d_kv": min(_HEAD_WIDTH, width),
        "d_ff": 2 * width, "num_layers": sizes.encoders.text_layers, "num_heads": max(1, width // _HEAD_WIDTH),
        "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True,
    }  # fmt: skip


@torch.no_grad()
def _look_at_neighbours(model: "UMT5EncoderModel") -> None:
    """Each head starts with one neighbour in view; from T5's own start, finding it takes thousands of steps."""
    for block in model.encoder.block:
        bias_of_distance = block.layer[0].SelfAttention.relative_attention_bias.weight
        for head, distance in zip(range(bias_of_distance.shape[1]), _NEIGHBOURS, strict=False):
            # T5 counts distances behind a token in the second half of its table.
            row = -distance if distance < 0 else distance + len(bias_of_distance) // 2
            bias_of_distance[row, head] += _VIEW


def _build(settings: dict[str, Any]) -> "UMT5EncoderModel":
    from transformers import UMT5Config, UMT5EncoderModel

    names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    config = UMT5Config(
        **{name: settings[name] for name in names}, feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=PAD
    )
    return UMT5EncoderModel(config)
