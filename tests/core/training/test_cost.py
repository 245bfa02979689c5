"""Useful operations against those that PyTorch counts. Run: python -m pytest tests/core/training/test_cost.py"""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import TOY_T2V
from gloria_core.sampling.cost import DiTShape
from gloria_core.training.activation_checkpointing import checkpoint_blocks
from gloria_core.training.config import LoraConfig
from gloria_core.training.cost import flop_utilisation, useful_flops
from gloria_core.training.lora import add_lora

CONFIG = replace(TOY_T2V, dim=128, ffn_dim=320, num_heads=1, num_layers=3, text_dim=16)
TEXT_TOKENS, TOKENS = 5, 3 * 4 * 4
SHAPE = DiTShape(dim=128, ffn_dim=320, num_layers=3, context_tokens=TEXT_TOKENS)


def counted(rank=None, recompute=False):
    """Matrix operations in the blocks, forward and backward; without a rank every weight is trained."""
    torch.manual_seed(0)
    model = GloriaDiT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    if rank is not None:
        model.requires_grad_(False)
        add_lora(model, LoraConfig(rank=rank))
    if recompute:
        checkpoint_blocks(model)
    x, text = torch.randn(1, 16, 3, 8, 8), torch.randn(1, TEXT_TOKENS, 16)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, torch.tensor([500.0]), text).square().mean().backward()
    blocks = [counter.get_flop_counts()[f"GloriaDiT.blocks.{idx}"] for idx in range(CONFIG.num_layers)]
    return sum(sum(operations.values()) for operations in blocks)


def without_adapters(**options):
    """Operations grow linearly with the rank; this is where the line meets rank 0."""
    return 2 * counted(1, **options) - counted(2, **options)


def test_useful_operations_of_a_lora_are_what_is_computed_without_checkpointing():
    assert without_adapters() == useful_flops(SHAPE, TOKENS, trains_base=False)


def test_useful_operations_of_full_training_are_what_is_computed_without_checkpointing():
    dim, text, time = CONFIG.dim, CONFIG.text_dim, CONFIG.freq_dim
    weights = TEXT_TOKENS * dim * (text + dim) + dim * (time + dim + 6 * dim)
    inputs = TEXT_TOKENS * dim * dim + dim * (dim + 6 * dim)
    # PyTorch counts the gradients of the text and time embeddings among the block's that it reaches them from.
    assert counted() == useful_flops(SHAPE, TOKENS, trains_base=True) + 2 * (weights + inputs)


def test_recomputation_is_not_useful():
    assert without_adapters(recompute=True) > 1.2 * useful_flops(SHAPE, TOKENS, trains_base=False)


def test_a_14b_sample_at_480p_needs_what_is_known():
    """785 linear and 893 attention teraflops forward, both once more for the gradient, attention twice."""
    shape = DiTShape(dim=5120, ffn_dim=13824, num_layers=40, context_tokens=512)
    assert useful_flops(shape, 21 * 30 * 52, trains_base=False) / 1e12 == pytest.approx(4249, rel=0.01)
    assert useful_flops(shape, 21 * 30 * 52, trains_base=True) / 1e12 == pytest.approx(5035, rel=0.01)


def test_utilisation_is_a_share_of_the_peak():
    assert flop_utilisation(50e12, 0.1, 1000e12) == pytest.approx(0.5)
