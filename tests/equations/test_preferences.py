"""Bradley-Terry against constants, a slow loop, identities, finite differences, and at the ends of the number line."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from tutelage.equations.preferences import bradley_terry_loss, log_preference_probability, preference_logit, preference_probability

ERRORS = [0.0, 1e-6, 0.1, 0.5]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, seed: int = 1) -> Tensor:
    """Left, right, ties and soft labels in equal parts."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, shape, generator=g)
    return torch.where(kind < 3, 0.5 * kind, torch.rand(shape, generator=g, dtype=torch.float64))


def one(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def test_probability_by_hand():
    logit = torch.tensor([math.log(3.0), 0.0, -math.log(3.0)], dtype=torch.float64)
    torch.testing.assert_close(preference_probability(logit), torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64))
    # 0.9 * 0.75 + 0.05
    torch.testing.assert_close(preference_probability(logit, 0.1), torch.tensor([0.725, 0.5, 0.275], dtype=torch.float64))


@pytest.mark.parametrize(
    ("label", "error", "smoothing", "expected"),
    [
        (1.0, 0.0, 0.0, math.log(4 / 3)),
        (0.0, 0.0, 0.0, math.log(4.0)),
        (0.5, 0.0, 0.0, 0.5 * math.log(4 / 3) + 0.5 * math.log(4.0)),
        (0.9, 0.0, 0.0, 0.9 * math.log(4 / 3) + 0.1 * math.log(4.0)),
        (1.0, 0.1, 0.0, -math.log(0.725)),
        (0.0, 0.1, 0.0, -math.log(0.275)),
        (1.0, 0.0, 0.2, 0.8 * math.log(4 / 3) + 0.2 * math.log(4.0)),
        (0.0, 0.0, 0.2, 0.2 * math.log(4 / 3) + 0.8 * math.log(4.0)),
        (0.5, 0.0, 0.2, 0.5 * math.log(4 / 3) + 0.5 * math.log(4.0)),
        (1.0, 0.1, 0.2, -0.8 * math.log(0.725) - 0.2 * math.log(0.275)),
    ],
)
def test_loss_by_hand(label: float, error: float, smoothing: float, expected: float):
    assert bradley_terry_loss(one(math.log(3.0)), one(label), error, smoothing).item() == pytest.approx(expected, abs=1e-12)


def test_a_contradicted_confident_prediction_hardly_pulls_under_rater_error():
    # The slopes of the facts sheet: at gap 5 from 0.993 to 0.107, at gap 10 from 1.0 to 0.0008.
    for gap, error, slope in [(5.0, 0.0, 0.993), (5.0, 0.1, 0.107), (10.0, 0.0, 1.0), (10.0, 0.1, 0.0008)]:
        logit = one(gap).requires_grad_()
        bradley_terry_loss(logit, one(0.0), error).sum().backward()
        assert logit.grad is not None
        assert logit.grad.item() == pytest.approx(slope, abs=6e-4 if slope > 0.01 else 6e-5)


@pytest.mark.parametrize("error", [0.0, 0.1])
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_against_a_loop_over_the_paper(error: float, smoothing: float):
    left, right, label = draw(4, 7), draw(4, 5, seed=2), labels(4)
    loss = bradley_terry_loss(preference_logit(left, right), label, error, smoothing)
    for i in range(4):
        a = math.exp(sum(float(r) for r in left[i]))
        b = math.exp(sum(float(r) for r in right[i]))
        first = (1 - error) * a / (a + b) + error / 2
        second = (1 - error) * b / (a + b) + error / 2
        target = (1 - smoothing) * float(label[i]) + smoothing * (1 - float(label[i]))
        assert float(loss[i]) == pytest.approx(-target * math.log(first) - (1 - target) * math.log(second), abs=1e-12)


@pytest.mark.parametrize("error", ERRORS)
def test_exchanging_the_items_exchanges_the_label(error: float):
    logit, label = 3 * draw(50), labels(50)
    torch.testing.assert_close(bradley_terry_loss(logit, label, error, 0.1), bradley_terry_loss(-logit, 1 - label, error, 0.1))
    both = preference_probability(logit, error) + preference_probability(-logit, error)
    torch.testing.assert_close(both, torch.ones_like(both))


def test_the_gradient_without_error_is_prediction_minus_label():
    logit, label = (3 * draw(50)).requires_grad_(), labels(50)
    (gradient,) = torch.autograd.grad(bradley_terry_loss(logit, label).sum(), logit)
    torch.testing.assert_close(gradient, torch.sigmoid(logit).detach() - label)


@pytest.mark.parametrize("error", ERRORS)
def test_the_likelihood_is_a_proper_score(error: float):
    """If the label is the true answer probability, the true logit minimizes the loss."""
    logit = (2 * draw(20)).requires_grad_()
    label = preference_probability(logit.detach(), error)
    (gradient,) = torch.autograd.grad(bradley_terry_loss(logit, label, error).sum(), logit)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_label_smoothing_has_its_optimum_where_the_formula_says():
    logit = one(math.log(0.9 / 0.1)).requires_grad_()
    (gradient,) = torch.autograd.grad(bradley_terry_loss(logit, one(1.0), label_smoothing=0.1).sum(), logit)
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_gradients_against_finite_differences(error: float, smoothing: float):
    label = labels(6)

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return bradley_terry_loss(preference_logit(left, right), label, error, smoothing)

    rewards = (draw(6, 3).requires_grad_(), draw(6, 4, seed=2).requires_grad_())
    assert gradcheck(loss, rewards)
    assert gradgradcheck(loss, rewards)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gap", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
