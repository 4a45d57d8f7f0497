"""The compiled update of SAC is the eager one: weights, targets, moments and metrics."""

import os
import subprocess
import sys
from pathlib import Path

# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
PROGRAM = """
import numpy as np
import torch

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box
from tutelage.learn.deep import sac

MEMBERS, SIZE, WIDTH = 2, 64, 2


def learner(compile: bool) -> sac.SAC:
    config = sac.Config(hidden=(32, 32), target_every=2, compile=compile)
    actions = Box(low=np.full(WIDTH, -2.0, np.float32), high=np.full(WIDTH, 2.0, np.float32), shape=(WIDTH,))
    observations = Box(low=np.full(3, -1.0, np.float32), high=np.full(3, 1.0, np.float32), shape=(3,))
    return sac.SAC(config, observations, actions, [torch.Generator().manual_seed(i) for i in range(MEMBERS)])


def batch(draw: torch.Generator) -> Batch:
    normal = lambda *shape: torch.randn(MEMBERS, SIZE, *shape, generator=draw)
    return Batch(normal(3), normal(WIDTH).clamp(-2.0, 2.0), normal(), normal(3), normal() > 1.0, (normal() < 1.0).float())


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
before = eager.train.groups["critic"].parameters.flat.clone()
for _ in range(10):
    one = batch(draw)
    close(eager.update_on(one), compiled.update_on(one))
close(eager.state(), compiled.state())
after = eager.train.groups["critic"].parameters.flat
assert not torch.equal(eager.train.targets["critic"].flat, before) and (after - before).abs().max() > 1e-3

# A gradient that is not finite freezes its seed in both, and the other goes on, compiled.
one = batch(draw)
one.reward[0] = float("nan")
for _ in range(3):
    close(eager.update_on(one)["q"], compiled.update_on(one)["q"])
    one = batch(draw)
close(eager.state(), compiled.state())
assert compiled.frozen()["critic"].tolist() == [True, False]

# Fresh critics for one seed: from here on the two have taken different numbers of steps.
for each in (eager, compiled):
    each.reset_critic(torch.tensor([False, True]))
for _ in range(2):
    one = batch(draw)
    close(eager.update_on(one)["q"], compiled.update_on(one)["q"])
close(eager.state(), compiled.state())

# One compiled function served all of it, and it does serve: None would mean that the eager step was left to do the work.
from torch._dynamo.utils import counters

assert counters["stats"]["unique_graphs"] == 2, counters["stats"]  # one for members that share a pace, one for members that have parted
assert compiled._step._compiled is not None
assert compiled._step._compiled(0.0, one, torch.zeros(MEMBERS, 2, SIZE, WIDTH)) is not None
"""


def test_compiled_equals_eager() -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
