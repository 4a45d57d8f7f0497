"""Rankings against worked examples, loops over every pair and every pick, and what must not change them."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tutelage.equations.preferences import bradley_terry_loss
from tutelage.equations.rankings import ordered_pairs, pairwise_ranking_loss, plackett_luce_loss, weak_preference_logp, weak_preference_loss

SCORES = torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.0, 0.2, 0.0, 0.0]], dtype=torch.float64)
RANKS = torch.tensor([[1, 2, 3, 4], [1, 2, 9, 9]])
MASK = torch.tensor([[True] * 4, [True, True, False, False]])


def drawn(B: int = 5, K: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, ranks with ties, and a mask that leaves at least one answer."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, K, generator=g) < 0.8
    mask[:, 0] = True
    return torch.randn(B, K, generator=g, dtype=torch.float64), torch.randint(1, 5, (B, K), generator=g), mask


def test_the_worked_example_with_both_weightings():
    pairs = ordered_pairs(RANKS, MASK)
    loss, count = pairwise_ranking_loss(SCORES, pairs), pairs.sum((-2, -1))
    assert count.tolist() == [6, 1]
    assert loss.tolist() == pytest.approx([0.3171698, 0.7981389], abs=5e-8)
    assert loss.mean().item() == pytest.approx(0.5576543, abs=5e-8)  # prompts weigh the same
    assert ((loss * count).sum() / count.sum()).item() == pytest.approx(0.3858796, abs=5e-8)  # pairs would
    gaps = SCORES[0][:, None] - SCORES[0][None]
    each = bradley_terry_loss(gaps[pairs[0]], torch.ones(6, dtype=torch.float64)).sort().values
    assert each.tolist() == pytest.approx([0.1269280, 0.2014133, 0.3132617, 0.3132617, 0.4740770, 0.4740770], abs=5e-8)
    assert plackett_luce_loss(SCORES, RANKS, MASK).tolist() == pytest.approx([1.6639596, 0.7981389], abs=5e-8)


def test_the_counts_of_the_paper():
    for K, count in ((4, 6), (9, 36)):
        assert int(ordered_pairs(torch.arange(1, K + 1)).sum()) == count
    assert int(ordered_pairs(torch.arange(1, 10).expand(64, 9)).sum()) == 2304


def test_against_loops():
    score, rank, mask = drawn()
    pairwise, listwise = pairwise_ranking_loss(score, ordered_pairs(rank, mask)), plackett_luce_loss(score, rank, mask)
    for b in range(len(score)):
        places = [k for k in range(score.shape[1]) if mask[b, k]]
        r, s = rank[b].tolist(), score[b].tolist()
        losses = [math.log1p(math.exp(-(s[i] - s[j]) * (1 if r[i] < r[j] else -1))) for i, j in combinations(places, 2) if r[i] != r[j]]
        assert pairwise[b].item() == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-12)
        picks = [math.log(sum(math.exp(s[j]) for j in places if r[j] >= r[k])) - s[k] for k in places]
        assert listwise[b].item() == pytest.approx(sum(picks), abs=1e-12)


def test_what_changes_nothing():
    score, rank, mask = drawn(seed=1)
    order = torch.randperm(score.shape[1], generator=torch.Generator().manual_seed(2))
    for loss in (lambda s, r, m: pairwise_ranking_loss(s, ordered_pairs(r, m)), plackett_luce_loss):
        expected = loss(score, rank, mask)
        torch.testing.assert_close(loss(score[:, order], rank[:, order], mask[:, order]), expected)
        torch.testing.assert_close(loss(score + 7.0, rank, mask), expected)
        torch.testing.assert_close(loss(torch.where(mask, score, torch.nan), torch.where(mask, rank, 0), mask), expected)


def test_a_tie_is_no_pair_and_a_prompt_without_pairs_is_silent():
    rank = torch.tensor([[1, 1, 2], [3, 3, 3]])
    score = torch.tensor([[0.3, -0.2, 0.1], [1.0, 2.0, 3.0]], dtype=torch.float64).requires_grad_()
    loss = pairwise_ranking_loss(score, ordered_pairs(rank))
    assert loss[0].item() == pytest.approx(0.5 * (math.log1p(math.exp(-0.2)) + math.log1p(math.exp(0.3))))
    assert loss[1].item() == 0.0
    loss.sum().backward()
    assert score.grad is not None and score.grad[1].tolist() == [0.0, 0.0, 0.0]


def test_two_answers_are_bradley_terry():
    score = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    expected = bradley_terry_loss(score[:, 0] - score[:, 1], torch.zeros(1, dtype=torch.float64))
    rank = torch.tensor([[2, 1]])
    torch.testing.assert_close(plackett_luce_loss(score, rank), expected)
    torch.testing.assert_close(pairwise_ranking_loss(score, ordered_pairs(rank)), expected)


def test_every_order_has_a_probability():
    score = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64)
    from itertools import permutations

    every = torch.tensor(list(permutations(range(1, 5))))
    assert (-plackett_luce_loss(score.expand(len(every), 4), every)).exp().sum().item() == pytest.approx(1.0)


def test_gradients_also_where_places_are_empty():
    score, rank, mask = drawn(3, 4, seed=3)
    assert gradcheck(lambda s: plackett_luce_loss(s, rank, mask), score.clone().requires_grad_())
    assert gradcheck(lambda s: pairwise_ranking_loss(s, ordered_pairs(rank, mask)), score.clone().requires_grad_())


def test_weak_preferences_are_probabilities_and_become_bradley_terry():
    logit = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)
    torch.testing.assert_close(weak_preference_logp(logit, 0.4).exp().sum(-1), torch.ones(7, dtype=torch.float64))
    strict = weak_preference_logp(logit, 0.0)
    torch.testing.assert_close(strict[:, 0].exp(), torch.sigmoid(logit))
    assert bool((strict[:, 2] == -torch.inf).all())
    # By hand at m = 0, d = ln 2: sigma(-ln 2) = 1/3 each, and (4 - 1) / 9 = 1/3 for the tie.
    torch.testing.assert_close(weak_preference_logp(logit[3:4], math.log(2.0)).exp(), torch.full((1, 3), 1 / 3, dtype=torch.float64))
    labels = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(weak_preference_loss(logit[:3], labels, 0.4), -weak_preference_logp(logit[:3], 0.4).diagonal())
    with pytest.raises(ValueError, match="tie_threshold=-1.0 was given"):
        weak_preference_logp(logit, -1.0)
