"""MASAC against loops over seeds, agents and samples, against SAC for one agent, and in a game of one choice whose soft value is known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from tutelage.equations.bellman import soft_value
from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep import sac
from tutelage.learn.many_agents.masac import MASAC, Config, masac_loss
from tutelage.nets.mlp import MLP

SMALL = Config(hidden=(8, 8), discount=0.9, batch_size=16, initial_temperature=0.3, temperature=0.7)
Make = Callable[..., Any]
Gradients = dict[str, Tensor]
Vectors = dict[int, Tensor]


def net(weights: Any, x: Tensor, member: int) -> Tensor:
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"weight_{i}"][member] + weights[f"bias_{i}"][member, 0]
        x = x.relu() if i < last else x
    return x


def sizes_of(space: Any) -> tuple[int, ...]:
    return (space.n,) if isinstance(space, Discrete) else space.sizes


def width_of(space: Any) -> int:
    return space.shape[0] if isinstance(space, Box) else sum(sizes_of(space))


def detached(weights: Any) -> Any:
    return {name: weight.detach() for name, weight in weights.items()}


def learner(config: Config, players: Any, members: int = 2) -> MASAC:
    """With nets of which now this critic is the smaller, now that one, and temperatures that differ."""
    made, g = MASAC(config, players, [Generator().manual_seed(i) for i in range(members)]), Generator().manual_seed(77)
    for team in made.teams:
        for name, group in team.train.groups.items():
            group.parameters.flat.add_(0.2 * torch.randn(group.parameters.flat.shape, generator=g))
            assert name in team.train.targets or not name.startswith("critics")
        for target in team.train.targets.values():
            target.flat.add_(0.3 * torch.randn(target.flat.shape, generator=g))
    return made


class Soft:
    """What SAC does differently from the slow version of MATD3, sample by sample: actors are distributions."""

    config: Any
    batch: Any
    leaves: Any
    targets: Any
    index: Any
    shown: Any
    spaces: Any
    order: Any
    rows: Any
    seen: Any
    done: Any
    pair: Any
    turn: Any
    mean: Any
    outcome: Any
    climbed: Any
    q: Any
    critic_index: Any
    _place: Any
    _columns: Any

    def output(self, kind: Any, i: int, r: int, seen: Vectors, noise: Sequence[Tensor], row: int) -> tuple[Tensor, Tensor]:
        """What an actor gives and the noise of its draw, both of one agent."""
        unit, member = self.index(i, r)
        output, e = net(kind[f"actors_{unit}"], self.shown(i, seen), member), noise[unit]
        e = e[member, self._place[i][1] * self.rows + row] if self.config.scheme == "shared" else e[member, row]
        if self.config.scheme != "centralized":
            return output, e
        start = sum(width_of(self.spaces[k]) for k in self.order[: self.order.index(i)])
        own = slice(start, start + width_of(self.spaces[i]))
        if isinstance(self.spaces[i], Box):
            mean, log_std = output.chunk(2)
            return torch.cat([mean[own], log_std[own]]), e[own]
        return output[own], e[..., own]

    def act(self, kind: Any, i: int, r: int, seen: Any, noise: Any, row: int, draw: str, legal: Tensor | None) -> Tensor:
        return self.draw(kind, i, r, seen, noise, row, legal)[0]

    def draw(self, kind: Any, i: int, r: int, seen: Any, noise: Any, row: int, legal: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """An agent's action, log pi or its mean, and the entropy that its temperature aims at."""
        output, e = self.output(kind, i, r, seen, noise, row)
        space = self.spaces[i]
        if isinstance(space, Box):
            mean, log_std = output.chunk(2)
            u = torch.distributions.Normal(mean, log_std.clamp(-5.0, 2.0).exp())
            x = mean + log_std.clamp(-5.0, 2.0).exp() * e
            return x.tanh(), (u.log_prob(x) - (1.0 - x.double().tanh() ** 2).log().float()).sum(), -float(len(e))
        if legal is not None:
            output = torch.where(legal[self._columns[i][2]], output, -torch.inf)
        hot: list[Tensor] = []
        negative, largest = torch.zeros(()), 0.0
        for logits, noise_of in zip(output.split(sizes_of(space)), e[0].split(sizes_of(space)), strict=True):
            x = logits - noise_of.log()
            y, hard = (x / self.config.temperature).softmax(0), one_hot(x.argmax(), len(x)).float()
            hot.append(hard - y.detach() + y)
            p = logits[logits > -torch.inf].softmax(0)
            negative, largest = negative + (p * p.log()).sum(), largest + math.log(len(p))
        return torch.cat(hot), negative, self.config.target_entropy_share * largest

    def alpha(self, i: int, r: int, kind: Any) -> Tensor:
        unit, member = self.index(i, r)
        return kind[f"temperatures_{unit}"]["log_temperature"][member]

    def sides(self, i: int) -> list[int]:
        """Whose draws a learner's log-density counts."""
        return self.order if self.config.scheme == "centralized" else [i]

    def loss(self, noise: Sequence[Sequence[Tensor]], ahead: Any = None) -> Tensor:
        """Of critics, actors and temperatures."""
        fixed, config = {name: detached(weights) for name, weights in self.leaves.items()}, self.config

        def critics(i: int, r: int, n: int) -> Tensor:
            legal = None if self.batch.next_legal is None else self.batch.next_legal[r, n]
            following = self.seen(self.batch.next_observation, r, n)
            drawn = {k: self.draw(fixed, k, r, following, noise[0], n, legal) for k in self.order}
            done_next = {k: x for k, (x, _, _) in drawn.items()}
            next_q = min(self.q(self.targets, i, r, j, following, done_next) for j in range(2))
            soft = next_q - self.alpha(i, r, fixed).exp() * sum(drawn[k][1] for k in self.sides(i))
            reward, ended, _ = self.outcome(i, r, n)
            y = (reward if ended else reward + config.discount * soft).detach()
            seen, done = self.seen(self.batch.observation, r, n), self.done(r, n)
            return sum((0.5 * (self.q(self.leaves, i, r, j, seen, done) - y) ** 2 for j in range(2)), torch.zeros(()))

        def actors(i: int, r: int, n: int) -> Tensor:
            seen, done = self.turn(i, r, n, noise[1])
            legal = None if self.batch.legal is None else self.batch.legal[r, n]
            drawn = [self.draw(self.leaves, k, r, seen, noise[1], n, legal) for k in self.sides(i)]
            logp, goal = sum((x[1] for x in drawn), torch.zeros(())), sum(x[2] for x in drawn)
            climbed = self.climbed(i, r, seen, done) + (0.0 if ahead is None else ahead(i, r, n, seen, done))
            heat = -self.alpha(i, r, self.leaves) * (logp.detach() + goal)
            return self.alpha(i, r, fixed).exp() * logp - climbed + heat

        return self.mean(critics) + self.mean(actors)

    def ahead(self, noise: Sequence[Sequence[Tensor]]) -> Any:
        """w [G(s, s1, a) + gamma G(s1, s2, a1) + gamma^2 Q(s2, a2)], for predictions within their bounds."""
        fixed, gamma = {name: detached(weights) for name, weights in self.leaves.items()}, self.config.discount
        joint = self.config.scheme == "ct-de"

        def value(i: int, r: int, n: int, seen: Vectors, done: Vectors) -> Tensor:
            (unit, member), total = self.critic_index(i, r), torch.zeros(())
            row = self.order.index(i) * self.rows + n if joint else n
            for step in (0, 1):
                own_seen, own_done = self.pair(i, seen, done)
                following = net(fixed[f"systems_{unit}"], torch.cat([own_seen, own_done]), r if joint else member).detach()
                total = total + gamma**step * net(fixed[f"rewards_{unit}"], torch.cat([own_seen, following, own_done]), member)[0]
                widths = [len(self.seen(self.batch.observation, 0, 0)[k]) for k in self.order]
                seen = dict(zip(self.order, following.split(widths), strict=True)) if joint else {i: following}
                acted = {k: self.act(self.leaves, k, r, seen, noise[step], row, "climb", None) for k in seen}
                done = {k: x if k == i else x.detach() for k, x in acted.items()}
            return self.config.fork_weight * (total + gamma**2 * self.climbed(i, r, seen, done))

        return value


