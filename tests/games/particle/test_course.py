"""MultiCollect and SingleCollect beside a slow copy of one at a time, and the random returns of the course's own environment."""

from typing import Any

import numpy as np
import pytest
import torch

from tutelage.evaluate.episodes import evaluate
from tutelage.games.make import make
from tutelage.games.particle.address import make_world

MOVES = {0: (0, 0), 1: (1, 0), 2: (-1, 0), 3: (0, 1), 4: (0, -1)}


class Slow:
    """The rules, in words: one copy, one place and one agent at a time."""

    fresh: Any
    """Where places jump to in the next step."""

    def __init__(self, position, speed, place, hits):
        self.position, self.speed, self.place, self.hits = position, speed, place, hits

    def step(self, actions):
        N = len(actions)
        for i, action in enumerate(actions):
            self.speed[i] = np.clip(self.speed[i] + MOVES[action], -4, 4)
            self.position[i] = self.position[i] + self.speed[i] / 8
        reward = np.zeros(N)
        for k in range(N):
            far = [np.linalg.norm(self.place[k] - self.position[i]) for i in range(N)]
            nearest = int(np.argmin(far))
            if far[nearest] >= 1:
                reward[nearest] += 1 - (far[nearest] - 1) / 10
                self.hits[k] = 0
                continue
            reward[nearest] += 1
            self.hits[k] += 1
            if self.hits[k] == 10:
                reward[nearest] += 50
                self.hits[k] = 0
                self.place[k] = self.fresh[k]
        for i in range(N):
            if any(np.linalg.norm(self.position[i] - self.position[j]) < 1 for j in range(N) if j != i):
                reward[i] -= 1
        return reward, np.concatenate([self.place.ravel(), self.position.ravel(), self.speed.ravel() / 8])


@pytest.mark.parametrize("agents", [1, 2, 3])
def test_against_the_slow_copy(agents):
    B, moved, bumped = 20, 0, 0
    world = make_world(f"particle:multi_collect?agents={agents}", dtype=torch.float64)
    state = world.start(torch.arange(B), torch.zeros(B, dtype=torch.int64))
    state = state._replace(position=0.1 * state.position, place=0.1 * state.place, velocity=torch.zeros_like(state.velocity))
    rng = np.random.default_rng(0)
    ours: list[Any] = [part.permute(2, 1, 0).numpy().copy() for part in (state.position, 8 * state.velocity, state.place)]
    slow = [Slow(ours[0][b], ours[1][b], ours[2][b], state.memory[:, b].tolist()) for b in range(B)]
    for _ in range(60):
        actions = rng.integers(5, size=(B, agents))
        state, outcome = world.advance(state, (torch.as_tensor(actions),))
        for b in range(B):
            slow[b].fresh = state.place[:, :, b].t().numpy()
            reward, seen = slow[b].step(actions[b])
            moved, bumped = moved + int((reward > 40).sum()), bumped + int(agents > 1 and (reward < -0.5).sum())
            np.testing.assert_allclose(outcome.reward[b].numpy(), reward, atol=1e-6)
            for i in range(agents):
                np.testing.assert_allclose(outcome.observation[0][b, i].numpy(), seen, atol=1e-9)
    assert moved > 5 and (bumped > 10 or agents == 1)


def test_the_beginning():
    """Uniform places and speeds; one step without action is behind everybody, and may have counted as near."""
    B = 20_000
    world = make_world("particle:multi_collect", dtype=torch.float64)
    state = world.start(torch.arange(B), torch.zeros(B, dtype=torch.int64))
    speeds = (8 * state.velocity).round()
    torch.testing.assert_close(8 * state.velocity, speeds)
    assert torch.bincount((speeds[0, 0] + 4).long()) / B == pytest.approx(np.full(9, 1 / 9), abs=0.01)
    before = state.position - state.velocity
    for part in (before, state.place):
        assert part.abs().max() <= 10.0 and part.abs().mean() == pytest.approx(5.0, abs=0.1)
    near = (state.place[:, :, None] - state.position[:, None]).square().sum(0).sqrt().amin(1) < 1.0
    assert torch.equal(state.memory, near.long()) and 0 < int(near.sum()) < B / 10
    assert int(state.steps.sum()) == 0 and world.max_steps == 250


class Random:
    """Uniform actions."""

    def __init__(self, agents):
        self.agents, self.generator = agents, torch.Generator().manual_seed(0)

    def act(self, observation, deterministic=True):
        return (torch.randint(5, (len(observation[0]), self.agents), generator=self.generator),)


@pytest.mark.parametrize(
    ("name", "agents", "expected"), [("single_collect", 1, -606), ("multi_collect", 2, -380), ("multi_collect", 3, -279)]
)
def test_random_returns(name, agents, expected):
    """Of the mean over agents, which is what the course's environment pays; the facts' means have an error too (s.d. 315 to 185)."""
    game: Any = make(f"particle:{name}?agents={agents}", 500)
    result = evaluate(Random(agents), game, 500, seed=1)
    assert result.mean == pytest.approx(expected, abs=3 * float(result.returns.std()) / 500**0.5)
    assert result.lengths.unique().tolist() == [250]
