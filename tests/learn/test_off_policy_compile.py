"""The compiled update of every learner with a replay is the eager one: weights, targets, moments and metrics."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
PROGRAM = """
import sys

import numpy as np
import torch

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep import ddpg, discrete_sac, dqn, td3

MEMBERS, SIZE, CHOICES = 2, 64, 3
one = np.ones(2, np.float32)
reals, choices = Box((2,), -2.0 * one, 2.0 * one), Discrete(CHOICES)
seen = Box((3,), np.full(3, -1.0, np.float32), np.full(3, 1.0, np.float32))
MAKE = {
    "ddpg": lambda compile: (ddpg.DDPG, ddpg.Config(hidden=(32, 32), compile=compile), reals),
    "td3": lambda compile: (td3.TD3, td3.Config(hidden=(32, 32), compile=compile), reals),
    "dqn": lambda compile: (dqn.DQN, dqn.Config(hidden=(32, 32), double=True, dueling=True, target_every=3, compile=compile), choices),
    "discrete_sac": lambda compile: (discrete_sac.DiscreteSAC, discrete_sac.Config((32, 32), target_every=2, compile=compile), choices),
}
GRAPHS = {"td3": 2}


def learner(compile: bool):
    made, config, space = MAKE[sys.argv[1]](compile)
    return made(config, seen, space, [torch.Generator().manual_seed(i) for i in range(MEMBERS)])


def batch(draw: torch.Generator) -> Batch:
    normal = lambda *shape: torch.randn(MEMBERS, SIZE, *shape, generator=draw)
    given = normal(3), normal(2).clamp(-2.0, 2.0), normal(), normal(3), normal() > 1.0, (normal() < 1.0).float()
    if sys.argv[1] in ("ddpg", "td3"):
        return Batch(*given)
    action = torch.randint(CHOICES, (MEMBERS, SIZE, 1), generator=draw)
    legal = (normal(CHOICES) > 0.0).scatter(-1, action, True)
    return Batch(given[0], action.float(), *given[2:], legal, legal)


def close(ours, theirs):
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            close(ours[name], theirs[name])
    elif isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    else:
        assert str(ours) == str(theirs)  # counts and the states of generators


torch.set_num_threads(1)
eager, compiled = learner(False), learner(True)
draw = torch.Generator().manual_seed(7)
critics = eager.train.groups["critic"].parameters.flat
before, target = critics.clone(), eager.train.targets["critic"].flat.clone()
for _ in range(10):
    given = batch(draw)
    close(eager.update_on(given), compiled.update_on(given))
close(eager.state(), compiled.state())
assert not torch.equal(eager.train.targets["critic"].flat, target) and (critics - before).abs().max() > 1e-4

# A gradient that is not finite freezes its seed in both, and the other goes on, compiled.
given = batch(draw)
given.reward[0] = float("nan")
for _ in range(4):
    close(eager.update_on(given)["q"], compiled.update_on(given)["q"])
    given = batch(draw)
close(eager.state(), compiled.state())
assert compiled.frozen()["critic"].tolist() == [True, False]

# As few compiled functions as the algorithm has kinds of update served all of it.
from torch._dynamo.utils import counters

# One for members that share a pace, and one for members that have parted.
assert counters["stats"]["unique_graphs"] == 2 * GRAPHS.get(sys.argv[1], 1), counters["stats"]
"""


@pytest.mark.parametrize("algorithm", ["ddpg", "td3", "dqn", "discrete_sac"])
def test_compiled_equals_eager(algorithm: str) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, algorithm], capture_output=True, text=True, env=environment, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