@pytest.fixture
def slow_sac(slow: type) -> type:
    return type("SlowSAC", (Soft, slow), {})


def wide(team: Any) -> list[Tensor]:
    """Bounds that cut no prediction off."""
    return [torch.tensor([-99.0, 99.0]).repeat(system.members[0], 1) for system in team.nets.systems]


def gradients(made: MASAC, given: Batch, noise: Any, number: int = 0) -> tuple[Gradients, dict[str, Tensor]]:
    team: Any = made.teams[number]
    leaves = {f"{g}/{w}": leaf for g, group in team.train.groups.items() for w, leaf in group.parameters.leaves.items()}
    groups = [group.parameters.leaves for group in team.train.groups.values()]
    targets = [target.weights for target in team.train.targets.values()]
    loss, metrics = masac_loss(team.nets, groups, targets, given, noise, wide(team), made.config)
    return dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True)), metrics


def same(ours: Gradients, judge: Any, loss: Tensor) -> None:
    """All of them, but for those of models."""
    leaves = {f"{g}/{w}": leaf for g, own in judge.leaves.items() for w, leaf in own.items() if not g.startswith(("systems", "rewards"))}
    assert {name for name in ours if not name.startswith(("systems", "rewards"))} == leaves.keys()
    for name, theirs in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        torch.testing.assert_close(ours[name], theirs, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert theirs.abs().max() > 1e-6, f"{name}: nothing to compare"


CASES = [
    *product(["ct-de", "concurrent"], ["reals", "choices", "mixed"], [((0, 1, 2),)]),
    *product(["shared"], ["alike", "alike choices"], [((0, 1, 2),)]),
    *product(["centralized"], ["reals", "choices"], [((0, 1, 2),)]),
    ("ct-de", "mixed", ((0, 2), (1,))), ("concurrent", "choices", ((0, 2), (1,))), ("centralized", "reals", ((0, 1), (2,))),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "kinds", "teams"), CASES)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_equal_those_of_the_slow_version(
    players: Make, batch: Make, slow_sac: Make, scheme: Any, kinds: str, teams: Any, soft: bool
):
    """Of every team, where some choices are illegal and some agents dead; each agent's own reward, end, entropy and temperature."""
    given = batch(players(kinds), seed=3, restricted="choices" in kinds)
    made = learner(replace(SMALL, scheme=scheme, soft=soft), players(kinds, teams))
    for number in range(len(teams)):
        judge = slow_sac(made, given, number)
        noise = [judge.noise(5), judge.noise(6)]
        ours, metrics = gradients(made, given, noise, number)
        same(ours, judge, judge.loss(noise))
        assert set(metrics) == {"loss/critic", "loss/actor", "loss/temperature", "q", "entropy", "temperature"}


