"""Stacked seeds, agents and teams beside one another: what must not be felt is not, bit by bit; resumed runs; compiled updates."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trajectory import Batch, Transition
from tutelage.games.spec import GameError, Players
from tutelage.learn.learner import Learner, Progress
from tutelage.learn.many_agents.matd3 import MATD3, Config

SMALL = Config(hidden=(8, 8), batch_size=16, random_steps=4, update_every=2)
CASES = [("ct-de", "mixed"), ("concurrent", "mixed"), ("shared", "alike choices"), ("centralized", "choices")]
Make = Callable[..., Any]


def learner(config: Config, players: Players, members: int, first: int = 0) -> MATD3:
    return MATD3(config, players, [Generator().manual_seed(first + i) for i in range(members)])


def groups(made: MATD3, number: int = 0) -> dict[str, Any]:
    team: Any = made.teams[number]
    return team.train.groups


def weights(made: MATD3, number: int = 0) -> dict[str, Tensor]:
    """Copies of all that was learned, by net and weight `[nets, ...]`, targets too."""
    team: Any = made.teams[number]
    flat = {name: (group.parameters, group.parameters.flat) for name, group in team.train.groups.items()}
    flat |= {f"{name}'": (target.source, target.flat) for name, target in team.train.targets.items()}
    return {f"{n}/{w}": x.clone() for n, (parameters, all_of) in flat.items() for w, x in parameters.split(all_of).items()}


def of_seed(x: Tensor, r: int, members: int) -> Tensor:
    return x.unflatten(0, (members, -1))[r]


@pytest.mark.parametrize(("scheme", "kinds"), CASES)
@pytest.mark.parametrize("fork", [False, True])
def test_stacked_seeds_are_single_runs(players: Make, batch: Make, scheme: Any, kinds: str, fork: bool):
    config = replace(SMALL, scheme=scheme, fork=fork, fork_threshold=1e9, soft=fork)
    stacked, single = learner(config, players(kinds), 3), [learner(config, players(kinds), 1, i) for i in range(3)]
    start = weights(stacked)
    for step in range(20):
        given: Batch = batch(players(kinds), members=3, seed=step)
        stacked.teams[0].update_on(given)
        for r, made in enumerate(single):
            made.teams[0].update_on(given[r : r + 1])
    ours = weights(stacked)
    for r, made in enumerate(single):
        for name, theirs in weights(made).items():
            torch.testing.assert_close(of_seed(ours[name], r, 3), theirs, atol=1e-5, rtol=0.0)
            assert not torch.equal(theirs, of_seed(start[name], r, 3)), name


@pytest.mark.parametrize(("scheme", "kinds"), CASES)
def test_a_seed_does_not_feel_another_s_data(players: Make, batch: Make, scheme: Any, kinds: str):
    config = replace(SMALL, scheme=scheme, fork=True, fork_threshold=1e9)
    one, two = (learner(config, players(kinds), 3) for _ in range(2))
    for step in range(6):
        given, other = (batch(players(kinds), members=3, seed=step + extra) for extra in (0, 100))
        mixed = Batch(*(torch.stack([x[0], y[1], x[2]]) for x, y in zip(fields(given), fields(other), strict=True)))
        one.teams[0].update_on(given)
        two.teams[0].update_on(mixed)
    for (name, ours), theirs in zip(weights(one).items(), weights(two).values(), strict=True):
        same = [torch.equal(of_seed(ours, r, 3), of_seed(theirs, r, 3)) for r in range(3)]
        assert same == [True, False, True], name


def fields(given: Batch) -> list[Tensor]:
    return [getattr(given, name) for name in ("observation", "action", "reward", "next_observation", "terminated", "mask")]


def test_an_agent_on_its_own_does_not_feel_another_s_data(players: Make, batch: Make):
    """Agent 0 of the group (0, 2) is watched while all that concerns agents 1 and 2 changes."""
    kinds = players("reals")
    one, two = (learner(replace(SMALL, scheme="concurrent"), kinds, 2) for _ in range(2))
    for step in range(6):
        given, other = batch(kinds, seed=step), batch(kinds, seed=step + 100)
        seen, acted = torch.tensor([True] * 3 + [False] * 5), torch.tensor([True] * 2 + [False] * 3)
        own = torch.tensor([True, False, False])
        masks = [seen, acted, own, seen, own, own]
        mixed = Batch(*(torch.where(m, x, y) for m, x, y in zip(masks, fields(given), fields(other), strict=True)))
        one.teams[0].update_on(given)
        two.teams[0].update_on(mixed)
    theirs = weights(two)
    for name, ours in weights(one).items():
        same = [torch.equal(x, y) for x, y in zip(ours, theirs[name], strict=True)]
        assert same == ([True, False] * 2 if "_0" in name.split("/")[0] else [False] * 2), name  # agents 0, 2 of each seed; agent 1


def test_critics_that_see_all_feel_others_actions_and_not_their_rewards(players: Make, batch: Make):
    kinds = players("reals")
    given = replace(batch(kinds), mask=torch.ones(2, 5, 3))
    reward, action = given.reward.clone(), given.action.clone()
    reward[..., 1] += 1.0  # of agent 1, whose critic is the last of three
    action[..., 4] = 1.0 - action[..., 4]
    found = []
    for changed in (given, replace(given, reward=reward), replace(given, action=action)):
        made = learner(SMALL, kinds, 2)
        made.teams[0].update_on(changed)
        found.append(made.teams[0].train.groups["critics_0"].parameters.weights["weight_0"].unflatten(0, (2, 3)))
    assert torch.equal(found[0][:, :2], found[1][:, :2]) and not torch.equal(found[0][:, 2], found[1][:, 2])
    assert all(not torch.equal(found[0][r, i], found[2][r, i]) for r in range(2) for i in range(3))


@pytest.mark.parametrize(("scheme", "hit"), [("ct-de", [0, 0, 1]), ("concurrent", [1]), ("shared", [1]), ("centralized", [1])])
def test_a_reward_that_is_no_number_freezes_its_agent_and_no_other(players: Make, batch: Make, scheme: Any, hit: list[int]):
    """Of agent 1 in seed 0. All its nets stay finite, the others of seed 0 go on, and seed 1 has the same bits."""
    kinds = players("alike" if scheme == "shared" else "reals")
    sound, struck = (learner(replace(SMALL, scheme=scheme), kinds, 2) for _ in range(2))
    where = "critics_1" if scheme == "concurrent" else "critics_0"
    for step in range(6):
        given = replace(batch(kinds, seed=step), mask=torch.ones(2, 5, 3))
        reward = given.reward.clone()
        if step == 2:
            reward[0, 1, 1] = torch.nan
        before = {name: group.parameters.flat.clone() for name, group in groups(struck).items()}
        sound.teams[0].update_on(given)
        struck.teams[0].update_on(replace(given, reward=reward))
    assert {name: stopped.tolist() for name, stopped in struck.frozen().items() if stopped.any()} == {where: [True, False]}
    assert groups(struck)[where].optimizer.frozen.tolist() == [bool(x) for x in hit] + [False] * len(hit)
    theirs = weights(struck)
    for name, ours in weights(sound).items():
        assert theirs[name].isfinite().all() and torch.equal(of_seed(ours, 1, 2), of_seed(theirs[name], 1, 2)), name
    for name, group in groups(struck).items():  # in the last update
        moved = [not torch.equal(x, y) for x, y in zip(parts(group, before[name]), parts(group, group.parameters.flat), strict=True)]
        assert moved == (~group.optimizer.frozen).tolist(), name


def parts(group: Any, flat: Tensor) -> list[Tensor]:
    """One vector for each net of a stack."""
    return list(torch.cat([x.flatten(1) for x in group.parameters.split(flat).values()], 1))


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "centralized"])
def test_teams_do_not_feel_one_another_s_rewards(players: Make, scheme: Any):
    """Through the whole loop: what team (0, 2) learns is the same, whatever agent 1 is paid; of it and of metrics there are two."""
    kinds = players("reals", [(0, 2), (1,)])
    found: list[MATD3] = []
    for paid in (0.0, 5.0):
        made, told = learner(replace(SMALL, scheme=scheme, policy_delay=1), kinds, 2), {}
        held, g = made.experience(20, 3), Generator().manual_seed(0)
        for step in range(20):
            add(held, made, kinds, step, g, paid)
            told |= made.update(held, Progress(step + 1, 20))
        assert {"loss/critic/team_0", "loss/critic/team_1", "loss/actor/team_1", "q/team_0"} <= set(told)
        assert set(made.frozen()) == {f"{name}/team_{i}" for i in range(2) for name in groups(made, i)}
        found.append(made)
    ours, theirs = (weights(made) for made in found)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(weights(found[0], 1)["critics_0/weight_0"], weights(found[1], 1)["critics_0/weight_0"])


def add(held: Any, made: MATD3, players: Players, step: int, g: Generator, paid: float = 0.0) -> Tensor:
    """One step of an invented world of 3 copies for 2 seeds; agent 1 is paid so much more."""
    D, N = made.observation_width, len(players.names)
    seen, after = (2.0 * torch.rand(2, 3, D, generator=g) - 1.0 for _ in range(2))
    action = made.behave(seen, torch.zeros(2, 3, dtype=torch.bool), None, Progress(step, 20))
    reward, flags = torch.rand(2, 3, N, generator=g), torch.rand(2, 3, N, generator=g)
    reward[..., 1] += paid
    ended = flags < 0.2
    held.add(Transition(seen, action, reward, after, after, ended, ended.any(-1), flags < 0.9))
    return action


@pytest.mark.parametrize(("scheme", "kinds"), CASES)
def test_a_resumed_run_has_the_same_bits(players: Make, scheme: Any, kinds: str):
    """Everything is put into a fresh learner of other seeds in the midst of a run, and both go on: actions, weights, targets, bounds."""
    config = replace(SMALL, scheme=scheme, fork=True, fork_threshold=1e9)
    one, g = learner(config, players(kinds), 2), Generator().manual_seed(0)
    held = one.experience(20, 3)
    for step in range(11):
        add(held, one, players(kinds), step, g)
        one.update(held, Progress(step + 1, 20))
    two, held_too, g_too = learner(config, players(kinds), 2, first=50), copy.deepcopy(held), Generator()
    two.load(copy.deepcopy(one.state()))
    g_too.set_state(g.get_state())
    for step in range(11, 20):
        actions = [add(x, made, players(kinds), step, y) for x, made, y in ((held, one, g), (held_too, two, g_too))]
        assert torch.equal(*actions)
        for made, own in ((one, held), (two, held_too)):
            made.update(own, Progress(step + 1, 20))
    theirs = weights(two)
    assert all(torch.equal(ours, theirs[name]) for name, ours in weights(one).items())
    assert all(torch.equal(*pair) for pair in zip(one.teams[0].bounds, two.teams[0].bounds, strict=True))
    assert isinstance(one, Learner)


@pytest.mark.parametrize(("scheme", "kinds"), CASES)
def test_what_is_illegal_is_never_played(players: Make, batch: Make, scheme: Any, kinds: str):
    """At random, with exploration, and without noise; by a team with agents of both kinds too."""
    made = learner(replace(SMALL, scheme=scheme), players(kinds), 2)
    given = batch(players(kinds), rows=400, restricted=True)
    starts = torch.zeros(2, 400, dtype=torch.bool)
    sizes = {"mixed": [(4, 3)], "alike choices": [(0, 3), (1, 3), (2, 3)], "choices": [(0, 3), (1, 3), (2, 2), (3, 3)]}[kinds]
    for played in (
        made.behave(given.observation, starts, given.legal, Progress(0, 9)),
        made.behave(given.observation, starts, given.legal, Progress(8, 9)),
        made.act(given.observation, False, given.legal),
        made.act(given.observation, True, given.legal),
    ):
        assert played.isfinite().all()
        for (entry, _), legal in zip(sizes, given.legal.split([size for _, size in sizes], -1), strict=True):
            assert legal.gather(-1, played[..., entry : entry + 1].long()).all()


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent"])
def test_an_agent_acts_on_what_it_sees_alone(players: Make, batch: Make, scheme: Any):
    made, given = learner(replace(SMALL, scheme=scheme), players("reals"), 2), batch(players("reals"))
    changed = given.observation.clone()
    changed[..., 6:] = 0.0  # agent 1
    ours, theirs = (made.act(x, deterministic=True) for x in (given.observation, changed))
    assert torch.equal(ours[..., :4], theirs[..., :4]) and not torch.equal(ours[..., 4:], theirs[..., 4:])
    torch.testing.assert_close(made.act(given.observation[:, :1], deterministic=True), ours[:, :1])


def test_shared_nets_cannot_tell_agents_apart_but_by_their_number(players: Make):
    seen = torch.rand(2, 4, 3, generator=Generator().manual_seed(0)).repeat(1, 1, 3)  # all see the same
    for agent_id in (False, True):
        made = learner(replace(SMALL, scheme="shared", agent_id=agent_id), players("alike"), 2)
        played = made.act(seen, deterministic=True).unflatten(-1, (3, 2))
        assert all(torch.allclose(played[..., 0, :], played[..., i, :]) != agent_id for i in (1, 2))


def test_when_it_learns(players: Make):
    """After the random steps, every second step, so many updates at once."""
    made, g = learner(replace(SMALL, random_steps=5, update_every=2, updates_at_once=3), players("reals"), 2), Generator()
    held, counts = made.experience(10, 3), []
    for step in range(10):
        add(held, made, players("reals"), step, g)
        told = made.update(held, Progress(step + 1, 10))
        counts.append(made.teams[0].train.updates)
        assert bool(told) == (step + 1 in (6, 8, 10)) and all(value.shape == (2,) for value in told.values())
    assert counts == [0, 0, 0, 0, 0, 3, 3, 6, 6, 9]


def test_bad_input(players: Make):
    with pytest.raises(GameError, match="one net cannot serve agents with different spaces, and agent_0, agent_2 and agent_1 differ"):
        learner(Config(scheme="shared"), players("reals"), 1)
    learner(Config(scheme="shared"), players("reals", [(0, 2), (1,)]), 1)
    with pytest.raises(GameError, match="agent_0, agent_2 and agent_1 differ"):
        learner(Config(scheme="shared", one_team=True), players("reals", [(0, 2), (1,)]), 1)
    with pytest.raises(GameError, match="agent_id was given with scheme=ct-de"):
        learner(Config(agent_id=True), players("alike"), 1)
    with pytest.raises(GameError, match="some choose and others give reals"):
        learner(Config(scheme="centralized"), players("mixed"), 1)


# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
PROGRAM = """
import importlib.util
import sys
from dataclasses import replace

