"""FORK against loops over seeds, agents and samples: what is predicted is detached, and a gradient is one's own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from tutelage.experience.trajectory import Batch
from tutelage.learn.many_agents.matd3 import MATD3, Config, matd3_loss

SMALL = Config(hidden=(8, 8), discount=0.9, output_penalty=0.0, fork=True, fork_weight=0.7, fork_threshold=1e9)
BOUNDS = torch.tensor([[-0.1, 0.2], [-0.2, 0.1]])
"""Of each seed; here the same for all its models."""


def bounds_of(team: Any) -> list[Tensor]:
    return [BOUNDS[: team.nets.members].repeat_interleave(system.members[0] // team.nets.members, 0) for system in team.nets.systems]


"""Of both seeds; narrow enough that some predictions are cut off."""
Make = Callable[..., Any]
Vectors = dict[int, Tensor]


def net(weights: Any, x: Tensor, member: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][member] + weights[f"bias_{i}"][member, 0]
        x = x.relu() if i < last else x
    return x


class Models:
    """What F and G say of a team, judged by the slow version of its losses."""

    def __init__(self, judge: Any, noise: Sequence[Sequence[Tensor]]) -> None:
        self.judge, self.noise, self.config, self.batch = judge, noise, judge.config, judge.batch
        self.joint = self.config.scheme in ("ct-de", "centralized")

    def world(self, i: int, r: int, seen: Vectors, done: Vectors, fixed: bool = True) -> tuple[Tensor, Tensor]:
        """F(w, a) within its bounds, and without them."""
        unit, member = self.judge.critic_index(i, r)
        weights = self.judge.leaves[f"systems_{unit}"]
        weights = {name: w.detach() for name, w in weights.items()} if fixed else weights
        free = net(weights, torch.cat(self.judge.pair(i, seen, done)), r if self.config.scheme == "ct-de" else member)
        return free.clamp(*BOUNDS[r].tolist()), free

    def reward(self, i: int, r: int, seen: Vectors, following: Tensor, done: Vectors, fixed: bool = True) -> Tensor:
        unit, member = self.judge.critic_index(i, r)
        weights = self.judge.leaves[f"rewards_{unit}"]
        weights = {name: w.detach() for name, w in weights.items()} if fixed else weights
        own_seen, own_done = self.judge.pair(i, seen, done)
        return net(weights, torch.cat([own_seen, following, own_done]), member)[0]

    def apart(self, i: int, joint: Tensor) -> Vectors:
        """What each agent sees of what critic i does."""
        if not self.joint:
            return {i: joint}
        widths = [len(self.judge.seen(self.batch.observation, 0, 0)[k]) for k in self.judge.order]
        return dict(zip(self.judge.order, joint.split(widths), strict=True))

    def system_loss(self, r: int, pool: list[int]) -> Tensor:
        """Of one model of one seed."""
        errors: list[Tensor] = []
        for i, n in product(pool, range(self.judge.rows)):
            counted = any(self.batch.mask[r, n, k] for k in self.judge.order) if self.joint else self.batch.mask[r, n, i]
            if counted:
                seen, following = (self.judge.seen(x, r, n) for x in (self.batch.observation, self.batch.next_observation))
                kept, _ = self.world(i, r, seen, self.judge.done(r, n), fixed=False)
                errors.append(smooth_l1_loss(kept, self.judge.pair(i, following, following)[0]))
        return torch.stack(errors).mean()

    def pools(self) -> list[list[int]]:
        return [self.judge.order[:1]] if self.config.scheme == "ct-de" else self.judge.pools

    def loss(self) -> tuple[Tensor, Tensor]:
        system = [self.system_loss(r, pool) for r in range(self.judge.members) for pool in self.pools()]

        def paid(i: int, r: int, n: int) -> Tensor:
            seen, following = (self.judge.seen(x, r, n) for x in (self.batch.observation, self.batch.next_observation))
            reward, _, _ = self.judge.outcome(i, r, n)
            return (self.reward(i, r, seen, self.judge.pair(i, following, following)[0], self.judge.done(r, n), fixed=False) - reward) ** 2

        return torch.stack(system).sum(), self.judge.mean(paid)

    def gate(self, i: int, r: int) -> bool:
        [pool] = [pool for pool in self.pools() if i in pool] if self.config.scheme != "ct-de" else self.pools()
        return self.system_loss(r, pool).item() < self.config.fork_threshold

    def ahead(self, i: int, r: int, n: int, seen: Vectors, done: Vectors) -> Tensor:
        """w [G(s, s1, a) + gamma G(s1, s2, a1) + gamma^2 Q(s2, a2)], or 0 where the world is not known well enough."""
        if not self.gate(i, r):
            return torch.zeros(())
        judge, gamma, total = self.judge, self.config.discount, torch.zeros(())
        row = judge.order.index(i) * judge.rows + n if self.config.scheme == "ct-de" else n
        for step in (0, 1):
            predicted = self.world(i, r, seen, done)[0].detach()
            total = total + gamma**step * self.reward(i, r, seen, predicted, done)
            seen = self.apart(i, predicted)
            acting = judge.order if self.joint else [i]
            done = {k: judge.act(judge.leaves, k, r, seen, self.noise[2 + step], row, "climb", None) for k in acting}
            if self.config.scheme == "ct-de":
                done = {k: x if k == i else x.detach() for k, x in done.items()}
        return self.config.fork_weight * (total + gamma**2 * judge.climbed(i, r, seen, done))


def fork_loss(made: MATD3, given: Batch, noise: Sequence[Sequence[Tensor]], number: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients by `group/weight`, and metrics."""
    team: Any = made.teams[number]
    leaves = {f"{g}/{w}": leaf for g, group in team.train.groups.items() for w, leaf in group.parameters.leaves.items()}
    groups = [group.parameters.leaves for group in team.train.groups.values()]
    targets = [target.weights for target in team.train.targets.values()]
    loss, metrics = matd3_loss(team.nets, groups, targets, given, noise, bounds_of(team), made.config, climb=True)
    return dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True)), metrics