@pytest.mark.parametrize(("scheme", "kinds"), [("ct-de", "reals"), ("ct-de", "mixed"), ("concurrent", "choices"), ("shared", "alike")])
@pytest.mark.parametrize("soft", [False, True])
def test_fork_equals_the_slow_version_and_adds_to_actors_alone(
    players: Make, batch: Make, slow_sac: Make, scheme: Any, kinds: str, soft: bool
):
    who = players(kinds)
    given, config = batch(who, seed=4, rows=4), replace(SMALL, scheme=scheme, soft=soft, fork=True, fork_threshold=1e9)
    made, blind = learner(config, who), learner(replace(config, fork_threshold=0.0), who)
    judge = slow_sac(made, given)
    each = len(judge.order) if scheme == "ct-de" else 1
    noise = [judge.noise(5), judge.noise(6), judge.noise(7, each), judge.noise(8, each)]
    ours, _ = gradients(made, given, noise)
    same(ours, judge, judge.loss(noise, judge.ahead(noise[2:])))
    for name, without in gradients(blind, given, noise)[0].items():
        assert torch.equal(ours[name], without) != name.startswith("actors"), name


def test_soft_changes_the_gradient_of_actors_and_nothing_else(players: Make, batch: Make, slow_sac: Make):
    who, found = players("reals"), {}
    given = batch(who)
    for soft in (False, True):
        made = learner(replace(SMALL, soft=soft), who)
        judge = slow_sac(made, given)
        found[soft], _ = gradients(made, given, [judge.noise(5), judge.noise(6)])
    for name, one in found[False].items():
        assert torch.equal(one, found[True][name]) != name.startswith("actors"), name


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
def test_one_agent_is_sac(players: Make, batch: Make, scheme: Any):
    alone = players("alone")
    made, given = learner(replace(SMALL, scheme=scheme), alone), batch(alone)
    here, there = torch.randn(2, 2, 5, 2, generator=Generator().manual_seed(8))
    ours, told = gradients(made, given, [[there], [here]])
    train = made.teams[0].train
    low, high = (torch.as_tensor(bound) for bound in (alone.groups[0].action_space.low, alone.groups[0].action_space.high))
    scaled = (given.action - (low + high) / 2.0) / ((high - low) / 2.0)
    of_one = Batch(given.observation, scaled, given.reward[..., 0], given.next_observation, given.terminated[..., 0], given.mask[..., 0])
    leaves = {name: train.groups[name].parameters.leaves for name in ("critics_0", "actors_0", "temperatures_0")}
    loss, metrics = sac.sac_loss(
        MLP((3, *SMALL.hidden, 4), (2,)), MLP((5, *SMALL.hidden, 1), (2, 2)), leaves["actors_0"], leaves["critics_0"],
        train.targets["critics_0"].weights, leaves["temperatures_0"]["log_temperature"], of_one, torch.stack([here, there], 1), 0.9, -2.0,
    )  # fmt: skip
    flat = {f"{name}/{weight}": leaf for name, weights in leaves.items() for weight, leaf in weights.items()}
    for name, theirs in zip(flat, torch.autograd.grad(loss.sum(), list(flat.values())), strict=True):
        torch.testing.assert_close(ours[name], theirs, atol=1e-5, rtol=1e-4)
    for name, value in metrics.items():
        torch.testing.assert_close(told[name], value)


