"""Loss, noise levels, optimizers, rounding, averages. Run: python -m pytest tests/core/training/test_numerics.py"""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.errors import ConfigError, TrainingError
from gloria_core.sampling.euler import euler_flow
from gloria_core.training.config import (
    OptimizerConfig,
    PrecisionConfig,
    TimestepConfig,
    config_from_dict,
)
from gloria_core.training.config_file import read_config, write_config
from gloria_core.training.ema import Ema
from gloria_core.training.flow_matching import draw_sigma, noisy_latents, velocity_loss, velocity_target
from gloria_core.training.loss_bins import LossBins
from gloria_core.training.lr_schedule import learning_rate
from gloria_core.training.optimizer import build_optimizer
from gloria_core.training.presets import merge_settings, preset, preset_names, share_out_steps
from gloria_core.training.progress import SMOOTHING, Smoothed
from gloria_core.training.rounding import round_stochastically_


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- paper eq. 2 -----------------------------------------------------------------------------------------------------


def test_the_target_is_the_derivative_of_the_path_and_leads_back_to_the_data():
    clean, noise = randn(2, 3, 2, 4, 4).double(), randn(2, 3, 2, 4, 4, seed=1).double()
    low, high = torch.tensor([0.2, 0.5]), torch.tensor([0.4, 0.9])
    slope = (noisy_latents(clean, noise, high) - noisy_latents(clean, noise, low)) / (high - low).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(slope, velocity_target(clean, noise), rtol=1e-5, atol=1e-5)
    sigmas = torch.linspace(1, 0, 4)
    back = euler_flow(lambda x, sigma: velocity_target(clean, noise), noise.float(), sigmas)
    torch.testing.assert_close(back, clean.float(), rtol=1e-5, atol=1e-5)


def test_the_papers_sign_is_ours_mirrored():
    data, noise, t = randn(1, 1, 1, 2, 2), randn(1, 1, 1, 2, 2, seed=1), 0.3
    torch.testing.assert_close(noisy_latents(data, noise, torch.tensor([1 - t])), t * data + (1 - t) * noise)
    torch.testing.assert_close(velocity_target(data, noise), -(data - noise))


def test_the_loss_counts_only_counted_frames():
    target = torch.zeros(2, 3, 4, 2, 2)
    prediction = torch.arange(4.0).view(1, 1, 4, 1, 1).expand_as(target)
    counted = torch.tensor([[False, True, True, False], [True, True, True, True]])
    torch.testing.assert_close(velocity_loss(prediction, target, counted), torch.tensor([2.5, 3.5]))


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_noise_levels_follow_their_distribution(kind, shift):
    config = TimestepConfig(kind=kind, shift=shift, mean=0.5, std=0.8)
    sigmas = torch.tensor([draw_sigma(config, (idx + 0.5) / 20_000) for idx in range(20_000)])
    base = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    if kind == "logit_normal":
        base = torch.sigmoid(0.5 + 0.8 * randn(200_000))
    expected = shift * base / (1 + (shift - 1) * base)
    for quantile in (0.1, 0.5, 0.9):
        assert float(sigmas.quantile(quantile)) == pytest.approx(float(expected.quantile(quantile)), abs=0.006)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_a_range_cuts_the_distribution_without_bending_it(kind):
    whole, part = TimestepConfig(kind=kind), TimestepConfig(kind=kind, min=0.6, max=0.9)
    sigmas = [draw_sigma(whole, (idx + 0.5) / 5000) for idx in range(5000)]
    inside = sorted(sigma for sigma in sigmas if 0.6 <= sigma <= 0.9)
    cut = [draw_sigma(part, (idx + 0.5) / len(inside)) for idx in range(len(inside))]
    assert max(abs(a - b) for a, b in zip(inside, cut, strict=True)) < 2e-3
    assert draw_sigma(part, 0.0) == pytest.approx(0.6)
    assert draw_sigma(part, 1.0) == pytest.approx(0.9)


# --- optimizers ------------------------------------------------------------------------------------------------------


def train(dtype, update="fp32_master", name="adamw", steps=5, lr=1e-3, decay=0.1, start=None, seed=0, value=1.0):
    parameter = nn.Parameter(torch.full((64,), value, dtype=dtype) if start is None else start.to(dtype))
    config = OptimizerConfig(name=name, lr=lr, weight_decay=decay)
    optimizer = build_optimizer({"w": parameter}, config, PrecisionConfig(update=update), seed)
    for step in range(steps):
        parameter.grad = randn(64, seed=step).to(dtype)
        optimizer.step(lr, step)
    return parameter.detach(), optimizer, parameter


