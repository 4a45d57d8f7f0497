"""Christiano's MuJoCo tasks: rewards against the simulation's state, full episodes whatever happens, snapshots and errors."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.games import make as addresses
from tutelage.games.christiano import CLIP_STEPS, TASKS
from tutelage.games.spec import GameError

make: Any = addresses.make  # Any: a test knows which world it made


def play(game: Any, steps: int, seed: int = 0) -> Iterator[Any]:
    """The answers to uniform actions, seeded, one by one."""
    g = torch.Generator().manual_seed(seed)
    low, high = torch.as_tensor(game.action_space.low), torch.as_tensor(game.action_space.high)
    for _ in range(steps):
        yield game.step(low + (high - low) * torch.rand(game.copies, *low.shape, generator=g))


def expected_reward(name: str, speed: float, data: Any) -> float:
    """The formulas of the module's docstring, written once more."""
    torso = data.qpos[:3]
    if name == "reacher":
        return -math.dist(data.body("fingertip").xpos, data.body("target").xpos)
    if name == "pendulum":
        return -(data.joint("hinge").qpos[0] ** 2)
    if name == "double-pendulum":
        x, _, y = data.site("tip").xpos
        _, w1, w2 = data.qvel
        return -0.01 * x**2 - (y - 2) ** 2 - 0.001 * w1**2 - 0.005 * w2**2 + 10 * y - 10
    return speed + {"hopper": torso[1] - 1, "walker2d": torso[1] - 2, "ant": torso[2] - 1.2}.get(name, 0.0)


def v5_would_end(name: str, core: Any) -> bool:
    if name == "pendulum":
        return abs(core.data.qpos[1]) > 0.2
    return core.data.site_xpos[0, 2] <= 1 if name == "double-pendulum" else not core.is_healthy


@pytest.mark.parametrize("name", TASKS)
def test_rewards_against_the_simulation(name: str):
    game = make(f"christiano:{name}?horizon=400", copies=1)
    game.reset(seed=[3])
    core = game._envs[0].unwrapped
    place = lambda: (core.data.body("torso").xpos if name == "ant" else core.data.qpos).copy()
    before = place()
    paid, expected = [], []
    for step in play(game, 400):
        paid.append(float(step.reward))
        expected.append(expected_reward(name, (place() - before)[0] / core.dt, core.data))
        before = place()
    assert paid == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert np.std(paid) > 0.01, "a constant would agree with too much"


@pytest.mark.parametrize("name", ["hopper", "walker2d", "pendulum", "double-pendulum"])
def test_where_v5_would_end_the_reward_is_lower(name: str):
    game = make(f"christiano:{name}?horizon=300", copies=1)
    game.reset(seed=[3])
    core = game._envs[0].unwrapped
    terms: dict[bool, list[float]] = {False: [], True: []}
    for step in play(game, 300):
        assert not step.terminated.any()
        terms[v5_would_end(name, core)].append(TASKS[name].term(core.data))
    assert step.boundary.all() and min(len(terms[False]), len(terms[True])) > 2
    assert np.mean(terms[True]) < np.mean(terms[False]) - 0.5


def test_an_ant_that_jumps_out_of_its_range_goes_on():
    game = make("christiano:ant", copies=1)
    game.reset(seed=[3])
    core = game._envs[0].unwrapped
    core.data.qvel[2] = 2.5
    ends = [v5_would_end("ant", core) for step in play(game, 40) if not step.terminated.any()]
    assert len(ends) == 40 and any(ends)


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_has_the_full_length_and_stays_finite(name: str):
    game = make(f"christiano:{name}", copies=1)
    game.reset(seed=[1])
    high = torch.as_tensor(game.action_space.high)
    g = torch.Generator().manual_seed(1)
    for t in range(TASKS[name].horizon):
        sign = torch.rand(1, *high.shape, generator=g).round() * 2 - 1 if t % 200 < 100 else torch.ones(1, *high.shape)
        step = game.step(high * sign)
        assert not step.terminated.any() and torch.isfinite(step.observation).all() and torch.isfinite(step.reward).all()
        assert bool(step.boundary) == (t == TASKS[name].horizon - 1)
    with pytest.raises(GameError, match=f"copy 0 of christiano:{name} was stepped outside an episode"):
        game.step(high[None])


