"""Snapshots: what follows a restore is what followed the snapshot, bit by bit, also in another object and process."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from safetensors.torch import load, load_file, save, save_file

import tutelage
from tutelage.games import gymnasium as adapter
from tutelage.games import make as addresses
from tutelage.games.spec import CannotSnapshot, Discrete, GameError

# Any: a test knows which world it made.
GymnasiumGame: Any = adapter.GymnasiumGame
VectorGame: Any = adapter.VectorGame
make: Any = addresses.make

ADDRESSES = [
    "gym:CartPole-v1",
    "gym:Pendulum-v1",
    "gym:Acrobot-v1",
    "gym:MountainCar-v0",
    "gym:MountainCarContinuous-v0",
    "gym:HalfCheetah-v5",
    "gym:Ant-v5",  # its reward starts from a position that belongs to the substep before
    "gym:Hopper-v5",  # ends episodes
    "gym:Humanoid-v5",  # observes inertias and contact forces
    "gym:Reacher-v5",  # remembers a goal
    "gym:Pusher-v5",
    "dm:walker-walk",
    "dm:cheetah-run",
    "dm:finger-turn_easy",  # moves a site of the model
    "dm:reacher-easy",  # moves a body of the model
    "dm:point_mass-hard",  # changes the model's tendons
    "dm:hopper-hop",  # touch sensors
    "dm:quadruped-escape",  # changes the terrain
    "dm:lqr-lqr_2_1",  # draws its springs when it is made
    "dm:dog-stand",  # keeps arrays in its task
    "christiano:ant",
    "christiano:double-pendulum",
    "metaworld:hammer-v3",  # remembers its draw
    "metaworld:door-open-v3",  # moves a body of the model
    "metaworld:basketball-v3",  # keeps a window into the simulation's memory
]


def split(tree, tensors):
    """JSON in which every tensor is replaced by its key in `tensors`."""
    if isinstance(tree, dict):
        return {name: split(value, tensors) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [split(value, tensors) for value in tree]
    if isinstance(tree, torch.Tensor):
        tensors[str(len(tensors))] = tree
        return {"$": str(len(tensors) - 1)}
    assert tree is None or isinstance(tree, bool | int | float | str), f"{tree!r} of {type(tree)} is no leaf"
    return tree


def join(tree, tensors):
    if isinstance(tree, dict):
        return tensors[tree["$"]] if set(tree) == {"$"} else {name: join(value, tensors) for name, value in tree.items()}
    return [join(value, tensors) for value in tree] if isinstance(tree, list) else tree


def through_bytes(snapshot) -> Any:
    tensors = {}
    text = json.dumps(split(snapshot, tensors), allow_nan=False)
    return join(json.loads(text), load(save(tensors)))


def draw_actions(game, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    if isinstance(game.action_space, Discrete):
        return torch.randint(game.action_space.n, (steps, game.copies), generator=g)
    low, high = (torch.as_tensor(bound).clamp(-1, 1) for bound in (game.action_space.low, game.action_space.high))
    return low + (high - low) * torch.rand(steps, game.copies, *low.shape, generator=g)


def play(game, actions):
    """Observation, reward, flags and the observation to act on, stacked over time; then one reset more."""
    rows = []
    for action in actions:
        step = game.step(action)
        current = game.reset(where=step.boundary) if step.boundary.any() else step.observation
        rows.append((step.observation, step.reward, step.terminated, step.boundary, current))
    return [*(torch.stack(column) for column in zip(*rows, strict=True)), game.reset(where=torch.ones(game.copies, dtype=torch.bool))]


def same(ours, theirs):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_restored_world_goes_on_bit_by_bit(address):
    game = make(address, copies=1)
    game.reset(seed=[5])
    actions = draw_actions(game, 77)
    play(game, actions[:7])
    for action in actions[7:27]:
        step = game.step(action)
        if step.boundary.any():
            game.reset(where=step.boundary)
    shown = game.reset(where=torch.tensor([False]))
    snapshot = through_bytes(game.snapshot(0))
    expected = play(game, actions[27:])
    assert torch.equal(game.restore(0, snapshot), shown[0])
    assert same(play(game, actions[27:]), expected)
    fresh = make(address, copies=1)
    assert torch.equal(fresh.restore(0, snapshot), shown[0])
    assert same(play(fresh, actions[27:]), expected)


@pytest.mark.parametrize("address", ["gym:Hopper-v5", "dm:walker-walk"])
def test_a_snapshot_in_another_process(address, tmp_path):
    game = make(address, copies=1)
    game.reset(seed=[6])
    actions = draw_actions(game, 70)
    play(game, actions[:20])
    tensors = {}
    (tmp_path / "state.json").write_text(json.dumps(split(game.snapshot(0), tensors)))
    save_file(tensors, tmp_path / "state.safetensors")
    expected = play(game, actions[20:])
    script = f"""
