"""The DeepMind Control Suite as a Game: the suite's own numbers, and the difference between an end and a limit."""

from typing import Any

import numpy as np
import pytest
import torch

from tutelage.games import make as addresses
from tutelage.games.dm import suite
from tutelage.games.spec import GameError

make: Any = addresses.make  # Any: a test knows which world it made


@pytest.mark.parametrize("task", ["walker-walk", "cheetah-run", "quadruped-walk", "reacher-easy", "hopper-hop"])
def test_the_suites_own_numbers(task):
    game = make(f"dm:{task}", copies=2)
    env = suite.load(*task.split("-"), task_kwargs={"random": 7})
    vector = lambda answer: torch.tensor(np.concatenate([np.ravel(entry) for entry in answer.observation.values()]), dtype=torch.float32)
    first = game.reset(seed=[6, 7])
    assert torch.equal(first[1], vector(env.reset())) and not torch.equal(first[0], first[1])
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = torch.rand(2, *game.action_space.shape, generator=g) * 2 - 1
        step, expected = game.step(action), env.step(action[1].numpy())
        assert torch.equal(step.observation[1], vector(expected))
        assert step.reward[1].item() == pytest.approx(expected.reward, rel=1e-6)
    assert torch.equal(game.reset()[1], vector(env.reset()))


def test_spaces():
    game = make("dm:walker-walk", copies=1)
    assert game.observation_space.shape == (24,) and game.observation_space.dtype == "float32"
    assert game.action_space.shape == (6,) and game.action_space.low.tolist() == [-1.0] * 6


def test_the_time_limit_is_a_boundary_and_not_a_termination():
    game = make("dm:walker-walk", copies=1, time_limit=0.1)  # four control steps of 25 ms
    game.reset(seed=[1])
    flags = [(step.boundary.item(), step.terminated.item()) for step in (game.step(torch.zeros(1, 6)) for _ in range(4))]
    assert flags == [(False, False)] * 3 + [(True, False)]
    with pytest.raises(GameError, match="copy 0 of dm:walker-walk was stepped outside an episode"):
        game.step(torch.zeros(1, 6))


def test_discount_zero_terminates(monkeypatch):
    game = make("dm:cartpole-balance", copies=1)
    game.reset(seed=[1])
    task = game._envs[0].unwrapped._task
    monkeypatch.setattr(task, "get_termination", lambda physics: 0.0)
    step = game.step(torch.zeros(1, 1))
    assert step.terminated.all() and step.boundary.all()


def test_divergence_is_one_sentence():
    game = make("dm:acrobot-swingup", copies=1)
    game.reset(seed=[1])
    with pytest.raises(GameError, match="dm:acrobot-swingup: the simulation diverged"):
        for _ in range(5):
            game._envs[0].unwrapped._physics.data.qvel[:] = 1e12
            game.step(torch.zeros(1, 1))


def test_large_seeds_differ():
    draw = lambda seed: make("dm:point_mass-easy", copies=1).reset(seed=[seed])
    assert not torch.equal(draw(2**40 + 1), draw(1)) and torch.equal(draw(2**40 + 1), draw(2**40 + 1))


@pytest.mark.parametrize("task", ["walker-walk", "quadruped-escape"])
def test_pictures_change_and_are_not_black(task):
    game = make(f"dm:{task}", copies=1)
    game.reset(seed=[1])
    before = game.render(0, width=96, height=64)
    assert before.shape == (64, 96, 3) and before.dtype == np.uint8 and before.max() > 60 and before.std() > 2
    for _ in range(10):
        game.step(torch.ones(1, *game.action_space.shape))
    assert (game.render(0, width=96, height=64) != before).mean() > 0.002
    assert game.render(0, width=700, height=500).std() > 2
    with pytest.raises(GameError, match="picture of 2000 x 100; 1024 pixels a side is the most"):
        game.render(0, width=2000, height=100)
    game.close()


def test_wrong_options():
    with pytest.raises(GameError, match="dm:walker-walk cannot be made with the options {'gravity': 0}"):
        make("dm:walker-walk", copies=1, gravity=0)