def test_huge_gaps_stay_finite_and_right(dtype: torch.dtype, error: float, smoothing: float, gap: float, label: float):
    logit = torch.tensor([gap], dtype=dtype, requires_grad=True)
    loss = bradley_terry_loss(logit, torch.tensor([label], dtype=dtype), error, smoothing)
    (gradient,) = torch.autograd.grad(loss.sum(), logit, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), logit)
    # log P of the item that is ahead and of the one that is behind; e^-100 is nothing beside any of the errors
    ahead, behind = (0.0, -abs(gap)) if error == 0.0 else (math.log1p(-error / 2), math.log(error / 2))
    target = (1 - smoothing) * label + smoothing * (1 - label)
    weight = target if gap > 0 else 1 - target
    assert loss.item() == pytest.approx(-weight * ahead - (1 - weight) * behind, rel=1e-5, abs=1e-6)
    expected = 0.0 if error > 0.0 else (1 - weight) * math.copysign(1.0, gap)
    assert gradient.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert curvature.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("gap", [-30.0, -16.0, 16.0, 30.0])
def test_small_slopes_keep_their_digits_in_single_precision(error: float, gap: float):
    logit = torch.tensor([gap], requires_grad=True)
    (gradient,) = torch.autograd.grad(bradley_terry_loss(logit, torch.ones(1), error).sum(), logit)
    sigma, other = 1 / (1 + math.exp(-gap)), 1 / (1 + math.exp(gap))
    assert gradient.item() == pytest.approx(-(1 - error) * sigma * other / ((1 - error) * sigma + error / 2), rel=1e-4)


@pytest.mark.parametrize("error", [1e-50, 1e-6, 0.1, 0.5])  # 1e-50 itself is zero in single precision
def test_rater_error_caps_what_one_label_can_cost(error: float):
    loss = bradley_terry_loss(torch.linspace(0, 1000, 2001), torch.zeros(2001), error)
    assert (loss.diff() >= -1e-5).all()
    assert loss.max().item() == pytest.approx(-math.log(error / 2), rel=1e-6)


@pytest.mark.parametrize("error", ERRORS)
def test_the_logarithm_is_that_of_the_probability(error: float):
    logit = 5 * draw(50)
    torch.testing.assert_close(log_preference_probability(logit, error), preference_probability(logit, error).log())


def test_padding_changes_nothing():
    left, right, label = draw(3, 5), draw(3, 4, seed=2), labels(3)
    padded = [torch.cat((x, torch.full((3, 6), math.nan, dtype=x.dtype)), -1).requires_grad_() for x in (left, right)]
    masks = [torch.arange(x.shape[-1]).expand(3, -1) < n for x, n in zip(padded, (5, 4), strict=True)]
    plain = [x.clone().requires_grad_() for x in (left, right)]
    without = bradley_terry_loss(preference_logit(*plain), label, 0.1)
    within = bradley_terry_loss(preference_logit(*padded, *masks), label, 0.1)
    torch.testing.assert_close(within, without)
    gradients = torch.autograd.grad(within.sum(), padded)
    for gradient, expected, n in zip(gradients, torch.autograd.grad(without.sum(), plain), (5, 4), strict=True):
        torch.testing.assert_close(gradient[:, :n], expected)
        assert (gradient[:, n:] == 0).all()


def test_one_mask_serves_all_members():
    left, right = draw(2, 3, 5), draw(2, 3, 5, seed=2)  # 2 members, 3 pairs
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    logit = preference_logit(left, right, mask)
    for e in range(2):
        for i in range(3):
            assert float(logit[e, i]) == pytest.approx(float(left[e, i][mask[i]].sum() - right[e, i].sum()), abs=1e-12)
    label = labels(3)
    loss = bradley_terry_loss(logit, label)
    assert loss.shape == (2, 3)
    torch.testing.assert_close(loss[1], bradley_terry_loss(logit[1], label))


@pytest.mark.parametrize("error", [-0.1, 1.0, math.nan])
def test_an_impossible_rater_error_is_refused(error: float):
    with pytest.raises(ValueError, match=r"rater_error=.* was given; Bradley-Terry needs a number in \[0, 1\)"):
        bradley_terry_loss(one(0.0), one(1.0), error)
    with pytest.raises(ValueError, match="rater_error"):
        preference_probability(one(0.0), error)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_an_impossible_label_smoothing_is_refused(smoothing: float):
    with pytest.raises(ValueError, match=r"label_smoothing=.* was given; Bradley-Terry needs a number in \[0, 0.5\)"):
        bradley_terry_loss(one(0.0), one(1.0), label_smoothing=smoothing)
