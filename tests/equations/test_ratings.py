"""Elo against its own formula, and as one gradient step of Bradley-Terry."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tutelage.equations.preferences import bradley_terry_loss, preference_probability
from tutelage.equations.ratings import elo_expected_score, elo_scale, elo_update


def ratings(seed: int) -> Tensor:
    return 1500 + 300 * torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores() -> Tensor:
    return 0.5 * torch.randint(3, (20,), generator=torch.Generator().manual_seed(9)).double()


def test_by_hand():
    one = lambda x: torch.tensor([x], dtype=torch.float64)
    # 400 points are odds of ten to one
    assert elo_expected_score(one(1900.0), one(1500.0)).item() == pytest.approx(10 / 11, abs=1e-12)
    assert elo_scale == pytest.approx(173.7177927613, abs=1e-9)
    left, right = elo_update(one(1900.0), one(1500.0), one(0.0), k_factor=32.0)
    assert left.item() == pytest.approx(1900 - 320 / 11, abs=1e-9)
    assert right.item() == pytest.approx(1500 + 320 / 11, abs=1e-9)


def test_against_a_loop_in_powers_of_ten():
    left, right, score = ratings(0), ratings(1), scores()
    new_left, new_right = elo_update(left, right, score, k_factor=24.0)
    for i in range(20):
        expected = 1 / (1 + 10 ** ((float(right[i]) - float(left[i])) / 400))
        assert float(elo_expected_score(left, right)[i]) == pytest.approx(expected, abs=1e-12)
        assert float(new_left[i]) == pytest.approx(float(left[i]) + 24 * (float(score[i]) - expected), abs=1e-9)
        assert float(new_right[i]) == pytest.approx(float(right[i]) - 24 * (float(score[i]) - expected), abs=1e-9)


def test_the_expected_score_is_bradley_terry_in_other_units():
    left, right = ratings(0), ratings(1)
    torch.testing.assert_close(elo_expected_score(left, right), preference_probability((left - right) / elo_scale))


def test_an_update_is_one_gradient_step_on_the_bradley_terry_loss():
    left, right, score = ratings(0).requires_grad_(), ratings(1).requires_grad_(), scores()
    optimizer = torch.optim.SGD([left, right], lr=24.0 * elo_scale)
    expected = elo_update(left.detach().clone(), right.detach().clone(), score, k_factor=24.0)
    bradley_terry_loss((left - right) / elo_scale, score).sum().backward()
    optimizer.step()
    torch.testing.assert_close((left.detach(), right.detach()), expected)


def test_points_are_exchanged_never_made():
    left, right = ratings(0), ratings(1)
    new_left, new_right = elo_update(left, right, scores(), k_factor=32.0)
    torch.testing.assert_close(new_left + new_right, left + right)


def test_gradients_against_finite_differences():
    assert gradcheck(lambda a, b: elo_update(a, b, scores(), 24.0), (ratings(0).requires_grad_(), ratings(1).requires_grad_()))
