"""Run: python -m pytest tests/core/test_euler.py"""

import itertools
import math

import pytest
import torch

from gloria_core.errors import PlanError
from gloria_core.sampling.euler import euler_flow
from gloria_core.sampling.guidance import guide, guided_velocity
from gloria_core.sampling.schedule import flow_sigmas, shift_sigmas, timestep_of


def test_sigmas_fall_strictly_from_one_to_zero():
    for steps in (1, 2, 30):
        for shift in (0.5, 1.0, 5.0, 8.0):
            sigmas = flow_sigmas(steps, shift)
            assert len(sigmas) == steps + 1
            assert sigmas[0] == 1
            assert sigmas[-1] == 0
            assert (sigmas.diff() < 0).all()


def test_shift_follows_its_closed_form():
    assert shift_sigmas(torch.tensor(0.5, dtype=torch.float64), 5.0).item() == pytest.approx(5 / 6)
    assert torch.equal(flow_sigmas(10, 1.0), torch.linspace(1, 0, 11, dtype=torch.float64))


def test_timesteps_reach_from_1000_to_0():
    assert (timestep_of(1.0), timestep_of(0.0)) == (1000, 0)


@pytest.mark.parametrize(("steps", "shift"), [(0, 5.0), (10, 0.0), (10, -1.0)])
def test_impossible_schedules_are_refused(steps, shift):
    with pytest.raises(PlanError):
        flow_sigmas(steps, shift)


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_a_straight_path_ends_exactly_at_the_data(steps):
    noise = torch.randn(1, 4, 3, 2, 2, dtype=torch.float64)
    data = torch.randn(1, 4, 3, 2, 2, dtype=torch.float64)
    result = euler_flow(lambda x, sigma: noise - data, noise, flow_sigmas(steps, 5.0))
    torch.testing.assert_close(result, data, rtol=0, atol=1e-12)


def test_the_exact_model_of_one_point_reaches_it_from_any_noise():
    # The only velocity field whose paths all end in `data`: (x - data) / sigma.
    data, noise = torch.randn(2, 1, 4, 3, 2, 2, dtype=torch.float64)
    result = euler_flow(lambda x, sigma: (x - data) / sigma, noise, flow_sigmas(7, 3.0))
    torch.testing.assert_close(result, data, rtol=0, atol=1e-12)


def test_a_velocity_that_depends_on_sigma_gives_the_left_riemann_sum_of_its_integral():
    sigmas = flow_sigmas(50, 5.0)
    result = euler_flow(lambda x, sigma: torch.tensor(2 * sigma), torch.tensor(0.0, dtype=torch.float64), sigmas)
    expected = sum(2 * float(a) * float(b - a) for a, b in itertools.pairwise(sigmas))
    assert result.item() == pytest.approx(expected, abs=1e-6)


def test_the_error_halves_when_the_steps_double():
    # dx/dsigma = x from sigma 1 to 0: the exact end is x(0) = x(1) / e.
    def error(steps: int) -> float:
        end = euler_flow(lambda x, sigma: x, torch.tensor(1.0, dtype=torch.float64), flow_sigmas(steps, 1.0))
        return abs(end.item() - math.exp(-1))

    assert error(400) / error(800) == pytest.approx(2, rel=0.01)


def test_on_step_sees_every_estimate_of_the_clean_sample():
    data, noise = torch.randn(2, 1, 4, 1, 2, 2, dtype=torch.float64)
    seen = []
    euler_flow(lambda x, sigma: noise - data, noise, flow_sigmas(4, 2.0), lambda i, x0: seen.append((i, x0)))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    for _, estimate in seen:
        torch.testing.assert_close(estimate, data, rtol=0, atol=1e-12)


def test_guidance_extrapolates_from_negative_through_positive():
    positive, negative = torch.tensor([2.0]), torch.tensor([1.0])
    assert guide(positive, negative, 0.0) == 1
    assert guide(positive, negative, 1.0) == 2
    assert guide(positive, negative, 3.5) == 4.5


def test_cfg_one_never_runs_the_negative():
    ran = []

    def predict(name: str) -> torch.Tensor:
        ran.append(name)
        return torch.ones(1)

    guided_velocity(predict, "positive", "negative", 1.0)
    assert ran == ["positive"]
    guided_velocity(predict, "positive", "negative", 3.5)
    assert ran == ["positive", "positive", "negative"]
