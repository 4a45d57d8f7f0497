"""TD3 against separate nets and losses written step by step, and a game whose answer is known."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch, Transition
from tutelage.games.spec import Box
from tutelage.learn.deep.td3 import TD3, Config, critic_loss, smoothed, td3_loss
from tutelage.learn.learner import Progress

R, N, D, A = 2, 16, 3, 2
LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
SEEN = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))
SMALL = Config(hidden=(16, 16), discount=0.9, batch_size=N, target_noise=0.4, target_noise_clip=0.5)


def learner(config: Config = SMALL, members: int = R) -> TD3:
    made = TD3(config, SEEN, Box((A,), LOW.numpy(), HIGH.numpy()), [Generator().manual_seed(i) for i in range(members)])
    g = Generator().manual_seed(77)
    critic = made.train.groups["critic"].parameters.flat  # critics of which now this one is the smaller, now that one
    # And targets that differ from what they follow.
    for flat in (critic, *(target.flat for target in made.train.targets.values())):
        flat.add_(0.3 * torch.randn(flat.shape, generator=g))
    return made


def batch(seed: int = 0) -> Batch:
    """Actions in the game's units."""
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(R, N, *shape, generator=g)
    return Batch(3 * rand(D) - 1.5, LOW + (HIGH - LOW) * rand(A), rand(), 3 * rand(D) - 1.5, rand() < 0.3, (rand() < 0.8).float())


def noise_of(seed: int = 5) -> Tensor:
    return torch.randn(R, N, A, generator=Generator().manual_seed(seed))


Weights = Mapping[str, Tensor]


def net(weights: Weights, x: Tensor, *index: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][index] + weights[f"bias_{i}"][(*index, 0)]
        x = x.relu() if i < last else x
    return x


def slow(made: TD3, given: Batch, noise: Tensor, r: int, actor: Weights, critic: Weights) -> tuple[Tensor, Tensor]:
    """Losses of critic and actor of one seed as the paper's code computes them: in the game's units, transition by transition."""
    config, reach, middle = made.config, (HIGH - LOW) / 2.0, (HIGH + LOW) / 2.0
    mu = lambda weights, s: middle + reach * net(weights, s, r).tanh()
    value = lambda weights, j, s, a: net(weights, torch.cat([s, (a - middle) / reach]), r, j)[0]
    actor_target, critic_target = made.train.targets["actor"].weights, made.train.targets["critic"].weights
    critic_sum, actor_sum, real = torch.zeros(()), torch.zeros(()), 0
    for n in range(N):
        if given.mask[r, n] == 0.0:
            continue
        real += 1
        s, after = given.observation[r, n], given.next_observation[r, n]
        disturbance = (noise[r, n] * config.target_noise * reach).clamp(-config.target_noise_clip * reach, config.target_noise_clip * reach)
        next_action = torch.minimum(torch.maximum(mu(actor_target, after) + disturbance, LOW), HIGH)
        with torch.no_grad():
            next_q = min(value(critic_target, j, after, next_action) for j in range(2))
            y = given.reward[r, n] + (0.0 if given.terminated[r, n] else config.discount * next_q)
        for j in range(2):
            critic_sum = critic_sum + (value(critic, j, s, given.action[r, n]) - y) ** 2
        fixed = {name: weight.detach() for name, weight in critic.items()}
        climbed = [value(fixed, j, s, mu(actor, s)) for j in range(2)]
        actor_sum = actor_sum - (torch.minimum(*climbed) if config.minimum_actor else climbed[0])
    return critic_sum / real, actor_sum / real


@pytest.mark.parametrize("minimum_actor", [False, True])
def test_gradients_equal_those_of_the_slow_version(minimum_actor: bool):
    made, given, noise = learner(replace(SMALL, minimum_actor=minimum_actor)), batch(), noise_of()
    critic, actor = (made.train.groups[name].parameters.leaves for name in ("critic", "actor"))
    targets = made.train.targets["critic"].weights, made.train.targets["actor"].weights
    total, metrics = td3_loss(made.actor, made.critic, actor, critic, *targets, given, noise, made.config)
    leaves = [*critic.values(), *actor.values()]
    ours = torch.autograd.grad(total.sum(), leaves)
    pairs = [slow(made, given, noise, r, actor, critic) for r in range(R)]
    theirs = torch.autograd.grad(sum((c + a for c, a in pairs), torch.zeros(())), leaves)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        assert two.abs().max() > 1e-4
    for name, values in (("loss/critic", [c for c, _ in pairs]), ("loss/actor", [a for _, a in pairs])):
        torch.testing.assert_close(metrics[name], torch.stack(values).detach(), atol=1e-5, rtol=1e-4)
    alone, _ = critic_loss(made.actor, made.critic, critic, *targets, given, noise, made.config)
    for one, two in zip(torch.autograd.grad(alone.sum(), list(critic.values())), ours, strict=False):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_the_minimum_of_both_critics_is_another_gradient():
    plain, minimum = learner(), learner(replace(SMALL, minimum_actor=True))
    gradients = []
    for made in (plain, minimum):
        critic, actor = (made.train.groups[name].parameters.leaves for name in ("critic", "actor"))
        targets = made.train.targets["critic"].weights, made.train.targets["actor"].weights
        total, _ = td3_loss(made.actor, made.critic, actor, critic, *targets, batch(), noise_of(), made.config)
        gradients.append(torch.autograd.grad(total.sum(), [*critic.values(), *actor.values()]))
    count = len(plain.train.groups["critic"].parameters.leaves)
    for i, (one, two) in enumerate(zip(*gradients, strict=True)):
        assert torch.equal(one, two) == (i < count)


