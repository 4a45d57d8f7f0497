"""TD3 of SBX, whose update is one jitted JAX function, on Pendulum-v1, with SB3's nets; batch 256, one update per step, policy delay 2."""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sbx.

import os
import sys

os.environ["NPROC"] = sys.argv[1]  # the size of XLA's thread pool; read when jax is imported

from protocol import serve
from sbx import TD3

model = TD3(
    "MlpPolicy", "Pendulum-v1", learning_rate=1e-3, buffer_size=100_000, learning_starts=100, policy_kwargs={"net_arch": [400, 300]}, seed=0
)
model.learn(300)
serve(lambda steps: model.learn(steps, reset_num_timesteps=False))