import json, torch
from safetensors.torch import load_file, save_file
from tutelage.games.make import make
from tutelage.games.spec import Discrete
{inspect.getsource(join)}
{inspect.getsource(draw_actions)}
{inspect.getsource(play)}
torch.set_num_threads(1)
game = make({address!r}, copies=1)
game.restore(0, join(json.load(open("state.json")), load_file("state.safetensors")))
save_file({{str(i): x.clone() for i, x in enumerate(play(game, draw_actions(game, 70)[20:]))}}, "result.safetensors")
"""
    path = {**os.environ, "PYTHONPATH": str(Path(tutelage.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=path, check=True, timeout=120)
    result = load_file(tmp_path / "result.safetensors")
    assert same([result[str(i)] for i in range(len(result))], expected)


@pytest.mark.parametrize(
    "address", ["gym:Pendulum-v1", "gym:HalfCheetah-v5", "dm:walker-walk", "dm:quadruped-escape", "metaworld:door-open-v3"]
)
def test_a_restored_world_looks_the_same(address):
    game = make(address, copies=2)
    game.reset(seed=[1, 2])
    for action in draw_actions(game, 3):
        game.step(action)
    snapshot, picture = game.snapshot(1), game.render(1, 64, 64)
    for action in draw_actions(game, 10):
        game.step(action)
    game.reset()
    assert not np.array_equal(game.render(1, 64, 64), picture)
    game.restore(1, snapshot)
    assert np.array_equal(game.render(1, 64, 64), picture)
    game.restore(0, snapshot)  # into another copy
    assert np.array_equal(game.render(0, 64, 64), picture)
    game.close()


def test_one_copy_is_put_back_and_the_others_go_on():
    game, other = make("gym:Pendulum-v1", copies=2), make("gym:Pendulum-v1", copies=2)
    actions = draw_actions(game, 20)
    for each in (game, other):
        each.reset(seed=[1, 2])
    snapshot = game.snapshot(0)
    for action in actions[:10]:
        game.step(action)
        other.step(action)
    game.restore(0, snapshot)
    ours, theirs = game.step(actions[10]).observation, other.step(actions[10]).observation
    assert torch.equal(ours[1], theirs[1]) and not torch.equal(ours[0], theirs[0])


def test_a_snapshot_holds_still():
    game = make("dm:walker-walk", copies=1)
    game.reset(seed=[1])
    tensors, later = {}, {}
    snapshot = game.snapshot(0)
    before = split(snapshot, tensors)
    tensors = {key: value.clone() for key, value in tensors.items()}
    for action in draw_actions(game, 5):
        game.step(action)
    assert split(snapshot, later) == before and all(torch.equal(tensors[key], later[key]) for key in tensors)


def test_a_snapshot_at_an_episodes_end_awaits_its_reset():
    game = make("gym:Pendulum-v1", copies=1, max_episode_steps=2)
    game.reset(seed=[1])
    for _ in range(2):
        step = game.step(torch.zeros(1, 1))
    snapshot = through_bytes(game.snapshot(0))
    following = game.reset(where=step.boundary)
    fresh = make("gym:Pendulum-v1", copies=1, max_episode_steps=2)
    assert torch.equal(fresh.restore(0, snapshot), step.observation[0])
    with pytest.raises(GameError, match="outside an episode"):
        fresh.step(torch.zeros(1, 1))
    assert torch.equal(fresh.reset(), following)


def test_worlds_that_cannot_be_put_back_say_why():
    lander = make("gym:LunarLander-v3", copies=1, render_mode=None)
    lander.reset(seed=[1])
    with pytest.raises(CannotSnapshot, match="gym:LunarLander-v3 cannot be put back into an earlier state: Box2D keeps its contacts"):
        lander.snapshot(0)
    lake = make("gym:FrozenLake-v1", copies=1, render_mode=None)
    lake.reset(seed=[1])
    with pytest.raises(CannotSnapshot, match="what FrozenLakeEnv remembers is unknown"):
        lake.snapshot(0)
    wrapped = GymnasiumGame(lambda: gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1")), 1, "normalized")
    wrapped.reset(seed=[1])
    with pytest.raises(CannotSnapshot, match="what its wrapper NormalizeObservation remembers is unknown"):
        wrapped.snapshot(0)
    vector = VectorGame(gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")]), "vector")
    vector.reset(seed=[1])
    with pytest.raises(CannotSnapshot, match="copy 0 of vector cannot be read out of a vector environment"):
        vector.snapshot(0)
    with pytest.raises(GameError, match="has no state yet"):
        make("gym:Pendulum-v1", copies=1).snapshot(0)


def test_a_subclass_may_remember_more_and_is_refused():
    class Counting(PendulumEnv):
        pass

    game = GymnasiumGame(Counting, 1, "counting")
    game.reset(seed=[1])
    with pytest.raises(CannotSnapshot, match=r"what Counting remembers is unknown; give it the methods snapshot\(\) and restore"):
        game.snapshot(0)


def test_an_environment_of_ones_own_puts_itself_back():
    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-99, 99, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.at = 0
            return np.array([0.0], np.float32), {}

        def step(self, action):
            self.at += 2 * action - 1
            return np.array([self.at], np.float32), 0.0, False, False, {}

        def snapshot(self):
            return {"at": self.at}

        def restore(self, snapshot):
            self.at = snapshot["at"]

    game = GymnasiumGame(lambda: gymnasium.wrappers.TimeLimit(Walk(), 4), 1, "walk")
    game.reset(seed=[0])
    game.step(torch.tensor([1]))
    snapshot = through_bytes(game.snapshot(0))
    fresh = GymnasiumGame(lambda: gymnasium.wrappers.TimeLimit(Walk(), 4), 1, "walk")
    assert fresh.restore(0, snapshot).tolist() == [1.0]
    steps = [fresh.step(torch.tensor([1])) for _ in range(3)]
    assert [step.observation.item() for step in steps] == [2.0, 3.0, 4.0]
    assert [step.boundary.item() for step in steps] == [False, False, True]  # the clock came back too


def test_a_snapshot_of_another_world_is_refused():
    walker, hopper = make("gym:Walker2d-v5", copies=1), make("gym:Hopper-v5", copies=1)
    walker.reset(seed=[1])
    snapshot = walker.snapshot(0)
    with pytest.raises(CannotSnapshot, match="a snapshot of gym:Walker2d-v5 was given to gym:Hopper-v5"):
        hopper.restore(0, snapshot)
    with pytest.raises(CannotSnapshot, match=r"a snapshot of \d+ \+ \d+ numbers is of another world"):
        hopper.restore(0, {**snapshot, "game": "gym:Hopper-v5"})
    with pytest.raises(CannotSnapshot, match="gym:Walker2d-v5 has the wrappers .* had .*'ClipAction'"):
        extra = {"kind": "ClipAction"}
        environment = {**snapshot["environment"], "wrappers": [extra, *snapshot["environment"]["wrappers"]]}
        walker.restore(0, {**snapshot, "environment": environment})
    old = {**snapshot["environment"]["simulation"], "mujoco": "1.0.0"}
    with pytest.raises(CannotSnapshot, match="taken under MuJoCo 1.0.0 cannot be continued"):
        walker.restore(0, {**snapshot, "environment": {**snapshot["environment"], "simulation": old}})
