"""One MATD3 update for 3 agents of simple_spread (continuous) as jitted JAX: `jax_matd3.py BATCH HIDDEN THREADS`.

What tutelage.learn.many_agents.matd3 does at its defaults, in plain jax.numpy: an actor and twin critics for each agent, critics see all
observations and actions, noise on every agent's target action, actors and targets at every second update and from the same weights as the
critics, gradients limited for each agent's net, Adam, Polyak averages. Ackermann et al. 2019 (arXiv 1910.01465), algorithm 1.
"""

# pyright: reportMissingImports=false
# JAX lives in benchmarks/.venvs/jaxmarl.

import os
import sys

os.environ["NPROC"] = sys.argv[3]  # the size of XLA's thread pool; read when jax is imported

from functools import partial

import jax
import jax.numpy as jnp
from protocol import serve

AGENTS, OBSERVATION, ACTION = 3, 18, 2
DISCOUNT, TARGET_RATE, LEARNING_RATE, MAX_GRAD_NORM, PENALTY = 0.95, 0.01, 1e-3, 0.5, 1e-3
TARGET_NOISE, TARGET_NOISE_CLIP, DELAY = 0.2, 0.5, 2
batch_size, width = int(sys.argv[1]), int(sys.argv[2])


def made(key, *members, sizes):
    """Weights and biases of a stack of nets: [*members, in, out] and [*members, 1, out]."""
    keys = jax.random.split(key, len(sizes) - 1)
    bounded = lambda k, a, *shape: jax.random.uniform(k, (*members, *shape), minval=-(a**-0.5), maxval=a**-0.5)
    return [(bounded(k, a, a, b), bounded(k, a, 1, b)) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def forward(net, x):
    """[..., batch, in] -> [..., batch, out]; member axes are those of the weights."""
    for weight, bias in net[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ net[-1][0] + net[-1][1]


def side_by_side(x):
    """[agents, batch, w] -> [batch, agents w]."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def loss(nets, targets, batch, noise, climb):
    """Of all critics, and where it is their turn of all actors."""
    seen, acted, reward, ended, seen_next = batch
    actor_targets, critic_targets = targets["actors"], targets["critics"]
    joint, joint_next = side_by_side(seen), side_by_side(seen_next)
    smoothed = jnp.tanh(forward(actor_targets, seen_next)) + jnp.clip(TARGET_NOISE * noise, -TARGET_NOISE_CLIP, TARGET_NOISE_CLIP)
    ahead = jnp.concatenate([joint_next, side_by_side(jnp.clip(smoothed, -1.0, 1.0))], -1)
    next_q = forward(critic_targets, ahead)[..., 0].min(1)
    target = jax.lax.stop_gradient(reward + DISCOUNT * jnp.where(ended, 0.0, next_q))
    q = forward(nets["critics"], jnp.concatenate([joint, side_by_side(acted)], -1))[..., 0]  # [agents, 2, batch]
    total = jnp.square(q - target[:, None]).mean(-1).sum()
    if climb:
        output = forward(nets["actors"], seen)
        own = jnp.eye(AGENTS, dtype=bool)[:, :, None, None]  # agent i's critic is shown i's action fresh, the others' from the batch
        shown = jnp.where(own, jnp.tanh(output)[None], acted[None]).swapaxes(1, 2).reshape(AGENTS, batch_size, -1)
        everything = jnp.concatenate([jnp.broadcast_to(joint, (AGENTS, *joint.shape)), shown], -1)
        first = jax.tree.map(lambda x: jax.lax.stop_gradient(x[:, 0]), nets["critics"])
        total += PENALTY * jnp.square(output).mean((-1, -2)).sum() - forward(first, everything).mean((-1, -2)).sum()
    return total


def clipped(gradient):
    """The gradients of a stack of nets, the norm of each agent's at most MAX_GRAD_NORM."""
    squares = sum(jnp.square(x).reshape(AGENTS, -1).sum(-1) for x in jax.tree.leaves(gradient))
    factor = jnp.minimum(1.0, MAX_GRAD_NORM / (jnp.sqrt(squares) + 1e-6))
    return jax.tree.map(lambda x: x * factor.reshape(AGENTS, *[1] * (x.ndim - 1)), gradient)


def adam(net, gradient, first, second, count):
    """Kingma & Ba 2015, algorithm 1."""
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
    rate, root = LEARNING_RATE / (1.0 - 0.9**count), jnp.sqrt(1.0 - 0.999**count)
    return jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + 1e-8), net, first, second), first, second


@partial(jax.jit, static_argnames="climb", donate_argnames="state")
def update(state, batch, climb):
    """One update; the next state."""
    key, draw = jax.random.split(state["key"])
    noise = jax.random.normal(draw, (AGENTS, batch_size, ACTION))
    nets, moments, counts = state["nets"], state["moments"], dict(state["counts"])
    moving = ("critics", "actors") if climb else ("critics",)
    descended = jax.grad(lambda own: loss({**nets, **own}, state["targets"], batch, noise, climb))({name: nets[name] for name in moving})
    nets, moments = dict(nets), dict(moments)
    for name in moving:
        counts[name] += 1.0
        first, second = moments[name]
        nets[name], *moments[name] = adam(nets[name], clipped(descended[name]), first, second, counts[name])
    targets = state["targets"]
    if climb:
        targets = jax.tree.map(lambda old, new: old + TARGET_RATE * (new - old), targets, nets)
    return {"nets": nets, "targets": targets, "moments": moments, "counts": counts, "key": key}


def begun(seed):
    """Fresh nets, their targets and an optimizer."""
    actors, critics, key = jax.random.split(jax.random.key(seed), 3)
    nets = {
        "actors": made(actors, AGENTS, sizes=(OBSERVATION, width, width, ACTION)),
        "critics": made(critics, AGENTS, 2, sizes=(AGENTS * (OBSERVATION + ACTION), width, width, 1)),
    }
    zeros = lambda: {name: [jax.tree.map(jnp.zeros_like, net) for _ in range(2)] for name, net in nets.items()}
    counts = {name: jnp.zeros(()) for name in nets}
    return {"nets": nets, "targets": jax.tree.map(jnp.copy, nets), "moments": zeros(), "counts": counts, "key": key}


def random_batch(seed):
    """Observations, actions, rewards, ends and next observations; agents first."""
    keys = jax.random.split(jax.random.key(seed), 4)
    seen, seen_next = (jax.random.normal(k, (AGENTS, batch_size, OBSERVATION)) for k in keys[:2])
    acted = jax.random.uniform(keys[2], (AGENTS, batch_size, ACTION), minval=-1.0, maxval=1.0)
    return seen, acted, jax.random.normal(keys[3], (AGENTS, batch_size)), jnp.zeros((AGENTS, batch_size), bool), seen_next


if __name__ == "__main__":
    state, batch, done = begun(0), random_batch(1), 0

    def updates(count):
        """Every second one moves actors and targets."""
        global state, done
        for _ in range(count):
            done += 1
            state = update(state, batch, climb=done % DELAY == 0)
        jax.block_until_ready(state)

    updates(20)
    serve(updates)
