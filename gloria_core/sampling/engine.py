"""A chunk plan and a way to denoise one chunk enter, a journal holding every chunk of the film leaves.

The only loop over chunks in the project: ComfyUI's samplers and the core's own solver both run behind `denoise`.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from .journal import Journal
from .plan import Chunk, ChunkPlan, chunk_seed

# (chunk, its seed, the latents [1, C, prefix, h, w] it continues or None) -> clean latents [1, C, length, h, w]
Denoise = Callable[[Chunk, int, Tensor | None], Tensor]


def run_chunks(
    plan: ChunkPlan,
    seed: int,
    journal: Journal,
    denoise: Denoise,
    on_chunk: Callable[[Chunk, bool], None] | None = None,
    own_seeds: Mapping[int, int] | None = None,
) -> None:
    """Bring every chunk of the film to disk, denoising only those that are not there yet.

    The prefix is always read back from disk, so a resumed run sees the same bits as an unbroken one.

    Args:
        on_chunk: called after each chunk with whether it was kept from an earlier run.
        own_seeds: seeds of single chunks by index; the others derive theirs from `seed`.
    """
    for chunk in plan.chunks:
        seed_of_chunk = (own_seeds or {}).get(chunk.index, chunk_seed(seed, chunk.index))
        prefix = journal.prefix_for(chunk)
        is_kept = journal.holds(chunk, seed_of_chunk, prefix) or journal.adopt(chunk, seed_of_chunk, prefix)
        if not is_kept:
            # A copy: a sampler that writes into its inputs must not change what the record says was continued.
            given = None if prefix is None else prefix.clone()
            journal.commit(chunk, seed_of_chunk, prefix, denoise(chunk, seed_of_chunk, given))
        if on_chunk is not None:
            on_chunk(chunk, is_kept)
