"""The tanh-Gaussian head against quadrature, the change of variables and finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from tutelage.nets.tanh_gaussian import tanh_gaussian, tanh_gaussian_mode

CASES = [(0.0, 0.0), (0.8, -0.5), (-1.5, 0.3), (0.3, -3.0), (0.0, 1.0)]


def head(mean: float, log_std: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """Action and log-density at given u `[N]`, for one action entry."""
    output = torch.tensor([mean, log_std], dtype=u.dtype).expand(len(u), 2)
    return tanh_gaussian(output, ((u - mean) / math.exp(log_std))[:, None])


@pytest.mark.parametrize(("mean", "log_std"), CASES)
def test_the_density_integrates_to_one(mean: float, log_std: float):
    u = mean + math.exp(log_std) * torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
    a, logp = head(mean, log_std, u)
    # Over a in (-1, 1), on the images of an even grid of u: the points crowd where the density is steep.
    assert torch.trapezoid(logp.exp(), a[:, 0]).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), CASES)
def test_the_log_density_is_the_change_of_variables(mean: float, log_std: float):
    u = torch.linspace(-4.0, 4.0, 101, dtype=torch.float64)
    a, logp = head(mean, log_std, u)
    torch.testing.assert_close(a[:, 0], u.tanh())
    normal = Normal(torch.tensor(mean, dtype=u.dtype), torch.tensor(math.exp(log_std), dtype=u.dtype))
    by_hand = normal.log_prob(u) - (1.0 - u.tanh().square()).log()
    torch.testing.assert_close(logp, by_hand, atol=1e-9, rtol=1e-9)
    torchs = TransformedDistribution(normal, [TanhTransform()])
    torch.testing.assert_close(logp, torchs.log_prob(a[:, 0]), atol=1e-6, rtol=1e-6)


def test_entries_of_an_action_add_up():
    g = torch.Generator().manual_seed(0)
    output, noise = torch.randn(7, 6, generator=g), torch.randn(7, 3, generator=g)
    a, logp = tanh_gaussian(output, noise)
    each = [tanh_gaussian(output[:, [i, i + 3]], noise[:, [i]]) for i in range(3)]
    torch.testing.assert_close(a, torch.cat([action for action, _ in each], 1))
    torch.testing.assert_close(logp, torch.stack([l for _, l in each]).sum(0))


def test_gradients_are_those_of_finite_differences():
    g = torch.Generator().manual_seed(1)
    output = torch.randn(4, 4, generator=g, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 2, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: tanh_gaussian(x, noise), (output,))


@pytest.mark.parametrize("u", [-20.0, 20.0, -60.0, 60.0])
def test_far_out_the_log_density_and_its_gradient_stay_exact(u: float):
    output = torch.tensor([[u, 0.0]], requires_grad=True)
    a, logp = tanh_gaussian(output, torch.zeros(1, 1))
    assert a.abs().item() == 1.0  # float32: the plain log(1 - a^2) would be -inf
    expected = -0.5 * math.log(2.0 * math.pi) - (2.0 * math.log(2.0) - 2.0 * abs(u))  # log(1 - tanh^2) -> log 4 - 2|u|
    assert logp.item() == pytest.approx(expected, rel=1e-6)
    [gradient] = torch.autograd.grad(logp.sum(), output)
    assert gradient[0, 0].item() == pytest.approx(2.0 * math.copysign(1.0, u), rel=1e-6)


def test_the_width_is_clamped_and_outside_learns_nothing():
    noise = torch.ones(1, 1)
    for given, used in ((-9.0, -5.0), (7.0, 2.0)):
        output = torch.tensor([[0.1, given]], requires_grad=True)
        a, logp = tanh_gaussian(output, noise)
        assert a.item() == pytest.approx(math.tanh(0.1 + math.exp(used)), rel=1e-6)
        assert torch.autograd.grad(logp.sum(), output)[0][0, 1] == 0.0


def test_the_mode_is_the_action_without_noise():
    output = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(tanh_gaussian_mode(output), tanh_gaussian(output, torch.zeros(2, 5, 3))[0])
