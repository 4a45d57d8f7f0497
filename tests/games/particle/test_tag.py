"""simple_tag: what its options change, and who is on which team; parity with mpe2 is in tests/parity."""

from typing import Any

import pytest
import torch

from tutelage.games.make import make
from tutelage.games.particle.address import make_world


def columns(rows):
    return torch.tensor(rows).t()[:, :, None].contiguous()


def test_touches_and_the_border():
    options = "adversaries=2&agents=2&obstacles=0&catch_reward=7&caught_penalty=3&border_weight=2"
    world = make_world(f"particle:simple_tag?{options}")
    number = torch.zeros(1, dtype=torch.int64)
    state = world.start(number, number)
    # prey 2 is touched by both adversaries; prey 3 is far out
    state = state._replace(position=columns([[0.0, 0.0], [0.1, 0.0], [0.05, 0.0], [0.95, -2.0]]))
    reward = world.pay(state)[1][:, 0].tolist()
    assert reward == pytest.approx([14.0, 14.0, -6.0, -2 * (0.5 + torch.e**2)], abs=1e-4)
    far = world.pay(state._replace(position=columns([[5.0, 5.0], [5.0, 5.0], [0.0, 0.9], [-9.0, 9.0]])))[1][:, 0].tolist()
    assert far == pytest.approx([0.0, 0.0, 0.0, -40.0])


def test_adversaries_are_slower_and_everybody_is_stopped_by_obstacles():
    game: Any = make("particle:simple_tag", 1)
    game.reset(seed=[0])
    apart = columns([[-3.0, 0.0], [-3.0, 1.0], [-3.0, 2.0], [-3.0, 3.0]])
    game.state = game.state._replace(position=apart, place=columns([[-1.0, 0.0], [50.0, 50.0]]))
    right = (torch.full((1, 3), 2), torch.full((1, 1), 2))
    farthest = -9.0
    for _ in range(25):
        step = game.step(right)
        farthest = max(farthest, float(game.state.position[0, 0, 0]))
    assert game.state.velocity[0, 1:, 0].tolist() == pytest.approx([1.0, 1.0, 1.3])
    # Touches at -1.275, is in it by at most a step of 0.1 and the little that soft contact allows, and is thrown back.
    assert -1.275 < farthest < -1.0 and float(game.state.position[0, 1, 0]) > -1.0
    assert bool(step.boundary[0])


def test_teams_groups_and_widths():
    players = make_world("particle:simple_tag?adversaries=4&agents=2&obstacles=1").players
    assert players.names == (*(f"adversary_{i}" for i in range(4)), "agent_0", "agent_1")
    assert players.teams == ((0, 1, 2, 3), (4, 5)) and [group.agents for group in players.groups] == [(0, 1, 2, 3), (4, 5)]
    widths: list[Any] = [group.observation_space for group in players.groups]
    assert [space.shape for space in widths] == [(4 + 2 + 10 + 4,), (4 + 2 + 10 + 2,)]
