"""TRPO of sb3-contrib: `sb3_trpo.py GAME COPIES THREADS`; its defaults are 64-64, 2048 steps per copy, 15 conjugate gradient steps."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys

import torch
from protocol import serve
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env

game, copies, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
model = TRPO("MlpPolicy", make_vec_env(game, int(copies)), device="cpu", seed=0)
model.learn(2048 * int(copies))
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
