"""Rewards that need no learning."""

import pytest
import torch

from tutelage.rewards.source import GameReward, RewardError, SignReward, WrittenReward

observation, action, paid = torch.randn(2, 5, 3), torch.randn(2, 5, 1), torch.randn(2, 5)


def test_the_games_reward_is_handed_on():
    assert torch.equal(GameReward().reward(observation, action, paid), paid)


def test_a_written_reward_replaces_it():
    written = WrittenReward(lambda observation, action: observation[..., 0] - action[..., 0].square())
    assert torch.equal(written.reward(observation, action, paid), observation[..., 0] - action[..., 0].square())


def test_a_written_reward_of_another_shape_or_without_a_value_is_refused():
    with pytest.raises(RewardError, match=r"gave shape \(2, 5, 3\) for observations \(2, 5, 3\)"):
        WrittenReward(lambda observation, action: observation).reward(observation, action, paid)
    with pytest.raises(RewardError, match="a value that is not finite"):
        WrittenReward(lambda observation, action: (observation[..., 0] * 0.0).log() * 0.0).reward(observation, action, paid)


def test_the_sign_of_the_games_reward():
    paid = torch.tensor([[-200.0, 0.0, 0.01], [7.0, -0.5, 0.0]])
    seen = SignReward().reward(torch.zeros(2, 3, 4, 84, 84, dtype=torch.uint8), torch.zeros(2, 3, 1), paid)
    assert seen.tolist() == [[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]
