"""Divergences against torch's, quadrature and enumeration; the estimators' bias and gradients in expectation, exactly."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from tutelage.equations.divergences import kl_bernoulli, kl_categorical, kl_gaussian, kl_k1, kl_k2, kl_k3


def draws(*shape: int, n: int = 4, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(n)]


def test_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    fair, biased = row(0.5, 0.5).log(), row(0.25, 0.75).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(kl_categorical(fair, biased + 7.0)) == pytest.approx(expected, abs=1e-15)  # logits need no normalization
    assert float(kl_bernoulli(row(0.0), row(math.log(3)))) == pytest.approx(expected, abs=1e-15)
    assert float(kl_gaussian(row(1.0), row(0.0), row(3.0), row(math.log(2)))) == pytest.approx(math.log(2) + 5 / 8 - 0.5, abs=1e-15)


def test_against_torch():
    a, b, c, d = draws(6, 4)
    torch.testing.assert_close(kl_categorical(a, b), kl_divergence(Categorical(logits=a), Categorical(logits=b)))
    torch.testing.assert_close(kl_bernoulli(a, b), kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)).sum(-1))
    torch.testing.assert_close(kl_gaussian(a, c, b, d), kl_divergence(Normal(a, c.exp()), Normal(b, d.exp())).sum(-1))


def test_the_gaussian_against_quadrature():
    p, q = Normal(0.3, 0.7), Normal(-0.5, 1.1)
    x = torch.linspace(-10.0, 10.0, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    row = lambda y: torch.tensor([y], dtype=torch.float64)
    assert float(kl_gaussian(row(0.3), row(math.log(0.7)), row(-0.5), row(math.log(1.1)))) == pytest.approx(float(integral), abs=1e-6)


def test_zero_between_equals_and_positive_elsewhere():
    a, b, c, d = draws(50, 3)
    for same in (kl_categorical(a, a), kl_bernoulli(a, a), kl_gaussian(a, b, a, b)):
        torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-15, rtol=0.0)
    for other in (kl_categorical(a, b), kl_bernoulli(a, b), kl_gaussian(a, c, b, d)):
        assert (other > 0.0).all()


def test_near_equals_single_precision_keeps_the_digits():
    """Widths that differ by h: KL = h^2 + O(h^3). From s and not from expm1, its terms near 1e-8 would drown in the rounding of 1."""
    h = torch.tensor([1e-4, 2e-4, 3e-4, 5e-4, 7e-4])[:, None]
    zero = torch.zeros_like(h)
    exact = kl_gaussian(zero.double(), h.double(), zero.double(), zero.double())
    torch.testing.assert_close(kl_gaussian(zero, h, zero, zero).double(), exact, rtol=5e-3, atol=0.0)
    torch.testing.assert_close(exact, h[:, 0].double().square(), rtol=1e-3, atol=0.0)


def test_an_impossible_choice_adds_nothing_and_has_no_gradient():
    a, b, *_ = draws(3, 5)
    a[:, 2], b[:, 2] = -math.inf, -math.inf
    a[:, 4] = -math.inf  # impossible for p, possible for q
    a.requires_grad_()
    b.requires_grad_()
    got = kl_categorical(a, b)
    possible = [0, 1, 3]
    p, q = a[:, possible].softmax(-1), b.softmax(-1)[:, possible]
    torch.testing.assert_close(got, (p * (p / q).log()).sum(-1))
    grad_a, grad_b = torch.autograd.grad(got.sum(), (a, b))
    assert grad_a.isfinite().all() and grad_b.isfinite().all()
    assert not grad_a[:, [2, 4]].any() and not grad_b[:, 2].any()


def test_gradients_are_those_of_finite_differences():
    a, b, c, d = (x.requires_grad_() for x in draws(3, 2))
    for f, x in ((kl_categorical, (a, b)), (kl_bernoulli, (a, b)), (kl_gaussian, (a, c, b, d))):
        assert torch.autograd.gradcheck(f, x) and torch.autograd.gradgradcheck(f, x)


# --- estimators: expectations over p by enumeration of five outcomes -------------------------------------------------------


def expectation(estimator, p: Tensor, q: Tensor) -> Tensor:
    logp, logq = p.log_softmax(-1), q.log_softmax(-1)
    return (logp.detach().exp() * estimator(logp, logq)).sum()


def test_estimators_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    logp, logq = row(0.5, 0.25).log(), row(0.25, 0.5).log()  # r = 1/2, 2
    torch.testing.assert_close(kl_k1(logp, logq), row(math.log(2), -math.log(2)))
    torch.testing.assert_close(kl_k2(logp, logq), row(0.5 * math.log(2) ** 2, 0.5 * math.log(2) ** 2))
    torch.testing.assert_close(kl_k3(logp, logq), row(-0.5 + math.log(2), 1 - math.log(2)))


def test_k1_and_k3_are_unbiased_and_k2_to_third_order():
    p, shift, *_ = draws(5)
    exact = lambda q: kl_categorical(p, q)
    for estimator in (kl_k1, kl_k3):
        torch.testing.assert_close(expectation(estimator, p, p + shift), exact(p + shift))
    bias = lambda h: abs(float(expectation(kl_k2, p, p + h * shift) - exact(p + h * shift)))
    assert bias(1.0) > 1e-3
    assert bias(1e-2) / bias(5e-3) == pytest.approx(8.0, rel=0.05)  # third order


def test_k2_and_k3_are_never_negative_and_k1_is():
    logp, logq, *_ = draws(500)
    assert (kl_k2(logp, logq) >= 0.0).all() and (kl_k3(logp, logq) >= 0.0).all() and (kl_k1(logp, logq) < 0.0).any()


def test_their_gradients_are_what_the_docstrings_say():
    p, q, *_ = draws(5)
    p.requires_grad_()
    q.requires_grad_()
    grad = lambda value: torch.autograd.grad(value, (p, q))
    in_p, in_q = grad(kl_categorical(p, q))
    reverse_in_p = grad(kl_categorical(q, p))[0]
    k1, k2, k3 = (grad(expectation(estimator, p, q)) for estimator in (kl_k1, kl_k2, kl_k3))
    torch.testing.assert_close(k1[0], torch.zeros_like(p), atol=1e-15, rtol=0.0)
    torch.testing.assert_close(k1[1], in_q)
    torch.testing.assert_close(k2[0], in_p)
    assert (k2[1] - in_q).abs().max() > 1e-2
    torch.testing.assert_close(k3[0], reverse_in_p)
    assert (k3[0] - in_p).abs().max() > 1e-2
    torch.testing.assert_close(k3[1], in_q)


def test_estimators_of_three_tokens():
    logp, reference = torch.tensor([-1.0, -2.0, -0.5]).double(), torch.tensor([-1.2, -1.5, -0.6]).double()
    sums = [estimator(logp, reference).sum().item() for estimator in (kl_k1, kl_k2, kl_k3)]
    assert sums == pytest.approx([-0.2, 0.15, 0.1723], abs=5e-5)  # the first is negative, and rightly
