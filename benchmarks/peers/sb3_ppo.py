"""PPO of Stable-Baselines3: `sb3_ppo.py GAME COPIES THREADS`; its defaults are 64-64, 2048 steps per copy, batch 64, 10 epochs."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys

import torch
from protocol import serve
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

game, copies, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
model = PPO("MlpPolicy", make_vec_env(game, int(copies)), device="cpu", seed=0)
model.learn(2048 * int(copies))
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
