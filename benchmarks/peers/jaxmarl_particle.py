"""Random play of JaxMARL's simple_spread, 100 steps in one jitted scan: `jaxmarl_particle.py ACTIONS COPIES THREADS`.

Observations (18 numbers), actions, rewards and ends are kept; what has ended begins anew. Continuous actions are its own: five
numbers in [0, 1].
"""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/jaxmarl.

import os
import sys

os.environ["NPROC"] = sys.argv[3]  # the size of XLA's thread pool; read when jax is imported

import jax
from jaxmarl import make
from protocol import serve

STEPS = 100
kind, copies = sys.argv[1], int(sys.argv[2])
env = make("MPE_simple_spread_v3", action_type="Discrete" if kind == "discrete" else "Continuous")


def step(carry, _):
    """One step of every copy."""
    key, state = carry
    key, of_actions, of_steps = jax.random.split(key, 3)
    if kind == "discrete":
        joint = jax.random.randint(of_actions, (len(env.agents), copies), 0, 5)
    else:
        joint = jax.random.uniform(of_actions, (len(env.agents), copies, 5))
    actions = dict(zip(env.agents, joint, strict=True))
    observation, state, reward, ended, _ = jax.vmap(env.step)(jax.random.split(of_steps, copies), state, actions)
    return (key, state), (observation, actions, reward, ended["__all__"])


@jax.jit
def rollout(carry):
    """STEPS steps, and what they brought."""
    return jax.lax.scan(step, carry, length=STEPS)


key, seeds = jax.random.split(jax.random.key(0))
carry = key, jax.vmap(env.reset)(jax.random.split(seeds, copies))[1]


def play(count):
    """`count` steps of the game, those of all copies together."""
    global carry
    for _ in range(count // (copies * STEPS)):
        carry, trajectory = rollout(carry)
        jax.block_until_ready(trajectory)


play(copies * STEPS)
play(copies * STEPS)
serve(play)
