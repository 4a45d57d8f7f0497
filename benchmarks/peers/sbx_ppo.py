"""PPO of SBX, whose update is one jitted JAX function: `sbx_ppo.py GAME COPIES THREADS`; with SB3's settings."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sbx.

import os
import sys

os.environ["NPROC"] = sys.argv[-1]  # the size of XLA's thread pool; read when jax is imported

from protocol import serve
from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env

game, copies = sys.argv[1], int(sys.argv[2])
model = PPO("MlpPolicy", make_vec_env(game, copies), n_steps=2048, batch_size=64, n_epochs=10, seed=0)
model.learn(2048 * copies)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
