"""Rollouts as one function: the same as stepping the game by hand, and one graph."""

import subprocess
import sys

import pytest
import torch

from tutelage.games.particle.address import WORLDS, make_world
from tutelage.games.particle.game import ParticleGame
from tutelage.games.particle.rollouts import compiled_rollout, play, random_actions
from tutelage.games.spec import GameError
from tutelage.games.streams import stream_keys


def started(world, copies):
    return world.start(stream_keys(range(copies)), torch.zeros(copies, dtype=torch.int64))


@pytest.mark.parametrize("name", list(WORLDS))
def test_as_by_hand(name):
    world = make_world(f"particle:{name}?max_steps=4")
    game = ParticleGame(world, 5)
    game.reset(seed=range(5))
    begun = state = game.state
    assert all(torch.equal(a, b) for a, b in zip(state, started(world, 5), strict=True))
    state, trajectory = play(world, state, 10)
    for t in range(10):
        game.state, actions = random_actions(world, game.state)
        assert all(torch.equal(a, b[t]) for a, b in zip(actions, trajectory.action, strict=True))
        step = game.step(actions)
        assert isinstance(step.observation, tuple)
        assert all(torch.equal(a, b[t]) for a, b in zip(step.observation, trajectory.observation, strict=True))
        assert torch.equal(step.reward, trajectory.reward[t]) and torch.equal(step.boundary, trajectory.boundary[t])
        game.reset(where=step.boundary)
    assert all(torch.equal(a, b) for a, b in zip(state, game.state, strict=True))
    assert trajectory.boundary[:, 0].nonzero().flatten().tolist() == [3, 7]
    assert not torch.equal(begun.position, state.position)


# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
ONE_GRAPH = """
import torch
from tutelage.games.particle.address import make_world
from tutelage.games.particle.rollouts import Trajectory, compiled_rollout, play
from tutelage.games.streams import stream_keys

NAMES = ("simple_spread", "simple_adversary", "simple_tag", "simple_collect", "multi_collect")
torch.set_num_threads(1)
for name, copies in [*((name, 3) for name in NAMES), *((name, 512) for name in NAMES[:2])]:  # observations come in two ways
    world = make_world(f"particle:{name}?max_steps=2")
    begun = world.start(stream_keys(range(copies)), torch.zeros(copies, dtype=torch.int64))
    state, expected = play(world, begun, 3)
    after, parts = compiled_rollout(world, 3, unroll=1, backend="aot_eager")(begun)
    numbers = lambda state, record: (*state, *record.observation, *record.action, record.reward, record.boundary)
    joined = Trajectory(*([torch.cat(x) for x in zip(*each)] if isinstance(each[0], tuple) else torch.cat(each) for each in zip(*parts)))
    ours, theirs = numbers(after, joined), numbers(state, expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    if copies == 3:
        print(name)
"""


def test_one_graph_and_the_same_numbers():
    done = subprocess.run([sys.executable, "-c", ONE_GRAPH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["simple_spread", "simple_adversary", "simple_tag", "simple_collect", "multi_collect"]


@pytest.mark.parametrize(("actions", "low"), [("discrete", 0.0), ("continuous", -1.0), ("box5", 0.0)])
def test_random_actions_are_uniform(actions, low):
    world = make_world(f"particle:simple_adversary?actions={actions}")
    state, drawn = random_actions(world, started(world, 4000))
    joint = torch.cat(drawn, dim=1)
    assert joint.shape[:2] == (4000, 3) and joint.min() >= low
    if actions == "discrete":
        assert (torch.bincount(joint.flatten(), minlength=5) / joint.numel() - 0.2).abs().max() < 0.02
    else:
        assert float(joint.max()) <= 1.0 and float(joint.mean()) == pytest.approx((1.0 + low) / 2, abs=0.02)
    assert abs(float(torch.corrcoef(joint[:, :2].reshape(4000, -1).double().t())[0, 1])) < 0.06
    again = random_actions(world, state)[1]
    assert not torch.equal(again[0], drawn[0])


def test_graphs_that_do_not_divide():
    with pytest.raises(GameError, match="a rollout of 100 steps of particle:simple_spread was asked for in graphs of 3"):
        compiled_rollout(make_world("particle:simple_spread"), 100, unroll=3)
