"""simple_spread: the golden trajectory of mpe2, and the reference returns."""

from typing import Any

import pytest
import torch
from torch import Generator

from tutelage.evaluate.episodes import evaluate
from tutelage.games.make import make
from tutelage.games.particle.address import make_world
from tutelage.games.particle.scripted import ScriptedTeam, navigators


def start(world, agents, landmarks):
    number = torch.zeros(1, dtype=torch.int64)
    column = lambda rows: torch.tensor(rows, dtype=world.dtype).t()[:, :, None].contiguous()
    return world.start(number, number)._replace(position=column(agents), place=column(landmarks))


def test_golden_trajectory():
    world = make_world("particle:simple_spread")
    state = start(world, [[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]], [[-0.9, 0.1], [0.9, -0.1], [0.0, -0.8]])
    rewards = [-0.884010, -0.919916, -0.985872, -1.079349, -2.199923, -2.242236]
    x0, v0 = [-0.5, -0.45, -0.3625, -0.246875, -0.110156, 0.042383], [0.5, 0.875, 1.15625, 1.367188, 1.525391, -0.672590]
    for t in range(6):
        action = torch.tensor([[2, 1, 3]]) if t < 5 else torch.zeros(1, 3, dtype=torch.int64)
        state, outcome = world.advance(state, (action,))
        assert outcome.reward[0].tolist() == pytest.approx([rewards[t]] * 3, abs=1e-6)
        assert float(state.position[0, 0, 0]) == pytest.approx(x0[t], abs=1e-6)
        assert float(state.velocity[0, 0, 0]) == pytest.approx(v0[t], abs=1e-6)
    expected = {
        "position": [[0.042383, 0.0], [-0.042383, 0.0], [0.0, -0.042383]],
        "velocity": [[-0.672590, -1.019758], [0.672590, -1.019758], [0.0, 0.895473]],
    }
    for part, rows in expected.items():
        torch.testing.assert_close(getattr(state, part)[..., 0].t(), torch.tensor(rows), rtol=0.0, atol=1e-6)


def test_what_an_agent_sees():
    world = make_world("particle:simple_spread?agents=2")
    state = start(world, [[0.1, 0.2], [0.4, 0.6]], [[1.0, 0.0], [0.0, 1.0]])
    state = state._replace(velocity=torch.tensor([[[0.5], [0.7]], [[0.6], [0.8]]]))
    (seen,) = world.look(state)
    own = [0.5, 0.6, 0.1, 0.2, 0.9, -0.2, -0.1, 0.8, 0.3, 0.4, 0.0, 0.0]
    other = [0.7, 0.8, 0.4, 0.6, 0.6, -0.6, -0.4, 0.4, -0.3, -0.4, 0.0, 0.0]
    torch.testing.assert_close(seen[0], torch.tensor([own, other]))


def test_every_constant_counts():
    world = make_world(
        "particle:simple_spread?agents=2&local_ratio=0.25&collision_penalty=3&distance_weight=2&agent_size=0.5&acceleration=1"
    )
    state = start(world, [[0.0, 0.0], [0.6, 0.8]], [[0.0, 0.5], [5.6, 0.8]])
    _, reward = world.pay(state)
    # nearest: 0.5 and 5; at distance 1 two agents of 0.5 do not touch (float: exactly 1)
    assert reward[:, 0].tolist() == pytest.approx([-0.75 * 2 * 5.5] * 2)
    _, reward = world.pay(state._replace(position=0.9 * state.position))
    assert float(reward[0, 0]) == pytest.approx(-0.75 * 2 * (0.5 + length(5.6 - 0.54, 0.8 - 0.72)) - 0.25 * 3)
    state, _ = world.advance(state._replace(position=2.0 * state.position), (torch.tensor([[2, 0]]),))
    assert float(state.velocity[0, 0, 0]) == pytest.approx(0.1)


def length(x, y):
    return (x * x + y * y) ** 0.5


def test_alone():
    game: Any = make("particle:simple_spread?agents=1", 4)
    assert game.reset(seed=range(4))[0].shape == (4, 1, 6)
    assert game.step((torch.zeros(4, 1, dtype=torch.int64),)).reward.shape == (4, 1)


@pytest.mark.parametrize(
    ("options", "scripted", "expected", "spread"),
    [
        ("actions=discrete", False, -26.4, 8.2),
        ("actions=box5", False, -25.4, 8.2),
        ("actions=discrete&local_ratio=0", False, -51.9, 16.0),
        ("actions=box5&local_ratio=0", False, -50.2, 16.0),
        ("actions=discrete", True, -8.2, 3.0),
        ("actions=continuous", True, -6.9, 3.0),
        ("actions=box5&local_ratio=0", True, -12.8, 5.0),
    ],
)
def test_reference_returns(options, scripted, expected, spread):
    """Means of the facts over an unknown number of episodes, printed to 0.1; spread: standard deviation of one episode."""
    episodes = 600
    game: Any = make(f"particle:simple_spread?{options}", episodes)
    wishes = navigators(3) if scripted else [Generator().manual_seed(i) for i in range(3)]
    result = evaluate(ScriptedTeam(game.world, wishes), game, episodes, seed=0)
    assert result.returns.std() == pytest.approx(spread, rel=0.25)
    assert result.mean == pytest.approx(expected, abs=3 * spread / episodes**0.5 + 0.05)
    assert result.lengths.unique().tolist() == [25]
