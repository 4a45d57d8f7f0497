"""Epochs of imitation's ensemble trainer: 500 comparisons of 2 x 50 steps, three members of 3 x 256, minibatches of 32."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/imitation.

import sys

import numpy as np
import torch
from gymnasium.spaces import Box
from imitation.algorithms import preference_comparisons as pc
from imitation.data.types import TrajectoryWithRew
from imitation.rewards.reward_nets import BasicRewardNet, RewardEnsemble
from protocol import serve

COMPARISONS, LENGTH, OBSERVATION, ACTION = 500, 50, 17, 6

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
rng = np.random.default_rng(0)


def segment() -> TrajectoryWithRew:
    """A clip of random numbers, which costs what any other does."""
    observations = rng.normal(size=(LENGTH + 1, OBSERVATION)).astype(np.float32)
    actions = rng.uniform(-1.0, 1.0, size=(LENGTH, ACTION)).astype(np.float32)
    return TrajectoryWithRew(obs=observations, acts=actions, infos=None, terminal=False, rews=np.zeros(LENGTH))


observation_space, action_space = Box(-np.inf, np.inf, (OBSERVATION,)), Box(-1.0, 1.0, (ACTION,))
members = [BasicRewardNet(observation_space, action_space, hid_sizes=(256, 256, 256)) for _ in range(3)]
ensemble = RewardEnsemble(observation_space, action_space, members)
dataset = pc.PreferenceDataset()
dataset.push([(segment(), segment()) for _ in range(COMPARISONS)], rng.integers(0, 2, COMPARISONS).astype(np.float32))
trainer = pc.EnsembleTrainer(
    pc.PreferenceModel(ensemble), pc.CrossEntropyRewardLoss(), rng=rng, epochs=1, lr=3e-4, batch_size=32
)  # fmt: skip


def epochs(count: int) -> None:
    """Passes over the comparisons."""
    for _ in range(count):
        trainer.train(dataset)


epochs(1)
serve(epochs)
