"""The surrogates against constants, slow loops and the gradients that define them."""

import math

import pytest
import torch
from torch import Tensor

from tutelage.equations.surrogates import clipped_surrogate, clipped_value_loss, importance_surrogate, policy_gradient_surrogate


def draws(*shape: int, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3)]


def gradient(f, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def test_the_policy_gradient_is_the_weight():
    logp, weight, _ = draws(5)
    weight.requires_grad_()
    surrogate = policy_gradient_surrogate(logp, weight)
    torch.testing.assert_close(surrogate.detach(), logp * weight.detach())
    assert not surrogate.requires_grad
    assert torch.equal(gradient(lambda x: policy_gradient_surrogate(x, weight), logp), weight.detach())


def test_by_enumeration_the_importance_surrogate_has_the_policy_gradient_at_the_old_policy():
    """Three actions: grad sum_a pi_old(a) rho(a) A(a) = sum_a pi(a) grad log pi(a) A(a) = sum_a grad pi(a) A(a), where pi = pi_old."""
    logits, advantage, other = draws(3)
    old = logits.log_softmax(-1)
    surrogate = lambda x: old.exp() * importance_surrogate(x.log_softmax(-1), old, advantage)
    expected = gradient(lambda x: x.softmax(-1) * advantage, logits)
    torch.testing.assert_close(gradient(surrogate, logits), expected)
    # and away from it the surrogate is the exact expected advantage, so the gradient still that of sum_a pi(a) A(a)
    torch.testing.assert_close(surrogate(other), other.softmax(-1) * advantage)


def test_the_clipped_surrogate_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    logp = row(1.5, 1.5, 0.5, 0.5, 1.1, 0.9).log()
    got = clipped_surrogate(logp, torch.zeros(6, dtype=torch.float64), row(2, -2, 2, -2, 2, -2), 0.2)
    torch.testing.assert_close(got, row(2.4, -3.0, 1.0, -1.6, 2.2, -1.8))


def test_the_clipped_surrogate_is_flat_exactly_where_it_would_rise_further():
    logp, old, advantage = draws(200)
    got = gradient(lambda x: clipped_surrogate(x, old, advantage, 0.2), logp)
    for i in range(200):
        ratio, a = math.exp(float(logp[i] - old[i])), float(advantage[i])
        clipped = (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8)
        assert float(got[i]) == pytest.approx(0.0 if clipped else ratio * a, abs=1e-12)
    assert (got == 0.0).any() and (got != 0.0).any()


def test_the_clipped_surrogate_is_a_pessimistic_bound_and_tight_at_the_old_policy():
    logp, old, advantage = draws(200)
    plain = importance_surrogate(logp, old, advantage)
    assert (clipped_surrogate(logp, old, advantage, 0.2) <= plain).all()
    torch.testing.assert_close(clipped_surrogate(logp, old, advantage, math.inf), plain)
    assert torch.equal(clipped_surrogate(old, old, advantage, 0.2), advantage)
    torch.testing.assert_close(
        gradient(lambda x: clipped_surrogate(x, old, advantage, 0.2), old), gradient(lambda x: importance_surrogate(x, old, advantage), old)
    )


def test_the_clipped_value_loss_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    got = clipped_value_loss(row(2, 2, 0.05, -1), row(0, 0, 0, 0), row(3, 0, 1, 1), 0.1)
    # clipped to 0.1, 0.1, 0.05, -0.1: the larger of both squares, halved
    torch.testing.assert_close(got, 0.5 * row(2.9**2, 2**2, 0.95**2, 2**2))


def test_the_clipped_value_loss_never_falls_below_the_plain_one():
    value, old, target = draws(200)
    plain = 0.5 * (value - target).square()
    assert (clipped_value_loss(value, old, target, 0.2) >= plain).all()
    torch.testing.assert_close(clipped_value_loss(value, old, target, math.inf), plain)
    torch.testing.assert_close(gradient(lambda x: clipped_value_loss(x, old, target, math.inf), value), value - target)


def test_gradients_reach_the_new_policy_and_the_new_value_only():
    new, old, third = (x.requires_grad_() for x in draws(4))
    for result in (
        policy_gradient_surrogate(new, third),
        importance_surrogate(new, old, third),
        clipped_surrogate(new, old, third, 0.2),
        clipped_value_loss(new, old, third, 0.2),
    ):
        first, *others = torch.autograd.grad(result.sum(), (new, old, third), allow_unused=True)
        assert first is not None and first.abs().sum() > 0.0 and others == [None, None]


def test_four_tokens_of_an_answer():
    ratio, advantage = torch.tensor([1.5, 0.7, 1.1, 0.9]).double(), torch.tensor([1.0, -1.0, 2.0, -0.5]).double()
    surrogate = clipped_surrogate(ratio.log(), torch.zeros(4).double(), advantage, 0.2)
    assert (-surrogate).tolist() == pytest.approx([-1.2, 0.8, -2.2, 0.45])
    assert -surrogate.mean().item() == pytest.approx(-0.5375)
    value, old, target = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.1]), torch.tensor([0.8, 0.5])
    assert (2.0 * clipped_value_loss(value, old, target, 0.2)).tolist() == pytest.approx([0.04, 0.25])
    assert clipped_value_loss(value, old, target, 0.2).mean().item() == pytest.approx(0.0725)
