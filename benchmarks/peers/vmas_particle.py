"""Random play of VMAS's simple_spread, step by step: `vmas_particle.py ACTIONS COPIES THREADS`.

Its observations have 14 numbers: without the four of silence. All copies begin anew together every 25 steps, which is its fastest reset.
"""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/vmas.

import sys

import torch
from protocol import serve
from vmas import make_env

LENGTH = 25
kind, copies = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))
env = make_env("simple_spread", num_envs=copies, continuous_actions=kind == "continuous", max_steps=LENGTH, seed=0, n_agents=3)
generator, played = torch.Generator().manual_seed(0), 0


def drawn():
    """For each agent [copies, 1] choices out of its own space, or [copies, 2] numbers."""
    if kind == "discrete":
        return list(torch.randint(env.action_space[0].n, (3, copies, 1), generator=generator))
    return list(2.0 * torch.rand(3, copies, 2, generator=generator) - 1.0)


def play(count):
    """`count` steps of the game, those of all copies together."""
    global played
    for _ in range(count // copies):
        env.step(drawn())
        played += 1
        if played % LENGTH == 0:
            env.reset()


env.reset()
play(100 * copies)
serve(play)
