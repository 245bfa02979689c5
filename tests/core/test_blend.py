"""Run: python -m pytest tests/core/test_blend.py"""

import pytest
import torch

from gloria_core.sampling.blend import blend_overlap, blend_weights
from gloria_core.sampling.film_file import film_pieces
from gloria_core.sampling.plan import plan_chunks


def test_four_latents_use_the_weights_of_the_paper():
    assert blend_weights(4) == (1.0, 0.67, 0.33, 0.0)


@pytest.mark.parametrize("num_overlap", [2, 3, 5, 8])
def test_other_lengths_fall_linearly_from_one_to_zero(num_overlap):
    weights = torch.tensor(blend_weights(num_overlap))
    torch.testing.assert_close(weights, torch.linspace(1, 0, num_overlap))


def test_a_single_overlapped_latent_stays_the_earlier_one():
    assert blend_weights(1) == (1.0,)


def test_blend_is_the_formula_of_the_supplement():
    x1, x2 = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    blended = blend_overlap(x1, x2, time_dim=0)
    for i, w in enumerate((1.0, 0.67, 0.33, 0.0)):
        torch.testing.assert_close(blended[i], w * x1[i] + (1 - w) * x2[i])
    assert torch.equal(blended[0], x1[0])
    assert torch.equal(blended[3], x2[3])


def test_blend_keeps_the_dtype():
    x = torch.randn(4, 3, 2, 2).bfloat16()
    assert blend_overlap(x, x, time_dim=0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("total", "chunk_latents", "prefix"), [(1, 9, 4), (9, 9, 4), (10, 9, 4), (40, 9, 4), (23, 5, 4)]
)
@pytest.mark.parametrize("blend", [True, False])
def test_the_streamed_film_equals_the_film_joined_in_memory(total, chunk_latents, prefix, blend):
    plan = plan_chunks(total, chunk_latents, prefix)
    generator = torch.Generator().manual_seed(1)
    chunks = [torch.randn(3, chunk.length, 2, 2, generator=generator) for chunk in plan.chunks]

    film = chunks[0]
    for chunk, latents in zip(plan.chunks[1:], chunks[1:], strict=True):
        end, start = film[:, -prefix:], latents[:, :prefix]
        weights = torch.tensor((1, 0.67, 0.33, 0))[: chunk.prefix].view(1, -1, 1, 1)
        overlap = weights * end + (1 - weights) * start if blend else end
        film = torch.cat([film[:, :-prefix], overlap, latents[:, prefix:]], dim=1)

    streamed = torch.cat(list(film_pieces(plan, lambda chunk: chunks[chunk.index], blend)))
    assert streamed.shape == (total, 3, 2, 2)
    assert torch.equal(streamed.transpose(0, 1), film)
