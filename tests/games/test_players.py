"""Groups of agents with equal spaces, and the spaces in which a game of many takes and gives."""

import numpy as np
import pytest
import torch

from tutelage.games.nested import flatten_action, flatten_observation, unflatten_action
from tutelage.games.spec import Box, DictSpace, Discrete, GameError, Group, MultiBinary, MultiDiscrete, Players, TupleSpace, stacked


def box(*shape: int, low: float = -1.0, high: float = 1.0) -> Box:
    return Box(shape, np.full(shape, low, np.float32), np.full(shape, high, np.float32))


def test_a_group_s_vectors_lie_agent_by_agent():
    space = TupleSpace((stacked(box(2), 3), stacked(Discrete(2), 2)))
    first = torch.arange(6.0).view(1, 3, 2)
    second = torch.tensor([[1, 0]])
    assert flatten_observation(space, (first, second)).tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 1, 0]]  # integers one-hot, agent by agent
    vector = flatten_action(TupleSpace((stacked(box(2), 3), stacked(Discrete(2), 2))), (first / 10, second))
    back = unflatten_action(space, vector)
    assert isinstance(back, tuple)
    torch.testing.assert_close(back[0], first / 10)
    assert back[1].tolist() == [[1, 0]]


def test_bounds_and_sizes_are_repeated_for_each_agent():
    lopsided = Box((2,), np.array([-1.0, 0.0], np.float32), np.array([1.0, 2.0], np.float32))
    assert stacked(lopsided, 2).high.tolist() == [[1.0, 2.0], [1.0, 2.0]]  # type: ignore[union-attr]
    assert stacked(MultiDiscrete((3, 2)), 2) == MultiDiscrete((3, 2, 3, 2))
    assert stacked(MultiBinary((4,)), 2) == MultiBinary((2, 4))


def test_nested_spaces_need_groups_of_one():
    nested = DictSpace((("place", box(2)), ("which", Discrete(3))))
    assert stacked(nested, 1) == DictSpace((("place", stacked(box(2), 1)), ("which", MultiDiscrete((3,)))))
    with pytest.raises(GameError, match="2 agents share the nested space"):
        stacked(nested, 2)


@pytest.mark.parametrize(
    ("groups", "teams", "what"),
    [
        ([(0,)], [(0, 1)], r"one group each; the groups given are \[\(0,\)\]"),
        ([(0, 1)], [(0,), (0, 1)], "one team each"),
        ([(0, 1), ()], [(0, 1)], "one group each"),
    ],
)
def test_every_agent_has_one_group_and_one_team(groups: list[tuple[int, ...]], teams: list[tuple[int, ...]], what: str):
    with pytest.raises(GameError, match=what):
        Players(("a", "b"), tuple(Group(agents, box(1), box(1)) for agents in groups), tuple(teams))
