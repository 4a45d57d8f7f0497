"""DQN against the optimal values, and discrete SAC against the soft values, of ten random MDPs that are learned side by side."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep import discrete_sac, dqn
from tutelage.learn.learner import Progress

WORLDS, STATES, ACTIONS, DISCOUNT = 10, 5, 3, 0.9
LIMIT = 25
"""Steps after which the clock ends an episode: no termination, so the values are those of the endless game."""
SEEN = Box((STATES,), np.zeros(STATES, np.float32), np.ones(STATES, np.float32))


@dataclass
class Worlds:
    """Rewards `[W, S, A]`, next states `[W, S, A, S]`, and the probability to end `[W, S, A]`."""

    copies: int
    reward: Tensor = field(init=False)
    following: Tensor = field(init=False)
    end: Tensor = field(init=False)

    def __post_init__(self) -> None:
        g = self.generator = Generator().manual_seed(11)
        shape = (WORLDS, STATES, ACTIONS)
        self.reward = torch.rand(shape, generator=g)
        self.following = torch.rand(*shape, STATES, generator=g) ** 4
        self.following /= self.following.sum(-1, keepdim=True)
        self.end = 0.3 * (torch.rand(shape, generator=g) < 0.2)
        self.state = torch.randint(STATES, (WORLDS, self.copies), generator=g)
        self.age = torch.randint(LIMIT, (WORLDS, self.copies), generator=g)

    def seen(self, state: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(state, STATES).float()

    def step(self, action: Tensor) -> Transition:
        g, before, world = self.generator, self.state, torch.arange(WORLDS)[:, None]
        chosen = action[..., 0].long()
        after = torch.multinomial(self.following[world, before, chosen].flatten(0, 1), 1, generator=g).view_as(before)
        terminated = torch.rand(before.shape, generator=g) < self.end[world, before, chosen]
        boundary = terminated | (self.age >= LIMIT)
        anywhere = torch.randint(STATES, before.shape, generator=g)
        self.state, self.age = torch.where(boundary, anywhere, after), torch.where(boundary, 0, self.age + 1)
        reward, mask = self.reward[world, before, chosen], torch.ones_like(boundary)
        return Transition(self.seen(before), action, reward, self.seen(after), self.seen(self.state), terminated, boundary, mask)

    def action_value(self, value: Tensor) -> Tensor:
        """r + gamma (1 - end) E V(s'), `[W, S, A]`, from V `[W, S]`."""
        return self.reward + DISCOUNT * (1.0 - self.end) * (self.following @ value[:, None, :, None])[..., 0]

    def optimum(self, temperature: float = 0.0) -> Tensor:
        """V* `[W, S]` by (soft) value iteration."""
        value = torch.zeros(WORLDS, STATES)
        for _ in range(300):
            q = self.action_value(value)
            value = temperature * torch.logsumexp(q / temperature, -1) if temperature else q.amax(-1)
        return value

    def value_of(self, policy: Tensor, temperature: float = 0.0) -> Tensor:
        """V `[W, S]` of a policy `[W, S, A]`, its entropy counted at the temperature, by a linear solve."""
        paid = (policy * (self.reward - temperature * policy.clamp(min=1e-30).log())).sum(-1)
        moves = torch.einsum("wsa,wsat->wst", policy * (1.0 - self.end), self.following)
        return torch.linalg.solve(torch.eye(STATES) - DISCOUNT * moves, paid)


def learn(made: Any, worlds: Worlds, steps: int) -> Any:
    replay = made.experience(steps, worlds.copies)
    for step in range(steps):
        if step == steps // 2:  # smaller steps at the end: the noise of a constant rate is several percent
            for name in ("critic", "actor"):
                if name in made.train.groups:
                    made.train.groups[name].optimizer.learning_rate = 1e-4
        none = torch.zeros(WORLDS, worlds.copies, dtype=torch.bool)
        replay.add(worlds.step(made.behave(worlds.seen(worlds.state), none, None, Progress(step, steps))))
        made.update(replay, Progress(step + 1, steps))
    return made


def generators() -> list[Generator]:
    return [Generator().manual_seed(i) for i in range(WORLDS)]


EVERY_STATE = torch.eye(STATES).expand(WORLDS, -1, -1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("extended", [False, True])
def test_dqn_reaches_the_optimal_values(extended: bool):
    worlds = Worlds(copies=16)
    config = dqn.Config(
        hidden=(64,), discount=DISCOUNT, batch_size=256, learning_rate=2e-3, target_every=25, exploration_end=0.5, random_steps=200,
        update_every=1, error_clip=None, double=extended, dueling=extended, prioritized=extended, importance_start=1.0,
    )  # fmt: skip
    made = learn(dqn.DQN(config, SEEN, Discrete(ACTIONS), generators()), worlds, 2000)
    best = worlds.optimum()
    greedy = torch.nn.functional.one_hot(made.act(EVERY_STATE)[..., 0].long(), ACTIONS).float()
    assert (worlds.value_of(greedy) / best).min() >= 0.98
    with torch.no_grad():
        q = dqn.action_values(made.body, made.train.weights("critic"), EVERY_STATE, None, extended)
    assert (q.amax(-1) / best - 1.0).abs().max() <= 0.02


@pytest.mark.usefixtures("unchecked")
def test_discrete_sac_reaches_the_soft_values_at_its_temperature():
    worlds, temperature = Worlds(copies=16), 0.2
    config = discrete_sac.Config(
        hidden=(64,), discount=DISCOUNT, batch_size=128, learning_rate=3e-3, temperature_learning_rate=0.0,
        initial_temperature=temperature, target_rate=0.05, random_steps=400,
    )  # fmt: skip
    made = learn(discrete_sac.DiscreteSAC(config, SEEN, Discrete(ACTIONS), generators()), worlds, 2000)
    best = worlds.optimum(temperature)
    with torch.no_grad():
        policy = made.actor(made.train.weights("actor"), EVERY_STATE).softmax(-1)
        q = made.critic(made.train.weights("critic"), EVERY_STATE[:, None].expand(-1, 2, -1, -1)).amin(1)
    assert (worlds.value_of(policy, temperature) / best).min() >= 0.98
    assert (worlds.value_of(policy, temperature) / best).max() <= 1.0 + 1e-5
    assert ((policy * (q - temperature * policy.log())).sum(-1) / best - 1.0).abs().max() <= 0.02
    assert ((best / worlds.optimum() - 1.0).mean(1) > 0.02).sum() > 5  # the entropy does count
