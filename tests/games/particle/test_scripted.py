"""Scripted policies: assignments by hand, the controller, and what it knows without seeing velocities. Returns: with each world."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Generator

from tutelage.evaluate.episodes import Heedful, Policy
from tutelage.games.make import make
from tutelage.games.particle.scripted import ScriptedTeam, assigned, navigators, splitters, to_closest, to_goal, to_midpoint
from tutelage.games.spec import GameError


def test_everybody_agrees_on_the_shortest_assignment():
    B, N = 40, 4
    g = Generator().manual_seed(0)
    agents, landmarks = torch.randn(B, N, 2, generator=g), torch.randn(B, N, 2, generator=g)
    taken = []
    for i in range(N):
        others = torch.cat([agents[:, :i], agents[:, i + 1 :]], 1) - agents[:, i : i + 1]
        taken.append(assigned(i, others, landmarks - agents[:, i : i + 1]) + agents[:, i])
    for b in range(B):
        cost = {order: sum(float((landmarks[b, k] - agents[b, i]).norm()) for i, k in enumerate(order)) for order in permutations(range(N))}
        best = min(cost, key=lambda order: cost[order])
        for i in range(N):
            torch.testing.assert_close(taken[i][b], landmarks[b, best[i]])


def test_wishes_of_the_deceivers():
    # adversary_0 sees landmarks at (1, 0), (3, 0) and good agents at (3, 1), (0, 5)
    seen = torch.tensor([[1.0, 0.0, 3.0, 0.0, 3.0, 1.0, 0.0, 5.0]])
    assert to_midpoint(seen).tolist() == [[2.0, 0.0]] and to_closest(seen).tolist() == [[3.0, 0.0]]
    # agent_0 at (3, 1) sees the goal (1, 0), the landmarks, the adversary and agent_1
    good = torch.tensor([[-2.0, -1.0, -2.0, -1.0, 0.0, -1.0, -3.0, -1.0, -3.0, 4.0]])
    assert to_goal(good).tolist() == [[-2.0, -1.0]] and splitters(2)[0](good).tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("actions", ["discrete", "continuous", "box5"])
def test_arrives_and_stays(actions):
    game: Any = make(f"particle:simple_target?agents=1&actions={actions}", 64)
    team = ScriptedTeam(game.world, navigators(1))
    assert isinstance(team, Policy) and isinstance(team, Heedful)
    observation = game.reset(seed=range(64))
    far = []
    for _ in range(60):
        observation = game.step(team.act(observation)).observation
        far.append(observation[0][:, 0, 4:6].norm(dim=-1))
    assert torch.stack(far[40:]).mean() < (0.1 if actions == "discrete" else 1e-3)


def test_velocities_that_nobody_sees_are_added_up():
    game: Any = make("particle:simple_adversary", 8)
    team = ScriptedTeam(game.world, [Generator().manual_seed(0), *splitters(2)])
    observation = game.reset(seed=range(8))
    for _ in range(25):
        step = game.step(team.act(observation))
        observation = step.observation
        torch.testing.assert_close(team._velocity, game.state.velocity.permute(2, 1, 0))
    where = torch.arange(8) < 3
    game.reset(where=step.boundary)
    team.restart(where)
    assert team._velocity is not None
    assert team._velocity[:3].abs().max() == 0.0 and team._velocity[3:].abs().max() > 0.0


def test_one_script_per_agent():
    game: Any = make("particle:simple_spread", 1)
    with pytest.raises(GameError, match="particle:simple_spread has 3 agents; 2 scripts were given"):
        ScriptedTeam(game.world, navigators(3)[:2])
