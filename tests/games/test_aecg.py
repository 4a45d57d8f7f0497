"""Agent-environment cycle games as arrays; conversions and programs have a file of their own."""

from dataclasses import replace

import pytest
import torch

from tutelage.games.aecg import AECG, RewardLaw, random_aecg
from tutelage.games.spec import GameError

DOUBLE = torch.float64


def tree() -> AECG:
    """By hand: agent 1 steps from state 0 to 1 or 2; in state 1 the environment tosses a coin between 0 and 2."""
    nothing = RewardLaw(torch.zeros(1, 3, 3, 1, dtype=DOUBLE), torch.ones(1, 3, 3, 1, dtype=DOUBLE))
    either = RewardLaw(
        torch.tensor([1.0, -1.0], dtype=DOUBLE).expand(1, 3, 2, 2), torch.tensor([0.25, 0.75], dtype=DOUBLE).expand(1, 3, 2, 2)
    )
    coin = torch.tensor([[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]], dtype=DOUBLE)
    after_environment = torch.tensor([0, 1], dtype=DOUBLE).expand(3, 1, 2)
    after_agent = torch.tensor([1, 0], dtype=DOUBLE).expand(3, 2, 2)
    moves = torch.tensor([[1, 2], [1, 1], [2, 2]])
    return AECG(coin, (moves,), (nothing, either), (torch.eye(3, dtype=DOUBLE),), (after_environment, after_agent), 0, 1, 0.5, "a tree")


def test_sizes():
    game = tree()
    assert (game.states, game.agents, game.actions) == (3, 1, (2,))
    drawn = random_aecg(5, (2, 3), (4, 1), torch.Generator().manual_seed(0), outcomes=3)
    assert (drawn.states, drawn.agents, drawn.actions) == (5, 2, (2, 3))
    assert [tuple(law.value.shape) for law in drawn.reward] == [(2, 5, 5, 3), (2, 5, 2, 3), (2, 5, 3, 3)]
    assert [tuple(x.shape) for x in drawn.next_agent] == [(5, 1, 3), (5, 2, 3), (5, 3, 3)]
    again = random_aecg(5, (2, 3), (4, 1), torch.Generator().manual_seed(0), outcomes=3)
    assert torch.equal(again.transition, drawn.transition) and again.first_agent == drawn.first_agent
    with pytest.raises(GameError, match=r"a random AECG was asked for with states=3, actions=\(2,\), observations=\(2, 2\)"):
        random_aecg(3, (2,), (2, 2), torch.Generator())


@pytest.mark.parametrize(
    ("field", "change", "sentence"),
    [
        ("transition", lambda x: x * 2, r"the transition at \[0\] sums to 2; 1 was expected"),
        ("moves", lambda x: (), "0, 1, 2 and 2 tables of moves, observations, rewards and next agents"),
        ("moves", lambda x: (x[0] + 1,), "the moves of agent 1 need a state from 0 to 2 for each of 3 states"),
        ("likelihood", lambda x: (x[0] - 1,), r"the likelihood of agent 1 at \[0\] sums to -2"),
        ("next_agent", lambda x: (x[0], x[1][:, :1]), r"the next agent after 1 has shape \(3, 1, 2\); \(3, 2, 2\) was expected"),
        ("next_agent", lambda x: (x[0] * 0, x[1]), "next agent after 0 .* sums to 0"),
        ("reward", lambda x: (x[0], RewardLaw(x[1].value, x[1].probability * 0.5)), "the reward law of actor 1 .* sums to 0.5"),
        ("reward", lambda x: (x[0], RewardLaw(x[1].value / 0, x[1].probability)), "for actor 1; finite ones of"),
        ("first_state", lambda x: 3, "it cannot begin in 3 with 1"),
        ("first_agent", lambda x: 2, "has 3 states and agents 0 to 1; it cannot begin in 0 with 2"),
        ("discount", lambda x: -0.1, "the discount -0.1 was given"),
    ],
)
def test_what_is_no_game_is_refused(field, change, sentence):
    with pytest.raises(GameError, match=sentence):
        replace(tree(), **{field: change(getattr(tree(), field))})
