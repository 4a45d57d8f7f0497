"""DQN against a slow version, transition by transition, for every combination of its fields; and its schedules."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch, Transition
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep.dqn import DQN, PRIORITY_FLOOR, Config, dqn_loss, dueling_value
from tutelage.learn.learner import Progress

R, N, D, CHOICES = 2, 24, 3, 4
SEEN = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))
SMALL = Config(hidden=(16, 16), discount=0.9, batch_size=N, target_every=3, max_grad_norm=None, random_steps=0, update_every=1)


def learner(config: Config = SMALL, members: int = R) -> DQN:
    made = DQN(config, SEEN, Discrete(CHOICES), [Generator().manual_seed(i) for i in range(members)])
    made.target.flat.add_(0.3 * torch.randn(made.target.flat.shape, generator=Generator().manual_seed(77)))
    return made


def batch(seed: int = 0, masked: bool = True, discounted: bool = False) -> Batch:
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(R, N, *shape, generator=g)
    action = torch.randint(CHOICES, (R, N, 1), generator=g)
    legal, next_legal = rand(CHOICES) < 0.5, rand(CHOICES) < 0.5
    legal.scatter_(-1, action, True)
    next_legal[..., 1] = True
    terminated = rand() < 0.3
    next_legal[terminated] = False  # where the game is over nothing can be done
    given = Batch(3 * rand(D) - 1.5, action.float(), 4 * rand() - 2, 3 * rand(D) - 1.5, terminated, (rand() < 0.8).float())
    given = replace(given, legal=legal, next_legal=next_legal) if masked else given
    return replace(given, discount=rand()) if discounted else given


def net(weights: Mapping[str, Tensor], x: Tensor, r: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][r] + weights[f"bias_{i}"][r, 0]
        x = x.relu() if i < last else x
    return x


def slow(config: Config, given: Batch, importance: Tensor, r: int, online: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """The loss of one seed."""

    def q_of(weights: Mapping[str, Tensor], observation: Tensor, allowed: list[int]) -> Tensor:
        output = net(weights, observation, r)
        if not config.dueling:
            return output
        advantage = output[1:]
        return output[0] + advantage - sum((advantage[a] for a in allowed), torch.zeros(())) / len(allowed)

    total, real = torch.zeros(()), 0
    for n in range(N):
        if given.mask[r, n] == 0.0:
            continue
        real += 1
        every = list(range(CHOICES))
        now = every if given.legal is None else [a for a in every if given.legal[r, n, a]]
        then = every if given.next_legal is None else [a for a in every if given.next_legal[r, n, a]]
        y = given.reward[r, n]
        if not given.terminated[r, n]:
            with torch.no_grad():
                after = q_of(target, given.next_observation[r, n], then)
                chooser = q_of(online, given.next_observation[r, n], then) if config.double else after
                best = max(then, key=lambda a: chooser[a].item())
                y = y + (config.discount if given.discount is None else given.discount[r, n]) * after[best]
        error = q_of(online, given.observation[r, n], now)[int(given.action[r, n, 0])] - y
        clip = math.inf if config.error_clip is None else config.error_clip
        term = 0.5 * error**2 if error.abs() < clip else clip * (error.abs() - 0.5 * clip)
        total = total + importance[r, n] * term
    return total / real


def gradient(made: DQN, given: Batch, importance: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = made.train.groups["critic"].parameters.leaves
    loss, _ = dqn_loss(made.body, leaves, made.target.weights, given, importance, made.config)
    return loss.detach(), list(torch.autograd.grad(loss.sum(), list(leaves.values())))


@pytest.mark.parametrize(("double", "dueling", "masked"), [*itertools.product([False, True], repeat=3)])
@pytest.mark.parametrize("clip", [None, 0.7])
def test_gradients_equal_those_of_the_slow_version(double: bool, dueling: bool, masked: bool, clip: float | None):
    made = learner(replace(SMALL, double=double, dueling=dueling, error_clip=clip))
    given, importance = batch(masked=masked, discounted=double), torch.rand(R, N, generator=Generator().manual_seed(9))
    leaves = made.train.groups["critic"].parameters.leaves
    losses = [slow(made.config, given, importance, r, leaves, made.target.weights) for r in range(R)]
    theirs = torch.autograd.grad(sum(losses, torch.zeros(())), list(leaves.values()))
    loss, ours = gradient(made, given, importance)
    torch.testing.assert_close(loss, torch.stack(losses).detach(), atol=1e-5, rtol=1e-4)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        assert two.abs().max() > 1e-4


@pytest.mark.parametrize("changed", [{"double": True}, {"dueling": True}, {"error_clip": None}, {"discount": 0.5}])
def test_each_field_changes_the_gradient(changed: dict[str, float | bool | None]):
    made = learner(replace(SMALL, error_clip=0.7))
    loss, _ = gradient(made, batch(), torch.ones(R, N))
    other = learner(replace(SMALL, **({"error_clip": 0.7} | changed)))
    assert ((gradient(other, batch(), torch.ones(R, N))[0] - loss).abs() > 1e-4).all()


def test_dueling_values_by_hand():
    advantage, legal = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False])
    assert dueling_value(torch.tensor(10.0), advantage, None).tolist() == [8.0, 9.0, 13.0]
    assert dueling_value(torch.tensor(10.0), advantage, legal)[:2].tolist() == [9.5, 10.5]  # as if the third were not there


@pytest.mark.parametrize("dueling", [False, True])
def test_illegal_actions_have_no_part_in_anything(dueling: bool):
    made = learner(replace(SMALL, double=True, dueling=dueling))
    given = batch()
    assert given.legal is not None and given.next_legal is not None
    never = torch.tensor([True, True, False, True])
    given = replace(given, legal=given.legal & never, next_legal=given.next_legal & never)
    given.mask.mul_(given.action[..., 0] != 2)
    before = gradient(made, given, torch.ones(R, N))
    column = 2 + dueling
    for weights in (made.train.weights("critic"), made.target.weights):
        weights["weight_2"][..., column].add_(3.0)
        weights["bias_2"][..., column].add_(100.0)
    after = gradient(made, given, torch.ones(R, N))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)
    assert (after[1][4][..., column] == 0.0).all()
    seen = given.observation
    assert (made.act(seen)[..., 0] == 2).all() and not (made.act(seen, legal=never.expand(R, N, -1))[..., 0] == 2).any()


def test_exploration_follows_its_schedule_and_is_uniform_over_legal_actions():
    made = learner(replace(SMALL, random_steps=10, exploration_start=0.8, exploration_end=0.2, exploration_fraction=0.5))
    assert [made.exploration(Progress(t, 100)) for t in (0, 9, 10, 25, 50, 99)] == pytest.approx([1.0, 1.0, 0.68, 0.5, 0.2, 0.2])
    seen, legal = torch.zeros(R, 20_000, D), torch.tensor([True, False, True, True]).expand(R, 20_000, -1)
    best = made.act(seen, legal=legal)[:, 0, 0].long()
    for t, epsilon in ((0, 1.0), (25, 0.5), (99, 0.2)):
        played = made.behave(seen, torch.zeros(R, 20_000, dtype=torch.bool), legal, Progress(t, 100))[..., 0].long()
        for r in range(R):
            shares = torch.bincount(played[r], minlength=CHOICES) / 20_000
            expected = torch.tensor([1.0, 0.0, 1.0, 1.0]) * epsilon / 3.0
            expected[best[r]] += 1.0 - epsilon
            torch.testing.assert_close(shares, expected, atol=0.015, rtol=0.0)


def test_the_target_is_copied_every_so_often():
    made, copied = learner(), []
    for step in range(7):
        made.update_on(batch(step))
        copied.append(torch.equal(made.target.flat, made.train.groups["critic"].parameters.flat))
    assert copied == [False, False, True] * 2 + [False]
    slowly = learner(replace(SMALL, target_every=1, target_rate=0.25))
    before = slowly.target.flat.clone()
    slowly.update_on(batch())
    expected = 0.75 * before + 0.25 * slowly.train.groups["critic"].parameters.flat
    torch.testing.assert_close(slowly.target.flat, expected, atol=1e-6, rtol=1e-6)


def walk(made: DQN, steps: int, learn: bool) -> tuple[Replay, list[int]]:
    """A walk without end over fixed random observations: what was stored, and the steps at which something was learned."""
    replay, no = made.experience(50, 1), torch.zeros(R, 1, dtype=torch.bool)
    seen = torch.randn(steps + 1, R, 1, D, generator=Generator().manual_seed(2))
    learned: list[int] = []
    for t in range(steps):
        action = made.behave(seen[t], no, None, Progress(t, steps))
        replay.add(Transition(seen[t], action, seen[t, ..., 0], seen[t + 1], seen[t + 1], no, no, ~no))
        if learn and made.update(replay, Progress(t + 1, steps)):
            learned.append(t + 1)
    return replay, learned


def test_updates_come_at_their_times():
    made = learner(replace(SMALL, random_steps=5, update_every=4, updates_at_once=3))
    assert walk(made, 18, learn=True)[1] == [8, 12, 16] and made.train.updates == 9


def test_n_steps_reach_the_loss(monkeypatch: pytest.MonkeyPatch):
    made, given = learner(replace(SMALL, n_step=3, discount=0.5)), []
    monkeypatch.setattr(made, "update_on", lambda batch, importance: given.append(batch) or {"error": torch.zeros(R, N)})
    walk(made, 20, learn=True)
    assert given[-1].discount is not None and set(given[-1].discount.unique().tolist()) == {0.5, 0.25, 0.125}


def test_errors_become_priorities_and_weights_undo_the_bias(monkeypatch: pytest.MonkeyPatch):
    made = learner(replace(SMALL, prioritized=True, priority_exponent=0.5, importance_start=0.4, batch_size=6))
    replay, _ = walk(made, 20, learn=False)
    assert replay.priorities is not None
    replay.priorities.set(torch.arange(20).expand(R, -1), torch.arange(1.0, 21.0).expand(R, -1))
    shares = torch.arange(1.0, 21.0).sqrt() / torch.arange(1.0, 21.0).sqrt().sum()
    seen: dict[str, Tensor] = {}
    original = made.update_on

    def spy(given: Batch, importance: Tensor) -> dict[str, Tensor]:
        metrics = original(given, importance)
        seen.update(importance=importance, error=metrics["error"], reward=given.reward)
        return metrics

    monkeypatch.setattr(made, "update_on", spy)
    before = replay.priorities.leaves.clone()
    metrics = made.update(replay, Progress(20, 40))
    assert "error" not in metrics
    for r in range(R):
        columns = [int((replay.reward[r] == reward).nonzero()[0]) for reward in seen["reward"][r]]
        expected = (20 * shares[columns]) ** -(0.4 + 0.5 * 0.6)  # half of the run is over
        torch.testing.assert_close(seen["importance"][r], expected / expected.max(), atol=1e-5, rtol=1e-5)
        leaves = replay.priorities.leaves.view(R, -1)[r]
        for column, error in zip(columns, seen["error"][r], strict=True):
            assert leaves[column].item() == pytest.approx((abs(error.item()) + PRIORITY_FLOOR) ** 0.5, rel=1e-5)
        others = [c for c in range(20) if c not in columns]
        assert torch.equal(leaves[others], before.view(R, -1)[r][others])


def test_the_gradient_is_clipped_for_each_seed():
    plain, clipped = learner(), learner(replace(SMALL, max_grad_norm=1e-4))
    for made in (plain, clipped):
        made.update_on(batch())
    moments = [made.train.groups["critic"].optimizer.first_moment for made in (plain, clipped)]
    views = [made.train.groups["critic"].parameters.split(moment) for made, moment in zip((plain, clipped), moments, strict=True)]
    norms = [torch.stack([x.reshape(R, -1).square().sum(-1) for x in view.values()]).sum(0).sqrt() for view in views]
    torch.testing.assert_close(norms[1], torch.full((R,), 1e-5), rtol=0.02, atol=0.0)  # the first moment is a tenth of the gradient
    assert (norms[0] > 1e-3).all()
