"""Discrete SAC against sums over actions written out, transition by transition; and its temperature."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep.discrete_sac import Config, DiscreteSAC, discrete_sac_loss

R, N, D, CHOICES = 2, 16, 3, 4
SEEN = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))
SMALL = Config(hidden=(16, 16), discount=0.9, batch_size=N, target_entropy_share=0.7)

Weights = Mapping[str, Tensor]


def learner(config: Config = SMALL) -> DiscreteSAC:
    made = DiscreteSAC(config, SEEN, Discrete(CHOICES), [Generator().manual_seed(i) for i in range(R)])
    g = Generator().manual_seed(77)
    critic = made.train.groups["critic"].parameters.flat  # critics of which now this one is the smaller, now that one
    for flat in (critic, made.train.targets["critic"].flat, made.train.groups["actor"].parameters.flat):
        flat.add_(0.3 * torch.randn(flat.shape, generator=g))
    made.train.weights("temperature")["log_temperature"].copy_(torch.tensor([-1.0, 0.3]))
    return made


def batch(seed: int = 0, masked: bool = True) -> Batch:
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(R, N, *shape, generator=g)
    action = torch.randint(CHOICES, (R, N, 1), generator=g)
    legal, next_legal, terminated = rand(CHOICES) < 0.5, rand(CHOICES) < 0.5, rand() < 0.3
    legal.scatter_(-1, action, True)
    next_legal[..., 1] = True
    next_legal[terminated] = False  # where the game is over nothing can be done
    given = Batch(3 * rand(D) - 1.5, action.float(), 4 * rand() - 2, 3 * rand(D) - 1.5, terminated, (rand() < 0.8).float())
    return replace(given, legal=legal, next_legal=next_legal) if masked else given


def net(weights: Weights, x: Tensor, *index: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][index] + weights[f"bias_{i}"][(*index, 0)]
        x = x.relu() if i < last else x
    return x


def groups(made: DiscreteSAC) -> list[dict[str, Tensor]]:
    return [made.train.groups[name].parameters.leaves for name in ("critic", "actor", "temperature")]


def losses(made: DiscreteSAC, given: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    critic, actor, temperature = groups(made)
    target, log_temperature = made.train.targets["critic"].weights, temperature["log_temperature"]
    return discrete_sac_loss(made.actor, made.critic, actor, critic, target, log_temperature, given, made.head, 0.9, 0.7)


def slow(made: DiscreteSAC, given: Batch, r: int) -> list[Tensor]:
    """Losses of critics, actor and temperature of one seed."""
    critic, actor, temperature = groups(made)
    target, log_alpha = made.train.targets["critic"].weights, temperature["log_temperature"][r]
    alpha, fixed = log_alpha.detach().exp(), {name: weight.detach() for name, weight in critic.items()}
    sums, real = [torch.zeros(()) for _ in range(3)], 0

    def probabilities(seen: Tensor, allowed: list[int]) -> dict[int, Tensor]:
        return dict(zip(allowed, net(actor, seen, r)[allowed].softmax(-1), strict=True))

    def soft(weights: Weights, seen: Tensor, pi: dict[int, Tensor]) -> Tensor:
        q = [net(weights, seen, r, j) for j in range(2)]
        return sum((p * (torch.minimum(q[0][a], q[1][a]) - alpha * p.log()) for a, p in pi.items()), torch.zeros(()))

    for n in range(N):
        if given.mask[r, n] == 0.0:
            continue
        real += 1
        now = list(range(CHOICES)) if given.legal is None else given.legal[r, n].nonzero()[:, 0].tolist()
        then = list(range(CHOICES)) if given.next_legal is None else given.next_legal[r, n].nonzero()[:, 0].tolist()
        seen, after, y = given.observation[r, n], given.next_observation[r, n], given.reward[r, n]
        if not given.terminated[r, n]:
            y = y + 0.9 * soft(target, after, probabilities(after, then)).detach()
        for j in range(2):
            sums[0] = sums[0] + 0.5 * (net(critic, seen, r, j)[int(given.action[r, n, 0])] - y) ** 2
        pi = probabilities(seen, now)
        sums[1] = sums[1] - soft(fixed, seen, pi)
        entropy = -sum((p * p.log() for p in pi.values()), torch.zeros(())).detach()
        sums[2] = sums[2] + log_alpha * (entropy - 0.7 * math.log(len(now)))
    return [x / real for x in sums]


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_those_of_the_slow_version(masked: bool):
    made, given = learner(), batch(masked=masked)
    leaves = [leaf for group in groups(made) for leaf in group.values()]
    total, metrics = losses(made, given)
    expected = [slow(made, given, r) for r in range(R)]
    ours = torch.autograd.grad(total.sum(), leaves)
    theirs = torch.autograd.grad(sum((x for own in expected for x in own), torch.zeros(())), leaves)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        assert two.abs().max() > 1e-4
    for i, name in enumerate(("critic", "actor", "temperature")):
        torch.testing.assert_close(metrics[f"loss/{name}"], torch.stack([own[i] for own in expected]).detach(), atol=1e-5, rtol=1e-4)


def test_illegal_actions_have_no_part_in_anything():
    made, given, never = learner(), batch(), torch.tensor([True, True, False, True])
    assert given.legal is not None and given.next_legal is not None
    given = replace(given, legal=given.legal & never, next_legal=given.next_legal & never)
    given.mask.mul_(given.action[..., 0] != 2)
    leaves = [leaf for group in groups(made) for leaf in group.values()]
    before = torch.autograd.grad(losses(made, given)[0].sum(), leaves)
    for weights in (made.train.weights("critic"), made.train.weights("actor"), made.train.targets["critic"].weights):
        weights["weight_2"][..., 2].add_(3.0)
        weights["bias_2"][..., 2].add_(50.0)
    after = torch.autograd.grad(losses(made, given)[0].sum(), leaves)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
        assert two.isfinite().all()
    seen, legal = given.observation, never.expand(R, N, -1)
    assert not any((made.act(seen, still, legal)[..., 0] == 2).any() for still in (True, False))
    assert (made.act(seen, True)[..., 0] == 2).all()


def test_the_policy_is_drawn_from_and_its_mode_is_the_most_probable():
    made, seen = learner(), torch.ones(R, 40_000, D)
    pi = net(made.train.weights("actor"), seen[0, 0], 0).softmax(-1)
    shares = torch.bincount(made.act(seen)[0, :, 0].long(), minlength=CHOICES) / 40_000
    torch.testing.assert_close(shares, pi, atol=0.01, rtol=0.0)
    assert (made.act(seen, deterministic=True)[0, :, 0] == pi.argmax()).all()


@pytest.mark.usefixtures("unchecked")
def test_the_temperature_brings_the_entropy_to_its_target():
    """A bandit with a choice of three among four, whose rewards differ: half of the largest entropy, log 3 / 2."""
    config = Config(hidden=(16,), batch_size=64, learning_rate=3e-3, temperature_learning_rate=1e-2, target_entropy_share=0.5)
    made = DiscreteSAC(config, Box((1,), np.zeros(1), np.ones(1)), Discrete(4), [Generator().manual_seed(i) for i in range(R)])
    legal, g = torch.tensor([True, True, False, True]).expand(R, 64, -1), Generator().manual_seed(0)
    metrics: dict[str, Tensor] = {}
    for _ in range(800):
        action = torch.tensor([0.0, 1.0, 3.0])[torch.randint(3, (R, 64, 1), generator=g)]
        zero, end = torch.zeros(R, 64, 1), torch.ones(R, 64, dtype=torch.bool)
        metrics = made.update_on(Batch(zero, action, action[..., 0], zero, end, torch.ones(R, 64), legal, legal))
    assert metrics["entropy"].tolist() == pytest.approx([0.5 * math.log(3.0)] * R, abs=0.02)
    # pi = softmax(r / alpha) over 0, 1, 3 has that entropy at one temperature only.
    entropy = lambda alpha: torch.distributions.Categorical(logits=torch.tensor([0.0, 1.0, 3.0]) / alpha).entropy().item()
    low, high = 0.1, 10.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if entropy(middle) < 0.5 * math.log(3.0) else (low, middle)
    assert metrics["temperature"].tolist() == pytest.approx([low] * R, rel=0.05)