@pytest.mark.parametrize(("name", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_float32_weights_move_as_torchs_optimizer_moves_them(name, reference):
    mine, _, _ = train(torch.float32, name=name)
    other = nn.Parameter(torch.ones(64))
    optimizer = reference([other], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        other.grad = randn(64, seed=step)
        optimizer.step()
    assert torch.equal(mine, other)


def test_adam_decays_in_the_gradient_and_adamw_in_the_weight():
    """One step with no gradient: AdamW shrinks the weight by lr * decay, Adam takes a whole step of lr."""
    moved = {}
    for name in ("adam", "adamw"):
        parameter = nn.Parameter(torch.full((1,), 2.0))
        config = OptimizerConfig(name=name, lr=1e-2, weight_decay=0.1)
        optimizer = build_optimizer({"w": parameter}, config, PrecisionConfig(), 0)
        parameter.grad = torch.zeros(1)
        optimizer.step(1e-2, 0)
        moved[name] = 2.0 - parameter.item()
    assert moved["adamw"] == pytest.approx(2.0 * 1e-2 * 0.1, rel=1e-3)
    assert moved["adam"] == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("update", ["fp32_master", "kahan", "stochastic"])
def test_small_updates_survive_bfloat16(update):
    """200 equal steps of 1e-4 from 1.0, each far below half a unit of bfloat16 (2e-3)."""
    parameter = nn.Parameter(torch.ones(512, dtype=torch.bfloat16))
    optimizer = build_optimizer({"w": parameter}, OptimizerConfig(weight_decay=0.0), PrecisionConfig(update=update), 0)
    for step in range(200):
        parameter.grad = torch.ones(512, dtype=torch.bfloat16)
        optimizer.step(1e-4, step)
    assert parameter.float().mean().item() == pytest.approx(1 - 200e-4, abs=1.5e-3)
    plain = torch.ones(512, dtype=torch.bfloat16)
    for _ in range(200):
        plain -= 1e-4
    assert (plain == 1).all()  # what the three are for


def test_stochastic_rounding_is_unbiased_and_keeps_exact_values():
    value = torch.full((200_000,), 1 + 2**-7 * 0.3)
    weight = torch.empty(200_000, dtype=torch.bfloat16)
    round_stochastically_(weight, value, torch.Generator().manual_seed(0))
    assert set(weight.tolist()) == {1.0, 1 + 2**-7}
    assert weight.float().mean().item() == pytest.approx(value[0].item(), abs=3e-5)
    exact = torch.tensor([0.5, -3.0, 0.0])
    kept = torch.empty(3, dtype=torch.bfloat16)
    round_stochastically_(kept, exact, torch.Generator().manual_seed(0))
    assert torch.equal(kept.float(), exact)


@pytest.mark.parametrize(
    ("dtype", "update"),
    [(torch.float32, "fp32_master"), *((torch.bfloat16, u) for u in ("fp32_master", "kahan", "stochastic"))],
)
def test_saved_state_goes_on_bit_for_bit(dtype, update):
    whole, _, _ = train(dtype, update, steps=6)
    half, optimizer, _ = train(dtype, update, steps=3)
    saved = {key: tensor.clone() for key, tensor in optimizer.state_tensors().items()}
    parameter = nn.Parameter(half.clone())
    again = build_optimizer({"w": parameter}, OptimizerConfig(weight_decay=0.1), PrecisionConfig(update=update), 0)
    again.load_state_tensors(saved)
    for step in range(3, 6):
        parameter.grad = randn(64, seed=step).to(dtype)
        again.step(1e-3, step)
    assert torch.equal(parameter.detach(), whole)


def test_state_of_another_model_is_refused():
    _, optimizer, _ = train(torch.bfloat16)
    state = optimizer.state_tensors()
    with pytest.raises(TrainingError, match="does not train"):
        optimizer.load_state_tensors({f"{key}x": tensor for key, tensor in state.items()})
    with pytest.raises(TrainingError, match="lacks the precise part"):
        optimizer.load_state_tensors({key: tensor for key, tensor in state.items() if "master" not in key})


def test_clipping_is_torchs_and_returns_the_norm_before():
    gradients = [randn(5), randn(7, seed=1)]
    parameters = {str(idx): nn.Parameter(torch.zeros_like(g)) for idx, g in enumerate(gradients)}
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer = build_optimizer(parameters, OptimizerConfig(), PrecisionConfig(), 0)
    norm = optimizer.clip_gradients(0.5)
    assert norm.item() == pytest.approx(torch.cat(gradients).norm().item())
    clipped = torch.cat([parameter.grad for parameter in parameters.values()])
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-4)
    before = clipped.clone()
    optimizer.clip_gradients(0.0)
    assert torch.equal(torch.cat([parameter.grad for parameter in parameters.values()]), before)


def test_weights_without_a_gradient_stay():
    parameters = {name: nn.Parameter(torch.ones(3)) for name in "ab"}
    optimizer = build_optimizer(parameters, OptimizerConfig(weight_decay=0.5), PrecisionConfig(), 0)
    parameters["a"].grad = torch.ones(3)
    optimizer.step(0.1, 0)
    assert not torch.equal(parameters["a"], torch.ones(3))
    assert torch.equal(parameters["b"], torch.ones(3))


def test_eight_bit_adam_without_its_package_is_a_clear_error():
    pytest.importorskip("torch")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="bitsandbytes"):
            train(torch.float32, name="adamw8bit")


# --- schedules, averages, bins ---------------------------------------------------------------------------------------


def test_learning_rates():
    constant = OptimizerConfig(warmup_steps=4)
    assert [learning_rate(constant, 1.0, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = OptimizerConfig(schedule="linear")
    assert [learning_rate(linear, 2.0, step, 4) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]
    cosine = OptimizerConfig(schedule="cosine", warmup_steps=2)
    assert learning_rate(cosine, 1.0, 2, 10) == 1.0
    assert learning_rate(cosine, 1.0, 6, 10) == pytest.approx(0.5)


@pytest.mark.parametrize(("first_step", "decay"), [(0, 0.4), (0, 0.9), (100, 0.9)])
def test_average_closed_form_and_weights_back_bit_for_bit(first_step: int, decay: float):
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    ema = Ema({"w": parameter}, decay)
    with torch.no_grad():
        parameter.fill_(1.0)
    for step in range(first_step, first_step + 5):
        ema.update(step)
    kept = math.prod(min(decay, (1 + step) / (10 + step)) for step in range(first_step, first_step + 5))
    expected = torch.full((3,), 1 - kept)
    torch.testing.assert_close(ema.tensors()["w"], expected)
    with ema.applied():
        torch.testing.assert_close(parameter.float(), expected, rtol=1e-2, atol=0)
    assert torch.equal(parameter, torch.ones(3, dtype=torch.bfloat16))


def test_the_smoothed_loss_is_the_weighted_mean_from_the_first_step_on():
    losses = [9.0, 1.0, 1.0, 2.0]
    smoothed = Smoothed()
    assert smoothed.value is None
    for loss in losses:
        smoothed.add(loss)
    weights = [SMOOTHING**age for age in (3, 2, 1, 0)]
    assert smoothed.value == pytest.approx(sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))


def test_losses_are_kept_apart_by_noise_level():
    bins = LossBins()
    for sigma, loss in ((0.05, 1.0), (0.99, 3.0), (1.0, 3.0), (0.5, math.nan)):
        bins.add(sigma, loss)
    means = bins.means()
    assert (means[0], means[-1]) == (1.0, 3.0)
    assert means[1:-1] == [None] * 6
    other = LossBins()
    other.load_state(bins.state())
    assert other.means() == means


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_preset_is_a_whole_configuration(tmp_path):
    own = {"name": "anna", "base": "b.safetensors", "output": "run", "data": {"cache": "cache"}}
    for name in preset_names():
        config = config_from_dict(merge_settings(preset(name), own), name)
        write_config(tmp_path / "run.yaml", config)
        assert read_config(tmp_path / "run.yaml").stages == config.stages
        assert read_config(tmp_path / "run.yaml").base == str(tmp_path / "b.safetensors")
    assert config_from_dict(merge_settings(preset("paper_stages"), own)).total_steps == 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": {"rank": 0}}, "rank is 0"),
        ({"lora": {"ranks": 4}}, r"lora: unknown field\(s\) ranks"),
        ({"optimizer": {"lr": "fast"}}, "lr is 'fast', expected float"),
        ({"optimizer": {"name": "sgd"}}, "expected one of adamw, adam, adamw8bit"),
        ({"stages": []}, "stages is empty"),
        ({"stages": [{"name": "a", "steps": 1.5}]}, r"stages\[0\]: steps is 1.5, expected int"),
        ({"data": {"cache": "c", "frames": [80]}}, r"frames 80.*4n \+ 1"),
        ({"data": {"cache": "c", "viewpoint_shares": {"front": 1.0}}}, "viewpoint_shares needs exactly"),
        ({"checkpoints": {"keep_last": 1}}, "keep at least 2"),
        ({"method": "full", "precision": {"base": "fp8"}}, "use method lora"),
        ({"memory": {"checkpointing": False, "streamed_blocks": 2}}, "needs checkpointing"),
        ({"schema": 2}, "schema is 2"),
        ({"name": "a/b"}, "name is 'a/b'"),
    ],
)
def test_mistakes_in_settings_are_named(change, message):
    base = {"name": "a", "base": "b", "output": "o", "data": {"cache": "c"}, "stages": [{"name": "s", "steps": 1}]}
    with pytest.raises(ConfigError, match=message):
        config_from_dict({**base, **change})


@pytest.mark.parametrize("total", [4, 7, 100, 20_000])
def test_steps_are_shared_out_in_proportion(total):
    stages = preset("paper_stages")["stages"]
    shared = share_out_steps(stages, total)
    assert sum(stage["steps"] for stage in shared) == total
    assert min(stage["steps"] for stage in shared) >= 1
    if total == 20_000:
        assert shared == stages
    steps = [stage["steps"] for stage in shared]
    assert steps[1] == max(steps)
    assert all(a["name"] == b["name"] for a, b in itertools.zip_longest(stages, shared))
