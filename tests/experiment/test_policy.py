"""Policies out of a run directory: the weights that were trained, for one observation, many, and nested ones."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import tutelage
from tutelage.experiment.checkpoint import CheckpointError
from tutelage.experiment.config import RunConfig
from tutelage.experiment.policy import evaluate_run, load_policy
from tutelage.experiment.run import Experiment, RunError
from tutelage.games.spec import GameError
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble

SAC = sac.Config(hidden=(8, 8), batch_size=8, random_steps=10)
CONFIG = RunConfig(
    SAC, "py:reach:Reach", 30, seed=4, seeds=2, evaluate_every=1000, evaluation_episodes=1, checkpoint_every=20, log_every=10, clips=0
)

GAME = '''
"""An arm with a nested observation; what it gets is how far its action is from the target's sign."""
import numpy as np
import torch
from tutelage.games.spec import Box, DictSpace, Discrete, Game, Step

class Reach(Game):
    observation_space = DictSpace((
        ("arm", Box((2,), np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32))), ("target", Discrete(2)),
    ))
    action_space = Box((1,), np.full(1, -3.0, np.float32), np.full(1, 3.0, np.float32))

    def __init__(self, copies):
        self.copies, self.time = copies, torch.zeros(copies, dtype=torch.int64)

    def look(self):
        return {"arm": torch.stack([self.time / 10.0, -self.time / 10.0], -1), "target": self.time % 2}

    def reset(self, seed=None, where=None):
        self.time[torch.ones(self.copies, dtype=torch.bool) if where is None else where] = 0
        return self.look()

    def step(self, actions):
        reward = -(actions[:, 0] - (2.0 * (self.time % 2) - 1.0)).abs()
        self.time += 1
        end = self.time >= 8
        return Step(self.look(), reward, end & False, end, end | True)
'''


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the game py:reach:Reach."""
    folder = tmp_path_factory.mktemp("games")
    (folder / "reach.py").write_text(GAME)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("reach", None)


@pytest.fixture(scope="module")
def run(game: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with open(os.devnull, "w") as nowhere:
        return tutelage.train(CONFIG, tmp_path_factory.mktemp("runs") / "run", console=Console(file=nowhere))


def test_it_is_the_policy_that_was_trained(run: Path):
    with Experiment(CONFIG, run) as experiment:
        experiment.restore()
        flat = torch.tensor([0.3, -0.3, 0.0, 1.0])
        expected = experiment.learner.act(flat.expand(2, 1, 4), deterministic=True)
    observation = {"arm": np.array([0.3, -0.3]), "target": 1}
    for seed, member in ((None, 0), (4, 0), (5, 1)):
        policy = load_policy(run, seed)
        assert policy.step == 30
        torch.testing.assert_close(policy.act(observation), expected[member, 0])
    assert not torch.equal(expected[0], expected[1])


def test_a_batch_is_acted_on_row_by_row(run: Path):
    policy = load_policy(str(run))
    arm, target = np.linspace(-1.0, 1.0, 10, dtype=np.float32).reshape(5, 2), np.array([0, 1, 1, 0, 1])
    actions = policy.act({"arm": arm, "target": target})
    assert actions.shape == (5, 1) and actions.dtype == torch.float32 and (actions.abs() <= 3.0).all()
    rows = [policy.act({"arm": a, "target": t}) for a, t in zip(arm, target, strict=True)]
    torch.testing.assert_close(actions, torch.stack(rows))
    torch.testing.assert_close(actions, policy.act({"arm": torch.from_numpy(arm), "target": torch.from_numpy(target)}))
    assert torch.equal(policy.act({"arm": arm, "target": target}), actions)
    noisy = policy.act({"arm": arm, "target": target}, deterministic=False)
    assert not torch.equal(noisy, actions) and not torch.equal(noisy, policy.act({"arm": arm, "target": target}, deterministic=False))
    with pytest.raises(GameError, match="it has no entry 'target'"):
        policy.act({"arm": arm})


def test_episodes_are_played_by_each_seed(run: Path):
    step, results = evaluate_run(run, 12)
    assert step == 30 and list(results) == [4, 5]
    for seed, result in results.items():
        policy, total = load_policy(run, seed), 0.0
        for time in range(8):
            action = policy.act({"arm": [time / 10.0, -time / 10.0], "target": time % 2})
            total -= abs(float(action) - (2.0 * (time % 2) - 1.0))
        assert result.returns.tolist() == pytest.approx([total] * 12, rel=1e-5) and result.lengths.tolist() == [8] * 12


def test_a_lesson_of_ones_own_is_what_counts(run: Path, game: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "small.py").write_text("def effort(observation, action):\n    return -action[..., 0].abs() - 100.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Experiment(dataclasses.replace(CONFIG, true_reward="py:small:effort"), tmp_path / "run") as experiment:
        experiment.begin()
    _, results = evaluate_run(tmp_path / "run", 1)
    assert all(-8 * 103.0 <= result.mean <= -800.0 for result in results.values())


def test_a_student_has_the_policy_of_its_sac(game: None, tmp_path: Path):
    config = dataclasses.replace(CONFIG, algorithm=pebble.Config(sac=SAC, labels=4))
    with Experiment(config, tmp_path) as experiment:
        experiment.begin()
        expected = experiment.learner.act(torch.zeros(2, 1, 4), deterministic=True)
    policy = load_policy(tmp_path, 5)
    # The weights answer to one-hot targets; two of them differ only through those.
    one, other = (policy.act({"arm": [0.0, 0.0], "target": target}) for target in (0, 1))
    assert policy.step == 0 and one.shape == expected[1, 0].shape and not torch.equal(one, other)


def test_what_is_no_run_no_seed_or_no_checkpoint(run: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"seed 6 was asked for; .*run trained seeds 4 to 5$"):
        load_policy(run, 6)
    with pytest.raises(RunError, match="is no run: it has no config.json"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(CheckpointError):
        load_policy(tmp_path)
