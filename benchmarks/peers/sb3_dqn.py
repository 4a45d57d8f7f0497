"""DQN of Stable-Baselines3 on CartPole-v1; its defaults are 64-64, batch 32, one update every four steps."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys

import torch
from protocol import serve
from stable_baselines3 import DQN

torch.set_num_threads(int(sys.argv[1]))
model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100_000, device="cpu", seed=0)
model.learn(1000)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
