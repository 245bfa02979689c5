"""Shares of attention of finished chunks enter a film's job folder, and are found there again.

    attention_00000.safetensors     shares of one chunk; its header names the very chunk they belong to

A file counts only beside that chunk, so shares outlive a cancelled run like the chunk itself, go with it into another
take, and are forgotten when it is sampled again. The film does not depend on them.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..durable_files import commit_file, share_file
from ..errors import JournalError
from ..sampling.job_folder import ChunkRecord, data_path, record_path
from ..sampling.journal import Journal
from ..sampling.plan import Chunk
from .attention_probe import AttentionProbe, AttentionShares, ProbeSettings

logger = logging.getLogger(__name__)

_HEADER, _TENSOR = "gloria_attention", "shares"
_MAX_SLOTS = 64


def attention_path(folder: Path, index: int) -> Path:
    """File of a chunk's shares."""
    return folder / f"attention_{index:05d}.safetensors"


def write_shares(path: Path, shares: AttentionShares, chunk_sha256: str) -> None:
    """Put the shares of one chunk on disk, whole or not at all."""
    header = {
        "chunk": chunk_sha256,
        "slots": shares.slots,
        "looks": shares.looks,
        "tokens": shares.tokens,
    }
    data = save({_TENSOR: shares.shares_LFG.contiguous()}, {_HEADER: json.dumps(header)})
    commit_file(path, [data], len(data))


def read_shares(folder: Path, chunk: Chunk) -> AttentionShares | None:
    """The shares of a finished chunk; None when there are none, or those of what the chunk was before."""
    record = ChunkRecord.read(record_path(folder, chunk.index))
    if record is None or not data_path(folder, chunk.index).is_file():
        return None
    try:
        with safe_open(attention_path(folder, chunk.index), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            shares_LFG = file.get_tensor(_TENSOR)
    except (OSError, SafetensorError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or header.get("chunk") != record.sha256:
        return None
    return _parsed(header, shares_LFG, chunk)


def _parsed(header: dict[str, Any], shares_LFG: Tensor, chunk: Chunk) -> AttentionShares | None:
    """The content of a file that anybody may have written."""
    slots, looks, tokens = (header.get(name) for name in ("slots", "looks", "tokens"))
    is_complete = _are_pairs(slots, str) and _are_pairs(looks, int) and _are(tokens, int) and len(slots) <= _MAX_SLOTS
    if not is_complete or not looks or len(tokens) != chunk.length + len(slots):
        return None
    expected = (len(looks), chunk.length, len(tokens))
    if shares_LFG.shape != expected or shares_LFG.dtype != torch.float32 or not torch.isfinite(shares_LFG).all():
        return None
    pairs = tuple((kind, label) for kind, label in slots)
    return AttentionShares(pairs, tuple((step, block) for step, block in looks), shares_LFG, tuple(tokens))


def _are(entries: Any, kind: type) -> bool:
    return isinstance(entries, list) and all(type(entry) is kind for entry in entries)


def _are_pairs(entries: Any, kind: type) -> bool:
    return isinstance(entries, list) and all(_are(entry, kind) and len(entry) == 2 for entry in entries)


class AttentionRecorder:
    """Probes the chunks of one film as they are sampled, and keeps what they looked at.

    Args:
        settings: None: nothing is looked at.
        num_blocks: of the model.
        sigmas: noise levels [steps + 1] that every chunk is sampled at.
    """

    def __init__(
        self, journal: Journal, settings: ProbeSettings | None, num_blocks: int, sigmas: Tensor | Sequence[float]
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._num_blocks = num_blocks
        self._sigmas = sigmas
        self._probe: AttentionProbe | None = None

    def start(self) -> AttentionProbe | None:
        """The probe of the chunk that is sampled next."""
        if self._settings is not None:
            self._probe = AttentionProbe.from_settings(self._settings, self._num_blocks, self._sigmas)
        return self._probe

    def finish(self, chunk: Chunk, is_kept: bool) -> None:
        """Keep the shares of a chunk that is on disk now. What goes wrong is logged: the film does not need them."""
        try:
            if is_kept:
                self._take_over(chunk)
            elif self._probe is not None:
                self._write(chunk, self._probe.result())
        except JournalError as error:
            logger.warning("What chunk %d looked at could not be kept: %s", chunk.index, error)

    def _write(self, chunk: Chunk, shares: AttentionShares | None) -> None:
        if shares is None:
            logger.warning("No chosen step of chunk %d reached the model: nothing of it was looked at.", chunk.index)
            return
        path = attention_path(self._journal.folder, chunk.index)
        write_shares(path, shares, self._journal.record(chunk).sha256)

    def _take_over(self, chunk: Chunk) -> None:
        """A chunk of an earlier take brings its shares along."""
        folder, origin = self._journal.folder, self._journal.adopted.get(chunk.index)
        if origin is not None and read_shares(folder.parent / origin, chunk) is not None:
            share_file(attention_path(folder.parent / origin, chunk.index), attention_path(folder, chunk.index))