def test_smoothing_by_hand():
    action, noise = torch.tensor([[[0.0, 0.0, 0.9, -0.9, 0.2]]]), torch.tensor([[[1.0, 9.0, 1.0, -9.0, -1.0]]])
    # 0.2 eps is 0.2, 1.8 -> 0.5, 0.2, -1.8 -> -0.5, -0.2; the sums are clipped to [-1, 1].
    assert smoothed(action, noise, 0.2, 0.5)[0, 0].tolist() == pytest.approx([0.2, 0.5, 1.0, -1.0, 0.0])


def test_the_actor_and_the_targets_move_every_second_time():
    made = learner()
    watched = {"critic": made.train.groups["critic"].parameters.flat, "actor": made.train.groups["actor"].parameters.flat}
    watched |= {f"{name}'": target.flat for name, target in made.train.targets.items()}
    moved: list[set[str]] = []
    for step in range(5):
        before = {name: flat.clone() for name, flat in watched.items()}
        metrics = made.update_on(batch(step))
        moved.append({name for name, flat in watched.items() if not torch.equal(flat, before[name])})
        assert ("loss/actor" in metrics) == (step % 2 == 1)
    assert moved == [{"critic"}, set(watched)] * 2 + [{"critic"}]


def test_targets_follow_at_their_rate():
    made = learner(replace(SMALL, policy_delay=1, target_rate=0.25))
    before = {name: target.flat.clone() for name, target in made.train.targets.items()}
    made.update_on(batch())
    for name, target in made.train.targets.items():
        expected = 0.75 * before[name] + 0.25 * made.train.groups[name].parameters.flat
        torch.testing.assert_close(target.flat, expected, atol=1e-6, rtol=1e-6)


def test_a_time_limit_is_bootstrapped_and_a_termination_is_not():
    """The same transition in two replays, once ended by the rules and once by the clock; play goes on somewhere else."""
    made, losses = learner(members=1), []
    for terminated in (True, False):
        replay, g = Replay(8, 1, 1, (D,), A), Generator().manual_seed(3)
        seen, successor, fresh = (torch.randn(1, 1, D, generator=g) for _ in range(3))
        action, yes, end = LOW + (HIGH - LOW) * 0.3, torch.ones(1, 1, dtype=torch.bool), torch.tensor([[terminated]])
        replay.add(Transition(seen, action.view(1, 1, A), torch.ones(1, 1), successor, fresh, end, yes, yes))
        given, still = replay.take(torch.zeros(1, 1, dtype=torch.int64)), replace(made.config, target_noise=0.0)
        critic, targets = made.train.weights("critic"), (made.train.targets["critic"].weights, made.train.targets["actor"].weights)
        loss, _ = critic_loss(made.actor, made.critic, critic, *targets, given, torch.zeros(1, 1, A), still)
        unit = net(targets[1], successor[0, 0], 0).tanh()
        next_q = min(net(targets[0], torch.cat([successor[0, 0], unit]), 0, j)[0].item() for j in range(2))
        y = 1.0 + (0.0 if terminated else 0.9 * next_q)
        q = [net(critic, torch.cat([seen[0, 0], made.actor.unit(action.view(1, 1, A))[0, 0]]), 0, j)[0].item() for j in range(2)]
        assert loss.item() == pytest.approx(sum((x - y) ** 2 for x in q), rel=1e-4)
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) > 1e-3


def test_exploration_has_the_spread_it_says_and_stays_in_bounds():
    made, seen = learner(replace(SMALL, random_steps=0, exploration_noise=0.05)), torch.zeros(R, 20_000, D)
    played = made.behave(seen, torch.zeros(R, 20_000, dtype=torch.bool), None, Progress(1, 2))
    difference = (played - made.act(seen)).std(1)
    torch.testing.assert_close(difference, 0.05 * ((HIGH - LOW) / 2.0).expand(R, -1), rtol=0.03, atol=0.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("minimum_actor", [False, True])
def test_the_values_of_two_steps_are_the_exact_ones(minimum_actor: bool):
    """At state 0 an action pays -(a + 0.4)^2 and leads to state 1; there it pays 1 - 2 (a - 0.3)^2, and then it is over."""
    config = Config((64, 64), 0.9, batch_size=128, target_rate=0.05, target_noise=0.02, minimum_actor=minimum_actor)
    one, g = np.ones(1, np.float32), Generator().manual_seed(4)
    made = TD3(config, Box((1,), -one, one), Box((1,), -one, one), [Generator().manual_seed(i) for i in range(2)])
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
        pair = torch.cat([states, best], -1)[:, None].expand(-1, 2, -1, -1)
        q = made.critic(made.train.weights("critic"), pair).squeeze(-1)
    torch.testing.assert_close(q, torch.tensor([0.9, 1.0]).expand(2, 2, -1), atol=0.03, rtol=0.0)
