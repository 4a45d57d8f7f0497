"""Groups: worked examples, the loop over the others, and groups that say nothing."""

import pytest
import torch

from tutelage.equations.group_baselines import grpo_advantage, rloo_advantage

SCORES = torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64)


def test_worked_examples():
    assert rloo_advantage(SCORES).tolist() == pytest.approx([-4 / 3, 0.0, 8 / 3, -4 / 3])
    assert grpo_advantage(SCORES).tolist() == pytest.approx([-0.7071, 0.0, 1.4141, -0.7071], abs=5e-5)
    assert grpo_advantage(SCORES, correction=0, epsilon=0.0).tolist() == pytest.approx([-0.8165, 0.0, 1.6330, -0.8165], abs=5e-5)


def test_the_baseline_is_the_mean_of_the_others():
    score = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for b in range(3):
        for i in range(5):
            others = [score[b, j].item() for j in range(5) if j != i]
            assert rloo_advantage(score)[b, i].item() == pytest.approx(score[b, i].item() - sum(others) / 4)


def test_a_group_of_equals_gives_no_signal_and_a_group_of_one_is_refused():
    assert grpo_advantage(torch.full((2, 3), 0.1), epsilon=0.0).tolist() == [[0.0] * 3] * 2
    for advantage in (rloo_advantage, grpo_advantage):
        with pytest.raises(ValueError, match="a group of 1 was given"):
            advantage(SCORES[:1])