def drawn(judge: Any) -> list[list[Tensor]]:
    each = len(judge.order) if judge.config.scheme == "ct-de" else 1
    return [judge.noise(5), judge.noise(6), judge.noise(7, each), judge.noise(8, each)]


CASES = [
    *product(["ct-de", "concurrent", "centralized"], ["reals", "choices"], [((0, 1, 2),)]),
    ("ct-de", "mixed", ((0, 1, 2),)), ("concurrent", "mixed", ((0, 2), (1,))), ("ct-de", "reals", ((0, 2), (1,))),
    *product(["shared"], ["alike", "alike choices"], [((0, 1, 2),)]),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "kinds", "teams"), CASES)
@pytest.mark.parametrize(("soft", "minimum_actor"), [(False, False), (True, True)])
def test_gradients_equal_those_of_the_slow_version(
    players: Make, batch: Make, learner: Make, slow: Make, scheme: Any, kinds: str, teams: Any, soft: bool, minimum_actor: bool
):
    """TD3-FORK, and TD4-FORK with its minimum both at s and at s2; dead agents in the batch, and predictions that are cut off."""
    made = learner(replace(SMALL, scheme=scheme, soft=soft, minimum_actor=minimum_actor), players(kinds, teams))
    given = batch(players(kinds), seed=4, rows=4)
    judge = slow(made, given)
    models = Models(judge, drawn(judge))
    ours, metrics = fork_loss(made, given, models.noise)
    system, reward = models.loss()
    total = judge.critic_loss(models.noise[0]) + system + reward + judge.actor_loss(models.noise[1], models.ahead)
    leaves = {f"{g}/{w}": leaf for g, weights in judge.leaves.items() for w, leaf in weights.items()}
    for name, one in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(ours[name], one, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert one.abs().max() > 1e-5, f"{name}: nothing to compare"
    assert metrics["loss/system"].sum().item() == pytest.approx(system.item() / len(models.pools()), abs=1e-5)
    assert metrics["loss/reward"].sum().item() == pytest.approx(reward.item() / len(judge.pools), abs=1e-5)
    assert metrics["fork/share"].tolist() == [1.0, 1.0]
    cut = [models.world(judge.order[0], r, judge.seen(given.observation, r, 0), judge.done(r, 0)) for r in range(2)]
    assert any(not torch.equal(kept, free) for kept, free in cut)  # the clamp was at work


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
def test_it_changes_actors_only_where_the_world_is_known(players: Make, batch: Make, learner: Make, slow: Make, scheme: Any):
    """Nothing is added for a loss that equals the threshold; each model has a gate of its own, on each batch."""
    kinds = players("alike")
    given, plain = batch(kinds), learner(replace(SMALL, scheme=scheme, fork=False), kinds)
    made = learner(replace(SMALL, scheme=scheme), kinds)
    for name, group in plain.teams[0].train.groups.items():
        group.parameters.flat.copy_(made.teams[0].train.groups[name].parameters.flat)
    for name, target in plain.teams[0].train.targets.items():
        target.flat.copy_(made.teams[0].train.targets[name].flat)
    judge = slow(made, given)
    models = Models(judge, drawn(judge))
    without, _ = fork_loss(plain, given, models.noise)
    losses = [[models.system_loss(r, pool).item() for pool in models.pools()] for r in range(2)]
    least = min(min(own) for own in losses)
    for threshold in (0.0, least + 1e-5, 1e9):
        made.config = replace(made.config, fork_threshold=threshold)
        ours, metrics = fork_loss(made, given, models.noise)
        opened = [[loss < threshold for loss in own] for own in losses]
        assert metrics["fork/share"].tolist() == pytest.approx([sum(own) / len(own) for own in opened])
        for name, one in without.items():
            changed = [not torch.equal(x, y) for x, y in zip(one, ours[name], strict=True)]
            each = [x for own in opened for x in (own if scheme == "concurrent" else own * (3 if scheme == "ct-de" else 1))]
            assert changed == (each if name.startswith("actors") else [False] * len(one)), (name, threshold)


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent"])
def test_hand_constants(players: Make, batch: Make, learner: Make, scheme: Any):
    """A G that is linear in the action, by hand: the actor's gradient counts mu(s) once and mu(s1) gamma times, at the clamped s1."""
    made = learner(replace(SMALL, scheme=scheme, hidden=(), fork_weight=1.0), players("alone"), members=1)
    team: Any = made.teams[0]
    weights = {name: group.parameters.weights for name, group in team.train.groups.items()}
    for own in weights.values():
        for x in own.values():
            x.zero_()
    weights["rewards_0"]["weight_0"][0, 6, 0] = 2.0  # G = 2 a_1
    weights["systems_0"]["bias_0"][0, 0] = torch.tensor([0.1, 0.2, 5.0])  # F = (0.1, 0.2, 5), of which the last is cut to 0.2
    given = batch(players("alone"), members=1, alive=1.0)
    zero = [[torch.zeros(1, 5, 2)]] * 4
    leaves = {f"{g}/{w}": x for g, group in team.train.groups.items() for w, x in group.parameters.leaves.items()}
    groups = [group.parameters.leaves for group in team.train.groups.values()]
    targets = [target.weights for target in team.train.targets.values()]
    loss, _ = matd3_loss(team.nets, groups, targets, given, zero, bounds_of(team), made.config, climb=True)
    found = dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True))
    # d/dW of 2 tanh(s W) + 0.9 * 2 tanh(s1 W) at W = 0 is 2 s + 1.8 s1, in the column of a_1.
    expected = -(2.0 * given.observation[0].mean(0) + 1.8 * torch.tensor([0.1, 0.2, 0.2]))
    torch.testing.assert_close(found["actors_0/weight_0"][0, :, 0], expected)
    assert not found["actors_0/weight_0"][0, :, 1].any()
    assert found["actors_0/bias_0"][0, 0].tolist() == pytest.approx([-3.8, 0.0])


