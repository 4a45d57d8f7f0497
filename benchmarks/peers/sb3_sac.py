"""SAC of Stable-Baselines3 on Pendulum-v1; its defaults are 256-256, batch 256, one update per step."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys

import torch
from protocol import serve
from stable_baselines3 import SAC

torch.set_num_threads(int(sys.argv[1]))
model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100_000, learning_starts=100, device="cpu", seed=0)
model.learn(300)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
