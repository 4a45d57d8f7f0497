"""Best-of-n against every subset, the optimum against a world that can be enumerated, the laws against their own points."""

import math
from itertools import combinations

import pytest
import torch

from tutelage.equations.optimization_pressure import (
    GoodhartLaw,
    best_of_n_kl,
    best_of_n_mean,
    fit_goodhart_law,
    regularized_optimum,
    variance_penalized,
    worst_case,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distance_of_best_of_n():
    expected = {1: 0.0, 2: 0.193147, 4: 0.636294, 8: 1.204442, 16: 1.835089, 64: 3.174508, 128: 3.859843, 2048: 6.625107}
    assert {n: best_of_n_kl(n) for n in expected} == pytest.approx(expected, abs=5e-7)
    with pytest.raises(ValueError, match="n=0 was given"):
        best_of_n_kl(0)


def test_distance_of_best_of_n_is_that_of_the_best_of_distinct_draws():
    # The best of n from a continuous score has density n F^(n-1): KL = E[log n + (n - 1) log F] under it.
    for n in (2, 5):
        F = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = n * F ** (n - 1)
        assert float((density * density.log()).mean()) == pytest.approx(best_of_n_kl(n), abs=1e-4)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_best_of_n_against_every_subset(n: int):
    proxy, gold = draw(2, 6), draw(2, 6, seed=1)
    for b in range(2):
        best = [gold[b, max(subset, key=lambda i: proxy[b, i].item())].item() for subset in combinations(range(6), n)]
        assert best_of_n_mean(proxy, gold, n)[b].item() == pytest.approx(sum(best) / len(best), abs=1e-12)


def test_equal_proxy_scores_share_their_gold():
    gold = torch.tensor([0.0, 1.0, 5.0])
    assert best_of_n_mean(torch.zeros(3), gold, 3).item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="n=4 was given with 3 draws"):
        best_of_n_mean(torch.zeros(3), gold, 4)


def test_a_large_pool_does_not_overflow():
    proxy = draw(12_000)
    assert best_of_n_mean(proxy, proxy, 6_000).item() > 3.0


def test_the_optimum_where_all_can_be_enumerated():
    # A reference over five answers; draws in exactly its proportions make the estimate exact.
    counts, r, beta = torch.tensor([4, 3, 1, 1, 1]), torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64), 0.7
    p = counts / counts.sum()
    best = p * (r / beta).exp()
    best = best / best.sum()
    found = regularized_optimum(r.repeat_interleave(counts), beta)
    assert found.gold.item() == pytest.approx(float((best * r).sum()))
    assert found.kl.item() == pytest.approx(float((best * (best / p).log()).sum()))
    for seed in range(50):  # nothing lies above it
        other = (draw(5, seed=seed) * 2.0).softmax(0)
        objective = lambda q: float((q * r).sum() - beta * (q * (q / p).log()).sum())
        assert objective(other) <= objective(best) + 1e-12


def test_the_ends_of_the_frontier():
    gold = draw(3, 64)
    free = regularized_optimum(gold, 1e-3)
    torch.testing.assert_close(free.gold, gold.amax(-1))
    torch.testing.assert_close(free.kl, torch.full((3,), math.log(64.0), dtype=torch.float64))
    assert free.effective_draws.tolist() == pytest.approx([1.0] * 3)
    dear = regularized_optimum(gold, math.inf)
    torch.testing.assert_close(dear.gold, gold.mean(-1))
    assert dear.kl.tolist() == [0.0] * 3 and dear.effective_draws.tolist() == pytest.approx([64.0] * 3)
    with pytest.raises(ValueError, match="beta=0.0 was given"):
        regularized_optimum(gold, 0.0)


@pytest.mark.parametrize("law", ["best-of-n", "rl"])
def test_the_laws_fit_their_own_points_and_peak_where_they_say(law):
    true = GoodhartLaw(law, 1.2, 0.4)
    kl = torch.linspace(0.0, 12.0, 25, dtype=torch.float64)
    fitted = fit_goodhart_law(kl, true.gold(kl), law)
    assert (fitted.a, fitted.b) == pytest.approx((1.2, 0.4))
    peak = torch.tensor([2.25 if law == "best-of-n" else math.exp(4.0)], dtype=torch.float64)  # (a / 2b)^2, and exp(2 (a / b - 1))
    for aside in (0.98, 1.02):
        assert true.gold(peak * aside).item() < true.gold(peak).item()
    with pytest.raises(ValueError, match="1 points with a positive KL"):
        fit_goodhart_law(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), law)


def test_ensembles_by_hand():
    score = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert worst_case(score).tolist() == [1.0, 2.0]
    assert variance_penalized(score, 0.5).tolist() == [1.5, 2.0]  # (2 - 0.5 * 1, 2)
