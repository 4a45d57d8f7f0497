"""One MATD3 update of AgileRL for 3 agents of simple_spread (continuous): `agilerl_matd3.py BATCH HIDDEN THREADS`.

Its target actions have no noise; policy delay 2. Its nets are an encoder and a head, so that its critics have two hidden layers and its
actors three, with layer norms.
"""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/agilerl.

import sys

import numpy as np
import torch
from agilerl.algorithms import MATD3
from gymnasium.spaces import Box
from protocol import serve
from tensordict import TensorDict

batch_size, width, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
names = ["first", "second", "third"]  # agents whose names differ only in a number would share one net
learner = MATD3(
    [Box(-np.inf, np.inf, (18,)) for _ in names], [Box(-1.0, 1.0, (2,)) for _ in names], agent_ids=names, policy_freq=2,
    batch_size=batch_size, device="cpu",
    net_config={
        "latent_dim": width, "max_latent_dim": width, "encoder_config": {"hidden_size": [width]}, "head_config": {"hidden_size": [width]},
    },
)  # fmt: skip


def for_each(draw):
    """Agent -> [batch, ...]."""
    return TensorDict({name: draw() for name in names}, batch_size=[batch_size])


fields = {
    "obs": lambda: torch.randn(batch_size, 18),
    "action": lambda: 2.0 * torch.rand(batch_size, 2) - 1.0,
    "reward": lambda: torch.randn(batch_size, 1),
    "next_obs": lambda: torch.randn(batch_size, 18),
    "done": lambda: torch.zeros(batch_size, 1),
}
experiences = TensorDict({name: for_each(draw) for name, draw in fields.items()}, batch_size=[batch_size])


def updates(count):
    """Every second one moves actors and targets."""
    for _ in range(count):
        learner.learn(experiences)


updates(10)
serve(updates)
