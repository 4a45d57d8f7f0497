"""MADDPG, MATD3 and MATD4 against the slow version, against TD3 for one agent, and in matrix games whose answer is known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Batch
from tutelage.learn.deep import td3
from tutelage.learn.deep.ddpg import DeterministicActor
from tutelage.learn.many_agents.matd3 import MADDPG, MATD3, MATD4, Config, matd3_loss
from tutelage.nets.mlp import MLP

SMALL = Config(hidden=(8, 8), discount=0.9, target_noise=0.4, output_penalty=0.0, batch_size=16)
Make = Callable[..., Any]


def gradients(made: MATD3, given: Batch, noise: Sequence[Sequence[Tensor]], number: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the whole loss of a team by `group/weight`, and the metrics."""
    team: Any = made.teams[number]
    leaves = {f"{g}/{w}": leaf for g, group in team.train.groups.items() for w, leaf in group.parameters.leaves.items()}
    groups = [group.parameters.leaves for group in team.train.groups.values()]
    targets = [target.weights for target in team.train.targets.values()]
    loss, metrics = matd3_loss(team.nets, groups, targets, given, noise, [], made.config, climb=True)
    return dict(zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True)), metrics


def slow_gradients(judge: Any, loss: Tensor) -> dict[str, Tensor]:
    leaves = {f"{g}/{w}": leaf for g, weights in judge.leaves.items() for w, leaf in weights.items()}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        torch.testing.assert_close(one, theirs[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert theirs[name].abs().max() > 1e-5, f"{name}: nothing to compare"


CASES = [
    *product(["ct-de", "concurrent"], ["reals", "choices", "mixed"], [((0, 1, 2),)]),
    *product(["shared"], ["alike", "alike choices"], [((0, 1, 2),)]),
    *product(["centralized"], ["reals", "choices"], [((0, 1, 2),)]),
    *product(["ct-de", "concurrent"], ["reals", "choices"], [((0, 2), (1,))]),
    ("ct-de", "alike", ((1,), (0, 2))), ("shared", "alike choices", ((1,), (0, 2))), ("centralized", "reals", ((0, 1), (2,))),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "kinds", "teams"), CASES)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_equal_those_of_the_slow_version(
    players: Make, batch: Make, learner: Make, slow: Make, scheme: Any, kinds: str, teams: Any, soft: bool
):
    """Of every team: noise on all agents' target actions, the smaller of both critics, each agent's own reward and end."""
    given = batch(players(kinds), seed=3, restricted="choices" in kinds)
    made = learner(replace(SMALL, scheme=scheme, soft=soft), players(kinds, teams))
    for number in range(len(teams)):
        judge = slow(made, given, number)
        noise = [judge.noise(5), judge.noise(6)]
        ours, metrics = gradients(made, given, noise, number)
        critics, actors = judge.critic_loss(noise[0]), judge.actor_loss(noise[1])
        same(ours, slow_gradients(judge, critics + actors))
        for name, value in (("loss/critic", critics), ("loss/actor", actors)):
            assert metrics[name].sum().item() == pytest.approx(value.item() / len(judge.pools), abs=1e-4)


@pytest.mark.parametrize(
    "config", [MATD4(), MADDPG(), Config(scheme="shared", agent_id=True), MATD4(scheme="centralized"), MATD4(soft=True)]
)
def test_the_other_algorithms_too(players: Make, batch: Make, learner: Make, slow: Make, config: Config):
    kinds = players("alike")
    made, given = learner(replace(config, hidden=(8, 8), output_penalty=0.0), kinds), batch(kinds)
    judge = slow(made, given)
    noise = [judge.noise(5), judge.noise(6)]
    same(gradients(made, given, noise)[0], slow_gradients(judge, judge.critic_loss(noise[0]) + judge.actor_loss(noise[1])))


def test_lowe_et_al_see_opponents_too(players: Make, batch: Make, learner: Make, slow: Make):
    kinds = players("reals", [(0, 2), (1,)])
    made, given = learner(replace(SMALL, one_team=True), kinds), batch(kinds)
    assert len(made.teams) == 1 and made.teams[0].nets.critics[0].sizes[0] == 3 + 2 + 3 + 2 + 1 + 2
    judge = slow(made, given)
    noise = [judge.noise(5), judge.noise(6)]
    same(gradients(made, given, noise)[0], slow_gradients(judge, judge.critic_loss(noise[0]) + judge.actor_loss(noise[1])))


def test_in_a_zero_sum_game_each_agent_climbs_its_own_critic(players: Make, batch: Make, learner: Make):
    """Q^2 = -Q^1 everywhere: a sum of Q^i(w, a) in which all actions are fresh and none detached has no gradient at all."""
    made, kinds = learner(SMALL, players("two"), members=1), players("two")
    given, team = batch(kinds, members=1, alive=1.0), made.teams[0]
    critic = team.train.groups["critics_0"].parameters
    last = len(SMALL.hidden)
    for name, weights in critic.weights.items():
        weights[1] = -weights[0] if name.endswith(f"_{last}") else weights[0]
    ours, _ = gradients(made, given, [[torch.zeros(2, 5, 2)], [torch.zeros(2, 5, 2)]])
    actor = team.train.groups["actors_0"].parameters.leaves
    mu = lambda i, seen: (
        ((seen @ actor["weight_0"][i] + actor["bias_0"][i]).relu() @ actor["weight_1"][i] + actor["bias_1"][i]).relu()
        @ actor["weight_2"][i]
        + actor["bias_2"][i]
    ).tanh()
    w = {name: x[0, 0] for name, x in critic.weights.items()}
    q1 = lambda x: ((x @ w["weight_0"] + w["bias_0"]).relu() @ w["weight_1"] + w["bias_1"]).relu() @ w["weight_2"] + w["bias_2"]
    s = given.observation[0]
    unit = 2.0 * (given.action[0] - torch.tensor([-2.0, 0.0] * 2)) / torch.tensor([4.0, 1.0] * 2) - 1.0
    first = -q1(torch.cat([s, mu(0, s[:, :3]), unit[:, 2:]], -1)).mean()
    second = q1(torch.cat([s, unit[:, :2], mu(1, s[:, 3:])], -1)).mean()  # -Q^2 = Q^1
    theirs = torch.autograd.grad(first + second, list(actor.values()))
    both = q1(torch.cat([s, mu(0, s[:, :3]), mu(1, s[:, 3:])], -1)).mean()
    canceled = torch.autograd.grad(both - both, list(actor.values()))
    for name, one, none in zip(actor, theirs, canceled, strict=True):
        torch.testing.assert_close(ours[f"actors_0/{name}"], one, atol=1e-6, rtol=1e-4)
        assert one[0].abs().max() > 1e-4 and one[1].abs().max() > 1e-4 and not none.any()


def test_soft_changes_the_gradient_of_actors_and_nothing_else(players: Make, batch: Make, learner: Make, slow: Make):
    kinds = players("reals")
    given = batch(kinds)
    found = {}
    for soft in (False, True):
        made = learner(replace(SMALL, soft=soft), kinds)
        judge = slow(made, given)
        found[soft], _ = gradients(made, given, [judge.noise(5), judge.noise(6)])
    for name, one in found[False].items():
        assert torch.equal(one, found[True][name]) == name.startswith("critics"), name


def test_matd4_differs_from_matd3_in_its_actors_only_and_maddpg_is_ddpg(players: Make, batch: Make, learner: Make, slow: Make):
    kinds = players("reals")
    given, found = batch(kinds), {}
    for config in (Config(), MATD4()):
        made = learner(replace(config, hidden=(8, 8)), kinds)
        judge = slow(made, given)
        found[type(config)], _ = gradients(made, given, [judge.noise(5), judge.noise(6)])
    for name, one in found[Config].items():
        assert torch.equal(one, found[MATD4][name]) == name.startswith("critics"), name
    differences = {name for name in Config.__dataclass_fields__ if getattr(Config(), name) != getattr(MATD4(), name)}
    assert differences == {"minimum_actor"}
    made = learner(MADDPG(hidden=(8, 8)), kinds)
    critic, actor = made.teams[0].train.groups["critics_0"].parameters.flat, made.teams[0].train.groups["actors_0"].parameters.flat
    assert made.teams[0].nets.critics[0].members == (6, 1) and MADDPG().target_noise == 0.0
    before = critic.clone(), actor.clone()
    assert "loss/actor" in made.teams[0].update_on(given)  # with the first update already
    assert not torch.equal(before[0], critic) and not torch.equal(before[1], actor)


def test_actors_and_all_targets_move_every_second_time(players: Make, batch: Make, learner: Make):
    kinds = players("reals")
    made = learner(replace(SMALL, fork=True), kinds)
    train: Any = made.teams[0].train
    watched = {name: group.parameters.flat for name, group in train.groups.items()}
    watched |= {f"{name}'": target.flat for name, target in train.targets.items()}
    for step in range(4):
        before = {name: flat.clone() for name, flat in watched.items()}
        made.teams[0].update_on(batch(kinds, seed=step))
        still = {name for name, flat in watched.items() if torch.equal(flat, before[name])}
        assert still == (set() if step % 2 else {name for name in watched if name.startswith("actors") or name.endswith("'")})
    assert {name for name in watched if name.endswith("'")} == {"critics_0'", "actors_0'", "actors_1'"}


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
@pytest.mark.parametrize("minimum_actor", [False, True])
def test_one_agent_is_td3(players: Make, batch: Make, learner: Make, scheme: Any, minimum_actor: bool):
    alone = players("alone")
    made, given = learner(replace(SMALL, scheme=scheme, minimum_actor=minimum_actor), alone), batch(alone)
    noise = torch.randn(2, 5, 2, generator=Generator().manual_seed(8))
    ours, told = gradients(made, given, [[noise], [noise]])
    group, train = alone.groups[0], made.teams[0].train
    actor = DeterministicActor("TD3", SMALL.hidden, group.observation_space, group.action_space, 2, torch.device("cpu"))
    critic = MLP((5, *SMALL.hidden, 1), (2, 2))
    of_one = Batch(
        given.observation, given.action, given.reward[..., 0], given.next_observation, given.terminated[..., 0], given.mask[..., 0]
    )
    leaves = {name: train.groups[name].parameters.leaves for name in ("critics_0", "actors_0")}
    config = td3.Config(SMALL.hidden, SMALL.discount, target_noise=0.4, minimum_actor=minimum_actor)
    targets = train.targets["critics_0"].weights, train.targets["actors_0"].weights
    loss, metrics = td3.td3_loss(actor, critic, leaves["actors_0"], leaves["critics_0"], *targets, of_one, noise, config)
    flat = [leaf for weights in leaves.values() for leaf in weights.values()]
    names = [f"{name}/{weight}" for name, weights in leaves.items() for weight in weights]
    same(ours, dict(zip(names, torch.autograd.grad(loss.sum(), flat), strict=True)))
    for name, value in metrics.items():
        torch.testing.assert_close(told[name], value)


def test_the_penalty_is_of_raw_outputs_of_those_who_were_alive(players: Make, batch: Make, learner: Make, slow: Make):
    """Not a hair of an actor may hang on what an agent saw after its death."""
    kinds = players("reals")
    given = batch(kinds)
    made, plain = learner(replace(SMALL, output_penalty=0.5), kinds), learner(SMALL, kinds)
    judge = slow(made, given)
    noise = [judge.noise(5), judge.noise(6)]
    ours, without = gradients(made, given, noise)[0], gradients(plain, given, noise)[0]
    penalty = torch.zeros(())
    for r, i in product(range(2), judge.order):
        unit, member = judge.index(i, r)
        seen = [judge.seen(given.observation, r, n)[i] for n in range(5) if given.mask[r, n, i]]
        weights = judge.leaves[f"actors_{unit}"]
        hidden = torch.stack(seen)
        for layer in range(3):
            hidden = hidden @ weights[f"weight_{layer}"][member] + weights[f"bias_{layer}"][member]
            hidden = hidden.relu() if layer < 2 else hidden
        penalty = penalty + 0.5 * hidden.square().mean()
    leaves = {f"{g}/{w}": leaf for g, weights in judge.leaves.items() if g.startswith("actors") for w, leaf in weights.items()}
    for name, one in zip(leaves, torch.autograd.grad(penalty, list(leaves.values())), strict=True):
        torch.testing.assert_close(ours[name] - without[name], one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
def test_what_happens_to_the_dead_changes_nothing(players: Make, batch: Make, learner: Make, scheme: Any):
    """Reward, end and, but for critics that see all, all else of a dead agent; of a centralized team when all are dead."""
    kinds = players("alike")
    given, config = batch(kinds), replace(SMALL, scheme=scheme)
    dead = given.mask == 0.0
    if scheme == "centralized":
        dead = dead.clone()
        dead[:, 0] = True
        dead[:, 1:] = False
        given = replace(given, mask=(~dead).float())
    reward, terminated = torch.where(dead, 99.0, given.reward), given.terminated ^ dead
    changed = replace(given, reward=reward, terminated=terminated)
    if scheme != "ct-de":  # three numbers seen and two done, agent by agent
        changed = replace(
            changed, observation=torch.where(dead.repeat_interleave(3, -1), 1.4, given.observation),
            next_observation=torch.where(dead.repeat_interleave(3, -1), -1.4, given.next_observation),
            action=torch.where(dead.repeat_interleave(2, -1), 0.1, given.action),
        )  # fmt: skip
    assert dead.any()
    one, two = (learner(config, kinds) for _ in range(2))
    for _ in range(2):
        one.teams[0].update_on(given)
        two.teams[0].update_on(changed)
    for name, group in one.teams[0].train.groups.items():
        assert torch.equal(group.parameters.flat, two.teams[0].train.groups[name].parameters.flat), name
