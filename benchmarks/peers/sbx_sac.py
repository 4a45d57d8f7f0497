"""SAC of SBX, whose update is one jitted JAX function, on Pendulum-v1; its defaults are 256-256, batch 256, one update per step."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sbx.

import os
import sys

os.environ["NPROC"] = sys.argv[1]  # the size of XLA's thread pool; read when jax is imported

from protocol import serve
from sbx import SAC

model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100_000, learning_starts=100, seed=0)
model.learn(300)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
