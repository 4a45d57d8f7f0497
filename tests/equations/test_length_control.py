"""Length taken out: where it is all there is, where it is nothing, and against gradients that must vanish."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tutelage.equations.length_control import (
    length_controlled_by_difference,
    length_controlled_by_ratio,
    logistic_fit,
    odin_penalty,
    pearson_correlation,
)
from tutelage.equations.preferences import bradley_terry_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_number_is_the_log_odds_of_its_share():
    outcome = torch.tensor([1.0, 1.0, 1.0, 0.0])
    w = logistic_fit(torch.ones(4, 1), outcome, penalty=0.0)
    assert w.item() == pytest.approx(math.log(3.0))
    assert torch.sigmoid(logistic_fit(torch.ones(2, 1), torch.tensor([0.5, 0.5]))).item() == 0.5


def test_the_gradient_vanishes_at_the_fit():
    g = generator()
    x = torch.randn(60, 3, generator=g, dtype=torch.float64)
    y = (torch.rand(60, generator=g) < 0.4).double()
    w = logistic_fit(x, y, penalty=0.1).requires_grad_()
    (bradley_terry_loss(x @ w, y).sum() + 0.05 * w.square().sum()).backward()
    assert w.grad is not None and float(w.grad.abs().amax()) < 1e-8


def test_separable_data_stay_finite():
    x = torch.tensor([[1.0, -50.0], [1.0, 50.0]])
    assert bool(logistic_fit(x, torch.tensor([0.0, 1.0])).isfinite().all())


@pytest.mark.parametrize("form", [length_controlled_by_ratio, length_controlled_by_difference])
def test_a_judge_who_only_counts_words_sees_equals(form):
    """Longer answers win with probability 0.8; ours are longer nine times in ten. The raw win rate is 0.74, the controlled one a half."""
    g = generator(1)
    N = 20_000
    longer = torch.rand(N, generator=g) < 0.9
    other = torch.full((N,), 20.0)
    length = torch.where(longer, 30.0, 13.0)
    win = (torch.rand(N, generator=g) < torch.where(longer, 0.8, 0.2)).float()
    assert win.mean().item() == pytest.approx(0.74, abs=0.02)
    rate, slope = form(win, length, other)
    assert rate == pytest.approx(0.5, abs=0.05) and slope > 1.0


@pytest.mark.parametrize("form", [length_controlled_by_ratio, length_controlled_by_difference])
def test_where_length_says_nothing_nothing_is_taken(form):
    g = generator(2)
    length, other = (torch.randint(10, 30, (20_000,), generator=g).float() for _ in range(2))
    win = (torch.rand(20_000, generator=g) < 0.7).float()
    rate, slope = form(win, length, other)
    assert rate == pytest.approx(win.mean().item(), abs=0.005) and abs(slope) < 0.1
    equal, _ = form(win, other, other)
    assert equal == pytest.approx(win.mean().item(), abs=1e-4)


def test_an_answer_of_no_token_counts_as_one():
    outcome, length, other = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 5.0]), torch.tensor([4.0, 0.0, 2.0])
    assert length_controlled_by_ratio(outcome, length, other) == length_controlled_by_ratio(
        outcome, length.clamp(min=1), other.clamp(min=1)
    )


def test_hard_prompts_are_averaged_over():
    g = generator(3)
    hardness = torch.randn(20_000, generator=g)
    win = (torch.rand(20_000, generator=g) < torch.sigmoid(1.0 - 2.0 * hardness)).float()
    length = torch.randint(10, 30, (20_000,), generator=g).float()
    rate, _ = length_controlled_by_difference(win, length, length.flip(0), hardness)
    assert rate == pytest.approx(win.mean().item(), abs=0.005)


def test_correlation_and_odin_by_hand():
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])
    assert pearson_correlation(x, y).item() == pytest.approx(0.5)
    assert pearson_correlation(x, torch.ones(3)).item() == 0.0
    across, along = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    # |cos| 0, 1 - corr(len, len) 0, |corr(len, quality)| 0.5
    assert odin_penalty(y, 2.0 * x, x, across, along).item() == pytest.approx(0.5, abs=1e-6)
    assert odin_penalty(x, -x, x, along, along).item() == pytest.approx(1.0 + 2.0 + 1.0, abs=1e-6)
    draws = [torch.randn(5, generator=generator(i), dtype=torch.float64).requires_grad_() for i in range(2)]
    length = torch.tensor([3.0, 5.0, 2.0, 9.0, 4.0], dtype=torch.float64)
    rows = [torch.randn(4, generator=generator(i + 2), dtype=torch.float64) for i in range(2)]
    assert gradcheck(lambda q, l: odin_penalty(q, l, length, *rows), draws)
