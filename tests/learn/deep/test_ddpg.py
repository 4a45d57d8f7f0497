"""DDPG against separate nets and losses written step by step, and a game whose answer is known."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box
from tutelage.learn.deep.ddpg import DDPG, Config, ddpg_loss

R, N, D, A = 2, 16, 3, 2
LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
SEEN = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))
SMALL = Config(hidden=(16, 16), discount=0.9, batch_size=N)


def learner(config: Config = SMALL) -> DDPG:
    made = DDPG(config, SEEN, Box((A,), LOW.numpy(), HIGH.numpy()), [Generator().manual_seed(i) for i in range(R)])
    g = Generator().manual_seed(77)
    for target in made.train.targets.values():  # targets that differ from what they follow
        target.flat.add_(0.3 * torch.randn(target.flat.shape, generator=g))
    return made


def batch(seed: int = 0) -> Batch:
    """Actions in the game's units."""
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(R, N, *shape, generator=g)
    return Batch(3 * rand(D) - 1.5, LOW + (HIGH - LOW) * rand(A), rand(), 3 * rand(D) - 1.5, rand() < 0.3, (rand() < 0.8).float())


def net(weights: Mapping[str, Tensor], x: Tensor, *index: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][index] + weights[f"bias_{i}"][(*index, 0)]
        x = x.relu() if i < last else x
    return x


def test_gradients_equal_those_of_the_slow_version():
    made, given = learner(), batch()
    critic, actor = (made.train.groups[name].parameters.leaves for name in ("critic", "actor"))
    actor_target, critic_target = made.train.targets["actor"].weights, made.train.targets["critic"].weights
    total, metrics = ddpg_loss(made.actor, made.critic, actor, critic, actor_target, critic_target, given, 0.9)
    leaves, reach, middle = [*critic.values(), *actor.values()], (HIGH - LOW) / 2.0, (HIGH + LOW) / 2.0
    fixed = {name: weight.detach() for name, weight in critic.items()}
    mu = lambda weights, s, r: middle + reach * net(weights, s, r).tanh()
    value = lambda weights, s, a, r: net(weights, torch.cat([s, (a - middle) / reach]), r)[0]
    sums = torch.zeros(2, R)
    for r in range(R):
        for n in given.mask[r].nonzero()[:, 0]:
            s, after = given.observation[r, n], given.next_observation[r, n]
            with torch.no_grad():
                next_q = value(critic_target, after, mu(actor_target, after, r), r)
                y = given.reward[r, n] + (0.0 if given.terminated[r, n] else 0.9 * next_q)
            terms = torch.stack([(value(critic, s, given.action[r, n], r) - y) ** 2, -value(fixed, s, mu(actor, s, r), r)])
            sums = sums + torch.nn.functional.pad(terms[:, None] / given.mask[r].sum(), (r, R - 1 - r))
    ours, theirs = torch.autograd.grad(total.sum(), leaves), torch.autograd.grad(sums.sum(), leaves)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        assert two.abs().max() > 1e-4
    torch.testing.assert_close(torch.stack([metrics["loss/critic"], metrics["loss/actor"]]), sums.detach(), atol=1e-5, rtol=1e-4)


def test_targets_follow_at_their_rate_and_each_net_has_its_own_learning_rate():
    made = learner(replace(SMALL, target_rate=0.25, actor_learning_rate=1e-2, critic_learning_rate=1e-4))
    before = {name: target.flat.clone() for name, target in made.train.targets.items()}
    weights = {name: group.parameters.flat.clone() for name, group in made.train.groups.items()}
    made.update_on(batch())
    for name, rate in (("critic", 1e-4), ("actor", 1e-2)):
        now = made.train.groups[name].parameters.flat
        torch.testing.assert_close(made.train.targets[name].flat, 0.75 * before[name] + 0.25 * now, atol=1e-6, rtol=1e-6)
        assert (now - weights[name]).abs().max().item() == pytest.approx(rate, rel=0.01)  # Adam's first step


@pytest.mark.usefixtures("unchecked")
def test_the_values_of_two_steps_are_the_exact_ones():
    """At state 0 an action pays -(a + 0.4)^2 and leads to state 1; there it pays 1 - 2 (a - 0.3)^2, and then it is over."""
    config = Config((64, 64), 0.9, batch_size=128, target_rate=0.05)
    one, g = np.ones(1, np.float32), Generator().manual_seed(4)
    made = DDPG(config, Box((1,), -one, one), Box((1,), -one, one), [Generator().manual_seed(i) for i in range(2)])
    for step in range(1500):
        if step == 900:
            for group in made.train.groups.values():
                group.optimizer.learning_rate = 2e-4
        action = 2.0 * torch.rand(2, 128, 1, generator=g) - 1.0
        state = (torch.rand(2, 128, 1, generator=g) < 0.5).float()
        second = state[..., 0] > 0.5
        reward = torch.where(second, 1.0 - 2.0 * (action[..., 0] - 0.3) ** 2, -((action[..., 0] + 0.4) ** 2))
        made.update_on(Batch(state, action, reward, torch.ones(2, 128, 1), second, torch.ones(2, 128)))
    states = torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(2, -1, -1)
    best = made.act(states)
    first, last = -((best[:, 0, 0] + 0.4) ** 2), 1.0 - 2.0 * (best[:, 1, 0] - 0.3) ** 2
    assert (last.min() >= 0.98) and ((first + 0.9 * last).min() >= 0.98 * 0.9)
    with torch.no_grad():
        q = made.critic(made.train.weights("critic"), torch.cat([states, best], -1)).squeeze(-1)
    torch.testing.assert_close(q, torch.tensor([0.9, 1.0]).expand(2, -1), atol=0.03, rtol=0.0)
