"""MATD3 where the answer is known: games of one joint choice, and a task for one agent."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.rollout import Rollout
from tutelage.games.alone import Alone
from tutelage.games.spec import Box, Discrete, Game, Group, Nested, Players, Step
from tutelage.learn.learner import Progress
from tutelage.learn.many_agents.matd3 import MATD3, Config

QUICK = Config(hidden=(32, 32), batch_size=64, learning_rate=3e-3, random_steps=50, update_every=1, target_rate=0.05, max_grad_norm=10.0)
DILEMMA = torch.tensor([[[-1.0, -3.0], [0.0, -2.0]], [[-1.0, 0.0], [-3.0, -2.0]]])
"""Years in prison by [agent, own a_1, a_2]; 0: keep silent, 1: testify, which is better whatever the other does."""


class MatrixGame(Game):
    """One joint choice, then it is over: agent i is paid payoffs[i, a_1, ..., a_N]. Where agents have equal choices, they are one group."""

    def __init__(self, payoffs: Tensor, copies: int) -> None:
        self.payoffs, self.copies, sizes = payoffs, copies, payoffs.shape[1:]
        nothing = Box((1,), np.zeros(1, np.float32), np.ones(1, np.float32))
        alike = [tuple(i for i, other in enumerate(sizes) if other == size) for size in dict.fromkeys(sizes)]
        self.groups = tuple(Group(own, nothing, Discrete(sizes[own[0]])) for own in alike)
        self.players = Players(tuple(f"agent_{i}" for i in range(len(sizes))), self.groups, (tuple(range(len(sizes))),))
        self.observation_space, self.action_space = self.players.observation_space, self.players.action_space

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        return tuple(torch.ones(self.copies, len(group.agents), 1) for group in self.groups)

    def step(self, actions: Any) -> Step:
        chosen = torch.zeros(self.copies, len(self.payoffs), dtype=torch.int64)
        for group, own in zip(self.groups, actions, strict=True):
            chosen[:, list(group.agents)] = own
        paid = torch.stack([table[tuple(chosen.T)] for table in self.payoffs], -1)
        over = torch.ones(self.copies, dtype=torch.bool)
        return Step(self.reset(), paid, over[:, None].expand_as(paid), over, torch.ones_like(paid, dtype=torch.bool))


def train(made: MATD3, game: Game, steps: int, members: int = 2) -> Rollout:
    """As a run does: play, store, learn."""
    rollout = Rollout(game, members, range(game.copies))
    held = made.experience(steps, rollout.copies)
    for step in range(steps):
        held.add(rollout.step(made.behave(rollout.observation, rollout.starts, rollout.legal, Progress(step, steps))))
        made.update(held, Progress(step + 1, steps))
    return rollout


def learner(config: Config, game: Game, members: int = 2) -> MATD3:
    assert game.players is not None
    return MATD3(config, game.players, [Generator().manual_seed(i) for i in range(members)])


def cells(*sizes: int) -> Tensor:
    """Every joint choice `[cells, N]`."""
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scheme", ["concurrent", "ct-de"])
def test_prisoners_testify(scheme: Any):
    made = learner(replace(QUICK, scheme=scheme), MatrixGame(DILEMMA, 16))
    train(made, MatrixGame(DILEMMA, 16), 250)
    assert made.act(torch.ones(2, 1, 2), deterministic=True).tolist() == [[[1.0, 1.0]]] * 2


@pytest.mark.usefixtures("unchecked")
def test_critics_that_see_all_learn_the_payoffs():
    """Each its own agent's, of every joint choice; agents with different numbers of choices are two units."""
    payoffs = torch.tensor([[[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], [[-1.0, 2.0, 0.0], [2.0, -0.5, 1.0]]])
    game = MatrixGame(payoffs, 16)
    made = learner(replace(QUICK, scheme="ct-de", random_steps=64, twin_critics=False), game)
    team: Any = made.teams[0]
    rollout, held = Rollout(game, 2, range(16)), made.experience(64, 8)
    for step in range(64):
        held.add(rollout.step(made.behave(rollout.observation, rollout.starts, None, Progress(step, 64))))
    for _ in range(400):
        team.update_on(held.sample(64, made.generators))
    hot = torch.cat([torch.eye(2)[cells(2, 3)[:, 0]], torch.eye(3)[cells(2, 3)[:, 1]]], -1)
    shown = torch.cat([torch.ones(6, 2), hot], -1).expand(4, 1, -1, -1)
    with torch.no_grad():
        q = team.nets.critics[0](team.train.weights("critics_0"), shown).view(2, 2, 6)  # seed, agent, cell
    torch.testing.assert_close(q, payoffs.view(1, 2, 6).expand(2, -1, -1), atol=0.1, rtol=0.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("joint_head", [False, True])
def test_a_team_of_one_mind_finds_the_best_cell(joint_head: bool):
    common = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 10.0], [0.0, 2.0, 0.0]]).expand(2, -1, -1)
    made = learner(replace(QUICK, scheme="centralized", joint_head=joint_head, update_every=2), MatrixGame(common, 32), 4)
    train(made, MatrixGame(common, 32), 500, 4)
    assert made.act(torch.ones(4, 1, 2), deterministic=True).tolist() == [[[1.0, 2.0]]] * 4


class Drift(Game):
    """One agent on a line: x <- x + a / 2, paid -x^2, for ten steps; from x uniform on [-1, 1]."""

    def __init__(self, copies: int) -> None:
        edge = np.full(1, 1.0, np.float32)
        self.copies, self.observation_space, self.action_space = copies, Box((1,), -4 * edge, 4 * edge), Box((1,), -edge, edge)
        self.x, self.t, self._generator = torch.zeros(copies, 1), torch.zeros(copies, dtype=torch.int64), Generator()

    def reset(self, seed: Sequence[int] | None = None, where: Tensor | None = None) -> Nested:
        if seed is not None:
            self._generator.manual_seed(seed[0])
        new = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.x[new], self.t[new] = 2.0 * torch.rand(int(new.sum()), 1, generator=self._generator) - 1.0, 0
        return self.x.clone()

    def step(self, actions: Nested) -> Step:
        assert isinstance(actions, Tensor)
        self.x, self.t = self.x + 0.5 * actions, self.t + 1
        none = torch.zeros(self.copies, dtype=torch.bool)
        return Step(self.x.clone(), -self.x[:, 0].square(), none, self.t == 10, ~none)


@pytest.mark.usefixtures("unchecked")
def test_one_agent_learns_a_task_for_one():
    """The best policy goes to 0 in at most two steps: -1/24 on average (of (|x| - 1/2)^2, where |x| > 1/2); a random one gets -7.9."""
    config = replace(QUICK, learning_rate=1e-3, random_steps=100, exploration_noise=0.1, target_rate=0.01)
    made = learner(config, Alone(Drift(16)))
    returns = {}
    for moment in ("before", "after"):
        game = Drift(200)
        seen, total = game.reset(seed=[1] * 200), torch.zeros(200)
        for _ in range(10):
            step = game.step(made.act(seen.view(2, 100, 1), deterministic=True).view(200, 1))  # type: ignore[union-attr]
            seen, total = step.observation, total + step.reward
        returns[moment] = total.view(2, 100).mean(1)
        if moment == "before":
            train(made, Alone(Drift(16)), 500)
    assert returns["before"].max() < -1.0 and returns["after"].min() > -0.08, returns
