"""The compiled update of PPO is the eager one: also with steps that were not real, illegal actions, and a seed that turns NaN."""

import os
import subprocess
import sys
from pathlib import Path

# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
PROGRAM = """
import numpy as np
import torch

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep import ppo
from tutelage.learn.learner import Progress

MEMBERS, D, K, B, T = 2, 4, 3, 2, 8
UNBOUNDED = Box((D,), np.full(D, -np.inf, np.float32), np.full(D, np.inf, np.float32))


def learner(compile: bool) -> ppo.PPO:
    config = ppo.Config(
        hidden=(16,), window=T, batch_size=8, epochs=2, temperature=0.01, value_clip_range=0.3, anneal=True, compile=compile
    )
    return ppo.PPO(config, UNBOUNDED, Discrete(K), [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)])


torch.set_num_threads(1)
eager, compiled = learner(False), learner(True)
windows, g = [made.experience(48, B) for made in (eager, compiled)], torch.Generator().manual_seed(4)
rand = lambda *shape: torch.randn(MEMBERS, B, *shape, generator=g)
before = eager.parameters.flat.clone()
for t in range(5 * T):
    x, boundary, mask = rand(D), rand() < -1.0, rand() > (-1.0 if t >= 2 * T else -9.0)
    legal = rand(K) > -1.0
    legal[..., 0] = True
    action = eager.behave(x, boundary, legal, Progress(t, 48))
    assert torch.equal(action, compiled.behave(x, boundary, legal, Progress(t, 48)))
    reward = rand()
    if t == 4 * T + 3:
        reward[-1] = torch.nan
    for made, window in zip((eager, compiled), windows):
        window.add(Transition(x, action, reward, x + 1.0, x, boundary, boundary, mask, legal, legal))
        made.update(window, Progress(t + 1, 48))
    torch.testing.assert_close(compiled.parameters.flat, eager.parameters.flat, atol=1e-5, rtol=1e-4)
    for name, moment in eager.optimizers["policy and value"].state().items():
        torch.testing.assert_close(compiled.optimizers["policy and value"].state()[name], moment, atol=1e-5, rtol=1e-4)
assert (before - eager.parameters.flat).abs().max() > 1e-3
for made in (eager, compiled):
    assert made.frozen()["policy and value"].tolist() == [False] * (MEMBERS - 1) + [True]

# One compiled function served all of it, windows with steps that were not real and without.
from torch._dynamo.utils import counters

assert counters["stats"]["unique_graphs"] == 2, counters["stats"]  # one for members that share a pace, one for members that have parted
"""


def test_compiled_equals_eager() -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