def test_bounds_are_of_all_that_was_seen_so_far_of_each_seed(players: Make, batch: Make, learner: Make):
    kinds = players("alike")
    made, low, high = learner(SMALL, kinds), torch.full((2,), torch.inf), torch.full((2,), -torch.inf)
    for seed in range(3):
        given = batch(kinds, seed=seed)
        made.teams[0].update_on(given)
        low, high = torch.minimum(low, given.observation.flatten(1).amin(1)), torch.maximum(high, given.observation.flatten(1).amax(1))
        torch.testing.assert_close(made.teams[0].bounds, [torch.stack([low, high], 1)])


def test_agents_on_their_own_do_not_feel_what_others_saw(players: Make, batch: Make, learner: Make):
    """Concurrent: an agent's model is kept within what that agent has seen, so that another's wild observations change none of its bits."""
    kinds = players("reals")
    one, two = (learner(replace(SMALL, scheme="concurrent"), kinds) for _ in range(2))
    for made in (one, two):
        made.teams[0].train.groups["systems_0"].parameters.flat.mul_(4.0)  # predictions beyond what was seen
    for step in range(2):
        given = batch(kinds, seed=step)
        wild = given.observation.clone()
        wild[..., 6:] *= 50.0  # of agent 1
        one.teams[0].update_on(given)
        two.teams[0].update_on(replace(given, observation=wild))
    for kind in ("critics", "systems", "rewards", "actors"):
        ours, theirs = (x.teams[0].train.groups[f"{kind}_0"].parameters.flat for x in (one, two))
        assert torch.equal(ours, theirs), kind


def test_a_team_does_not_feel_what_opponents_saw(players: Make, batch: Make, learner: Make):
    kinds = players("reals", [(0, 2), (1,)])
    one, two = (learner(SMALL, kinds) for _ in range(2))
    for made in (one, two):
        made.teams[0].train.groups["systems_0"].parameters.flat.mul_(4.0)  # predictions beyond what was seen
    for step in range(2):
        given = batch(kinds, seed=step)
        wild = given.observation.clone()
        wild[..., 6:] *= 50.0  # of agent 1, an opponent
        one.teams[0].update_on(given)
        two.teams[0].update_on(replace(given, observation=wild))
    for name, group in one.teams[0].train.groups.items():
        assert torch.equal(group.parameters.flat, two.teams[0].train.groups[name].parameters.flat), name


def test_who_asks_is_no_matter_of_prediction(players: Make, batch: Make, learner: Make):
    """Observations between -0.5 and 0.5: a model that knows the world has no loss, though the agent's number is a one-hot vector."""
    kinds = players("alike")
    made, given = learner(replace(SMALL, scheme="shared", agent_id=True, hidden=()), kinds), batch(kinds, alive=1.0)
    small = replace(given, observation=given.observation / 3.0, next_observation=given.observation / 3.0)
    system = made.teams[0].train.groups["systems_0"].parameters.weights
    system["weight_0"].zero_()
    system["weight_0"][:, range(system["weight_0"].shape[-1]), range(system["weight_0"].shape[-1])] = 1.0  # w' = w
    system["bias_0"].zero_()
    metrics = made.teams[0].update_on(small)
    assert metrics["loss/system"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
