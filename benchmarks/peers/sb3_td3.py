"""TD3 of Stable-Baselines3 on Pendulum-v1; its defaults are 400-300, batch 256, one update per step, policy delay 2."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys

import torch
from protocol import serve
from stable_baselines3 import TD3

torch.set_num_threads(int(sys.argv[1]))
model = TD3("MlpPolicy", "Pendulum-v1", buffer_size=100_000, learning_starts=100, device="cpu", seed=0)
model.learn(300)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
