"""A film length and a chunk size enter, the list of chunks that covers every latent leaves.

Chunks overlap by `prefix_latents`: the last latents of one chunk are the given first latents of the next
(paper, section 4.3). All counts are latent frames; pixels are converted in `shapes.py`.
"""

import hashlib
import re
from dataclasses import dataclass

from ..errors import PlanError

PREFIX_LATENTS = 4
MAX_SEED = 2**64 - 1
_SEED = re.compile(r"\s*(\d{1,9})\s*:\s*(\d{1,20})\s*", re.ASCII)


@dataclass(frozen=True)
class Chunk:
    """One piece of the film that is sampled at once.

    Args:
        start: global index of its first latent, prefix included.
        length: latents, prefix included.
        prefix: first latents of this chunk that come from the chunk before.
    """

    index: int
    start: int
    length: int
    prefix: int

    @property
    def stop(self) -> int:
        """Global index after its last latent."""
        return self.start + self.length

    @property
    def num_new(self) -> int:
        """Latents that this chunk adds to the film."""
        return self.length - self.prefix


@dataclass(frozen=True)
class ChunkPlan:
    """All chunks of a film, in order."""

    total_latents: int
    chunk_latents: int
    prefix_latents: int
    chunks: tuple[Chunk, ...]


def plan_chunks(total_latents: int, chunk_latents: int, prefix_latents: int = PREFIX_LATENTS) -> ChunkPlan:
    """Cut a film into chunks of `chunk_latents` whose first `prefix_latents` repeat the end of the one before."""
    if total_latents < 1:
        raise PlanError(f"A film needs at least 1 latent frame, got {total_latents}.")
    if prefix_latents < 0:
        raise PlanError(f"The prefix is a number of latent frames from 0 up, got {prefix_latents}.")
    if chunk_latents <= prefix_latents:
        raise PlanError(
            f"A chunk of {chunk_latents} latent frames with a prefix of {prefix_latents} would add no new frame. "
            f"Make the chunk longer than {prefix_latents} latent frames or the prefix shorter."
        )
    chunks = [Chunk(index=0, start=0, length=min(chunk_latents, total_latents), prefix=0)]
    while chunks[-1].stop < total_latents:
        start = chunks[-1].stop - prefix_latents
        length = min(chunk_latents, total_latents - start)
        chunks.append(Chunk(len(chunks), start, length, prefix_latents))
    return ChunkPlan(total_latents, chunk_latents, prefix_latents, tuple(chunks))


def chunk_seed(seed: int, index: int) -> int:
    """Seed of chunk `index`; chunk 0 keeps the film's own, so a film of one chunk equals a plain sampler run."""
    if not 0 <= seed <= MAX_SEED:
        raise PlanError(f"A seed is a whole number from 0 to {MAX_SEED}, got {seed}.")
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"gloria chunk {seed} {index}".encode()).digest()[:8], "big")


def parse_seeds(text: str, plan: ChunkPlan) -> dict[int, int]:
    """Seeds given to single chunks, written `3: 1234, 7: 99`, by chunk index."""
    seeds: dict[int, int] = {}
    for part in filter(str.strip, re.split(r"[,\n]", text)):
        match = _SEED.fullmatch(part)
        if match is None or int(match[2]) > MAX_SEED:
            raise PlanError(
                f"seeds holds {part.strip()[:40]!r}, expected a chunk and its seed (0 to {MAX_SEED}), "
                "for example '3: 1234, 7: 99'."
            )
        index = int(match[1])
        if index >= len(plan.chunks) or index in seeds:
            problem = "names it twice" if index in seeds else f"the film has chunks 0 to {len(plan.chunks) - 1}"
            raise PlanError(f"seeds gives a seed to chunk {index}, but {problem}. Take it out of seeds.")
        seeds[index] = int(match[2])
    return seeds
