"""DPO and its neighbors against the constants of one worked pair, identities, the ends of the number line and finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tutelage.equations.direct_preferences import (
    dpo_logit,
    hinge_loss,
    implicit_reward,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_odds,
    modpo_logit,
    robust_dpo_loss,
    simpo_logit,
)
from tutelage.equations.preferences import bradley_terry_loss


def one(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = one(-12.0), one(-15.0), one(-13.0), one(-14.5)
LENGTHS = (6, 5)
GAP = dpo_logit(CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, 1.0)
LOGIT = dpo_logit(CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, 0.1)


def test_the_worked_pair():
    assert GAP.item() == 1.5
    assert implicit_reward(CHOSEN, REFERENCE_CHOSEN, 0.1).item() == pytest.approx(0.1)
    assert implicit_reward(REJECTED, REFERENCE_REJECTED, 0.1).item() == pytest.approx(-0.05)
    sure = one(1.0)
    mean_chosen, mean_rejected = CHOSEN / LENGTHS[0], REJECTED / LENGTHS[1]
    mean_gap = dpo_logit(mean_chosen, mean_rejected, REFERENCE_CHOSEN / LENGTHS[0], REFERENCE_REJECTED / LENGTHS[1], 1.0)
    odds = log_odds(mean_chosen) - log_odds(mean_rejected)
    odds_term = bradley_terry_loss(odds, sure)
    reached = {
        "dpo": bradley_terry_loss(LOGIT, sure),
        "cdpo": bradley_terry_loss(LOGIT, sure, label_smoothing=0.1),
        "robust": robust_dpo_loss(LOGIT, 0.1),
        "hinge": hinge_loss(LOGIT),
        "ipo": ipo_loss(GAP, 0.1),
        "ipo of means": ipo_loss(mean_gap, 0.1),
        "simpo": bradley_terry_loss(simpo_logit(mean_chosen, mean_rejected, 2.0, 1.0), sure),
        "log odds ratio": odds,
        "odds term": odds_term,
        "orpo": 2.0 + 0.1 * odds_term,
        "kto good": kto_loss(CHOSEN - REFERENCE_CHOSEN, torch.tensor([True]), torch.tensor(0.2, dtype=torch.float64), 0.1),
        "kto bad": kto_loss(REJECTED - REFERENCE_REJECTED, torch.tensor([False]), torch.tensor(0.2, dtype=torch.float64), 0.1),
    }
    expected = {
        "dpo": 0.6209570, "cdpo": 0.6359570, "robust": 0.6022070, "hinge": 0.85, "ipo": 12.25, "ipo of means": 22.404444,
        "simpo": 0.3132617, "log odds ratio": 1.0943443, "odds term": 0.2887507, "orpo": 2.0288751, "kto good": 0.4800107,
        "kto bad": 0.4825071,
    }  # fmt: skip
    assert {name: value.item() for name, value in reached.items()} == pytest.approx(expected, abs=5e-7)


def test_the_gradient_of_dpo_is_weighted_by_its_mistake():
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = bradley_terry_loss(dpo_logit(chosen, rejected, REFERENCE_CHOSEN, REFERENCE_REJECTED, 0.1), one(1.0))
    of_chosen, of_rejected = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert of_chosen.item() == pytest.approx(-0.0462570, abs=5e-8)  # -beta sigma(-beta h)
    assert of_rejected.item() == -of_chosen.item()


def test_at_the_start_nothing_is_learned_yet():
    logit = dpo_logit(CHOSEN, REJECTED, CHOSEN, REJECTED, 0.1)
    assert logit.item() == 0.0  # so that an accuracy that counts logit > 0 is 0
    assert bradley_terry_loss(logit, one(1.0)).item() == pytest.approx(math.log(2.0))
    for good in (True, False):
        assert kto_loss(CHOSEN - CHOSEN, torch.tensor([good]), torch.tensor(0.0, dtype=torch.float64), 0.1).item() == 0.5


def test_no_gradient_reaches_the_reference():
    reference = REFERENCE_CHOSEN.clone().requires_grad_()
    policy = CHOSEN.clone().requires_grad_()
    dpo_logit(policy, REJECTED, reference, REFERENCE_REJECTED, 0.1).sum().backward()
    assert reference.grad is None and policy.grad is not None
    moved = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert not kto_reference_point(moved).requires_grad


def test_the_reference_point_is_never_negative():
    assert kto_reference_point(one(1.0, -0.4)).item() == pytest.approx(0.3)
    assert kto_reference_point(one(-3.0, 1.0)).item() == 0.0


def test_smoothing_is_stationary_where_the_policy_is_as_sure_as_the_labels():
    logit = one(math.log(0.9 / 0.1)).requires_grad_()  # sigma(beta h) = 1 - e
    bradley_terry_loss(logit, one(1.0), label_smoothing=0.1).sum().backward()
    assert logit.grad is not None and abs(logit.grad.item()) < 1e-15


def test_robust_dpo_is_unbiased_under_flips():
    logit = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64)
    kept, flipped = robust_dpo_loss(logit, 0.2), robust_dpo_loss(-logit, 0.2)
    torch.testing.assert_close(0.8 * kept + 0.2 * flipped, bradley_terry_loss(logit, torch.ones_like(logit)))


def test_ipo_is_least_at_its_margin_and_the_hinge_flat_beyond_one():
    assert ipo_loss(one(5.0), 0.1).item() == 0.0
    assert hinge_loss(one(1.0, 3.0)).tolist() == [0.0, 0.0]


def test_weights_of_good_and_bad_answers_stay_apart():
    ratio, zero = one(0.3, 0.3), torch.tensor(0.1, dtype=torch.float64)
    loss = kto_loss(ratio, torch.tensor([True, False]), zero, 0.5, 2.0, 3.0)
    value = 1.0 / (1.0 + math.exp(-0.5 * 0.2))
    assert loss.tolist() == pytest.approx([2.0 - 2.0 * value, 3.0 - 3.0 * (1.0 - value)])


def test_log_odds_at_both_ends():
    assert log_odds(one(math.log(0.5))).item() == pytest.approx(0.0, abs=1e-15)
    assert log_odds(one(-1e-12)).item() == pytest.approx(-math.log(1e-12), rel=1e-9)
    assert log_odds(one(-800.0)).item() == -800.0
    for x in (-1e-6, -0.5, -0.7, -40.0):
        y = one(x).requires_grad_()
        log_odds(y).sum().backward()
        assert y.grad is not None and y.grad.item() == pytest.approx(1.0 / -math.expm1(x), rel=1e-6)


def test_modpo_by_hand_and_as_dpo():
    margins, weights = torch.tensor([[0.5, -1.0]], dtype=torch.float64), one(0.5, 0.3, 0.2)
    # (0.1 * 1.5 - 0.3 * 0.5 + 0.2 * 1.0) / 0.5
    assert modpo_logit(GAP, 0.1, margins, weights).item() == pytest.approx(0.4)
    assert modpo_logit(GAP, 0.1, margins, one(1.0, 0.0, 0.0)).item() == pytest.approx(LOGIT.item())
    with pytest.raises(ValueError, match="the first, so it must be positive"):
        modpo_logit(GAP, 0.1, margins, one(0.0, 0.5, 0.5))


def test_the_optimum_of_modpo_is_the_policy_of_the_weighted_sum():
    # Where log pi / pi_ref = (w_0 r_0 + w_1 r_1) / beta the logit is the gap of r_0, which is what the labels say.
    r0, r1, beta, weights = 1.3, -0.7, 0.2, one(0.6, 0.4)
    gap = one((0.6 * r0 + 0.4 * r1) / beta)
    assert modpo_logit(gap, beta, torch.tensor([[r1]], dtype=torch.float64), weights).item() == pytest.approx(r0)


def test_impossible_flip_rates_are_refused():
    with pytest.raises(ValueError, match=r"flip_rate=0.5 was given; robust DPO needs a number in \[0, 0.5\)"):
        robust_dpo_loss(LOGIT, 0.5)


def test_gradients():
    draw = lambda seed: torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    good, zero = torch.tensor([True, False, True, False]), torch.tensor(0.1, dtype=torch.float64)
    assert gradcheck(lambda x: kto_loss(x, good, zero, 0.3), draw(0))
    assert gradcheck(lambda x: robust_dpo_loss(x, 0.1), draw(1))
    assert gradcheck(lambda x: log_odds(-x.exp()), draw(2))
    assert gradcheck(lambda x: ipo_loss(x, 0.3), draw(3))