import torch
from torch import Generator

from tutelage.learn.many_agents.matd3 import MATD3, Config

spec = importlib.util.spec_from_file_location("worlds", sys.argv[1])
worlds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worlds)


def close(ours, theirs):
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            close(ours[name], theirs[name])
    elif isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True)
    else:
        assert str(ours) == str(theirs)  # counts and the states of generators


torch.set_num_threads(1)
players = worlds.players_of("mixed")
config = Config(hidden=(8, 8), soft=True, policy_delay=1)
make = lambda compile: MATD3(replace(config, compile=compile), players, [Generator().manual_seed(i) for i in range(2)]).teams[0]
eager, compiled = make(False), make(True)
before = eager.train.groups["actors_0"].parameters.flat.clone()
batch = lambda step: worlds.batch_of(players, rows=16, seed=step, restricted=True)
for step in range(6):
    close(eager.update_on(batch(step)), compiled.update_on(batch(step)))
close(eager.state()["train"], compiled.state()["train"])
assert not torch.equal(eager.train.groups["actors_0"].parameters.flat, before)

# A reward that is no number freezes its agent's critic in both, and all else goes on.
for step in range(6, 10):
    given = batch(step)
    given.mask.fill_(1.0)
    if step == 7:
        given.reward[0, 0, 1] = float("nan")
    close(eager.update_on(given), compiled.update_on(given))
close(eager.state()["train"], compiled.state()["train"])
assert compiled.frozen()["critics_0"].tolist() == [True, False] and not compiled.frozen()["actors_1"].any()
"""


def test_compiled_equals_eager() -> None:
    root = Path(__file__).parents[3]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent / "conftest.py")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
