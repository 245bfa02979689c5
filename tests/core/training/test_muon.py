"""Muon beside AdamW against closed forms. Run: pytest tests/core/training/test_muon.py"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent))
from toy_run import toy_config

from gloria_core.errors import ConfigError
from gloria_core.training.config import OptimizerConfig, PrecisionConfig
from gloria_core.training.optimizer import build_optimizer

MUON = OptimizerConfig(name="muon", lr=0.01, weight_decay=0.0, clip_norm=0.0)
FLOAT32 = PrecisionConfig(compute="float32")
SHAPES = {"blocks.0.ffn.0.weight": (48, 32), "blocks.0.conv.weight": (8, 4, 3, 1, 1), "blocks.0.ffn.0.bias": (48,),
          "blocks.0.modulation": (1, 6, 32), "head.head.weight": (64, 32)}  # fmt: skip
MATRICES = ("blocks.0.ffn.0.weight", "blocks.0.conv.weight")


def make_parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()}


def take_steps(parameters, optimizer, num, first=0):
    for step in range(first, first + num):
        for idx, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(100 * step + idx)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step(MUON.lr, step)


def test_a_matrix_moves_orthogonally_by_the_size_of_an_adamw_step():
    parameters = make_parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    take_steps(parameters, build_optimizer(parameters, MUON, FLOAT32, 0), 1)
    for name in MATRICES:
        moved = (parameters[name] - before[name]).detach().flatten(1)
        singular = torch.linalg.svdvals(moved) / (MUON.lr * 0.2 * max(moved.shape) ** 0.5)
        # Five Newton-Schulz steps bring every singular value near 1, whatever it was in the gradient.
        assert singular.min() > 0.5, name
        assert singular.max() < 1.4, name
        assert 0.1 < moved.square().mean().sqrt() / MUON.lr < 0.3, name


def test_everything_else_moves_as_torchs_adamw_moves_it():
    ours, theirs = make_parameters(), make_parameters()
    reference = torch.optim.AdamW(
        [p for name, p in theirs.items() if name not in MATRICES], lr=MUON.lr, betas=MUON.betas, eps=MUON.eps,
        weight_decay=0.0,
    )  # fmt: skip
    take_steps(ours, build_optimizer(ours, MUON, FLOAT32, 0), 3)
    for step in range(3):
        for idx, parameter in enumerate(theirs.values()):
            generator = torch.Generator().manual_seed(100 * step + idx)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        reference.step()
    for name in set(SHAPES) - set(MATRICES):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_state_goes_on_bit_for_bit(dtype):
    unbroken = make_parameters(dtype)
    optimizer = build_optimizer(unbroken, MUON, PrecisionConfig(), 0)
    take_steps(unbroken, optimizer, 2)
    saved = {key: tensor.clone() for key, tensor in optimizer.state_tensors().items()}
    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in unbroken.items()}
    again = build_optimizer(resumed, MUON, PrecisionConfig(), 0)
    again.load_state_tensors(saved)
    take_steps(unbroken, optimizer, 2, first=2)
    take_steps(resumed, again, 2, first=2)
    for name in SHAPES:
        assert torch.equal(unbroken[name], resumed[name]), name


def test_muon_is_refused_where_it_cannot_work(tmp_path):
    lora = toy_config(tmp_path)
    with pytest.raises(ConfigError, match="whole weights"):
        replace(lora, optimizer=MUON)