@pytest.mark.usefixtures("unchecked")
def test_a_choice_is_softmax_of_its_worth_over_alpha(players: Make):
    """One choice of three, paid 1, 0 or 0.5 and over: pi = softmax(r / alpha) has the largest soft value, alpha log sum exp(r / alpha).

    Critics without a hidden layer are linear in what is chosen, so that the bias of straight-through draws falls with their temperature.
    """
    paid, alpha = torch.tensor([1.0, 0.0, 0.5]), 0.5
    config = Config(
        hidden=(), learning_rate=2e-2, temperature_learning_rate=0.0, initial_temperature=alpha, temperature=0.2, max_grad_norm=None,
        target_rate=0.1, scheme="concurrent",
    )  # fmt: skip
    made = MASAC(config, players([(1, Discrete(3))]), [Generator().manual_seed(i) for i in range(2)])
    chosen = torch.arange(3.0).repeat(200)[None, :, None].expand(2, -1, -1)
    seen, over = torch.ones(2, 600, 1), torch.ones(2, 600, 1, dtype=torch.bool)
    batch = Batch(seen, chosen, paid[chosen.long()[..., 0]][..., None], seen, over, torch.ones(2, 600, 1))
    team: Any = made.teams[0]
    policies: list[Tensor] = []
    for step in range(600):
        team.update_on(batch)
        if step >= 400:
            with torch.no_grad():
                policies.append(team.nets.actors[0](team.train.weights("actors_0"), torch.ones(2, 1, 1))[:, 0].softmax(-1))
    pi = torch.stack(policies).mean(0)
    torch.testing.assert_close(pi, (paid / alpha).softmax(0).expand(2, -1), atol=0.04, rtol=0.0)
    value = (pi * (paid - alpha * pi.log())).sum(-1)
    torch.testing.assert_close(value, soft_value(paid, alpha).expand(2), atol=0.01, rtol=0.0)
    hot = torch.eye(3)
    with torch.no_grad():
        q = team.nets.critics[0](team.train.weights("critics_0"), torch.cat([torch.ones(3, 1), hot], -1).expand(2, 2, -1, -1))
    torch.testing.assert_close(q[..., 0], paid.expand(2, 2, -1), atol=0.02, rtol=0.0)


def test_alpha_falls_where_there_is_more_entropy_than_wanted(players: Make, batch: Make):
    """For choices, a share of the largest; more than the largest is never reached."""
    who = players([(3, Discrete(4))] * 2)
    for share, falls in ((0.0, True), (2.0, False)):
        made = MASAC(replace(SMALL, target_entropy_share=share), who, [Generator().manual_seed(0)])
        made.teams[0].update_on(batch(who, members=1, alive=1.0))
        alpha = made.teams[0].train.weights("temperatures_0")["log_temperature"].exp()
        assert alpha.shape == (2,) and bool((alpha < 0.3).all()) == falls