@pytest.mark.parametrize("name", TASKS)
def test_the_world_is_that_of_gymnasium(name: str):
    ours, theirs = make(f"christiano:{name}", copies=1), make(f"gym:{TASKS[name].identifier}", copies=1)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert torch.equal(ours.reset(seed=[5]), theirs.reset(seed=[5]))
    for mine, other in zip(play(ours, 5), play(theirs, 5), strict=True):
        assert torch.equal(mine.observation, other.observation)


@pytest.mark.parametrize("name", TASKS)
def test_seeds_repeat_and_a_snapshot_continues_to_the_bit(name: str):
    game = make(f"christiano:{name}?horizon=60", copies=2)
    first = game.reset(seed=[1, 2])
    begun = list(play(game, 10))
    snapshot = game.snapshot(0)
    rest = list(play(game, 30, seed=1))
    fresh = make(f"christiano:{name}?horizon=60", copies=2)
    assert torch.equal(fresh.reset(seed=[1, 9])[0], first[0]) and not torch.equal(first[0], first[1])
    for mine, other in zip(play(fresh, 10), begun, strict=True):
        assert torch.equal(mine.observation[0], other.observation[0]) and torch.equal(mine.reward[0], other.reward[0])
    elsewhere = make(f"christiano:{name}?horizon=60", copies=2)
    elsewhere.reset(seed=[7, 8])
    elsewhere.restore(0, snapshot)
    for mine, other in zip(play(elsewhere, 30, seed=1), rest, strict=True):
        assert torch.equal(mine.observation[0], other.observation[0]) and torch.equal(mine.reward[0], other.reward[0])
        assert torch.equal(mine.boundary[0], other.boundary[0])
    assert torch.equal(elsewhere.reset(where=torch.tensor([True, False]))[0], game.reset(where=torch.tensor([True, False]))[0])


def test_torques_cost_nothing():
    for name in ("hopper", "half-cheetah", "swimmer"):
        game = make(f"christiano:{name}", copies=1)
        game.reset(seed=[0])
        assert game._envs[0].unwrapped.control_cost(np.ones(game.action_space.shape)) == 0.0


def test_divergence_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it stands
    game = make("christiano:hopper", copies=1)
    game.reset(seed=[0])
    game._envs[0].unwrapped.data.qvel[:] = 1e12
    with pytest.raises(GameError, match="christiano:hopper: the simulation diverged"):
        game.step(torch.zeros(1, 3))


def test_clips_are_those_of_the_paper():
    assert set(CLIP_STEPS) == set(TASKS)
    assert (min(CLIP_STEPS.values()), max(CLIP_STEPS.values())) == (15, 60)
    assert all(CLIP_STEPS[name] <= TASKS[name].horizon for name in TASKS)


def test_pictures_change():
    game = make("christiano:walker2d", copies=1)
    game.reset(seed=[1])
    before = game.render(0, width=96, height=64)
    assert len(list(play(game, 60))) == 60
    after = game.render(0, width=96, height=64)
    assert before.shape == (64, 96, 3) and before.std() > 2 and (before != after).mean() > 0.002
    game.close()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("christiano:hoper", r"there is no game christiano:hoper; did you mean christiano:hopper\?$"),
        ("christiano:halfcheetah", r"did you mean christiano:half-cheetah\?$"),
        ("christiano:hopper?horizn=3", "christiano:hopper has no option horizn; did you mean horizon"),
        ("christiano:hopper?horizon=long", "horizon=long was given; a whole number was expected"),
        ("christiano:hopper?horizon=0", "horizon=0 was given; an episode needs at least one step"),
        ("christiano:hopper?horizon", "'horizon' is no option; name=value"),
    ],
)
def test_bad_addresses(address: str, sentence: str):
    with pytest.raises(GameError, match=sentence):
        make(address, copies=1)


def test_tasks_are_listed_and_options_reach_the_world():
    assert {f"christiano:{name}" for name in TASKS} <= set(addresses.known_games())
    game = make("christiano:reacher", copies=1, horizon=2)
    game.reset(seed=[0])
    assert [bool(step.boundary) for step in play(game, 2)] == [False, True]
