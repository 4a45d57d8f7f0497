"""Floating-point operations of the matrix products that one unit of work cannot do without: what run.py calls the limit is made of."""

from collections.abc import Sequence
from itertools import pairwise


def macs(sizes: Sequence[int]) -> int:
    """Multiply-adds of one row through linear layers of these widths."""
    return sum(a * b for a, b in pairwise(sizes))


def sac_update_flops(observation: int = 3, action: int = 1, hidden: tuple[int, ...] = (256, 256), batch: int = 256) -> int:
    """Of the matrix products of one update.

    Forward: the actor at s and s', the twin critics at (s, a), at (s, pi(s)) and as targets. Backward: to weights and inputs of actor and
    critics, but not to the inputs of their first layers; and through the critics to the action, without their weights.
    """
    actor, critic = (observation, *hidden, 2 * action), (observation + action, *hidden, 1)
    forward = 2 * macs(actor) + 3 * 2 * macs(critic)
    own = 2 * macs(actor) - macs(actor[:2]) + 2 * (2 * macs(critic) - macs(critic[:2]))
    return 2 * batch * (forward + own + 2 * macs(critic))


def td3_update_flops(
    observation: int = 3, action: int = 1, hidden: tuple[int, ...] = (400, 300), batch: int = 256, agents: int = 1
) -> float:
    """The same, the mean of two updates, of which one moves the actor; agents: each has its nets, and its critics see all.

    Forward: the target actor at s', the twin critics at (s, a) and as targets; for the actor, itself at s and one critic.
    Backward as for SAC.
    """
    actor, critic = (observation, *hidden, action), (agents * (observation + action), *hidden, 1)
    critics = macs(actor) + 2 * 2 * macs(critic) + 2 * (2 * macs(critic) - macs(critic[:2]))
    moves = macs(actor) + 2 * macs(critic) + 2 * macs(actor) - macs(actor[:2])
    return 2 * agents * batch * (critics + moves / 2)


def dqn_step_flops(
    observation: int = 4, actions: int = 2, hidden: tuple[int, ...] = (64, 64), batch: int = 32, update_every: int = 4
) -> float:
    """Of one step of the game: the net at one observation, and the share of an update."""
    net = (observation, *hidden, actions)
    return 2 * (macs(net) + batch * (4 * macs(net) - macs(net[:2])) / update_every)


def ppo_step_flops(observation: int, outputs: int, hidden: tuple[int, ...] = (64, 64), epochs: int = 10) -> int:
    """Of one step of one copy: the policy that plays it, policy and value of the full window, and forward and backward in each epoch."""
    policy, value = (observation, *hidden, outputs), (observation, *hidden, 1)
    learned = sum(3 * macs(net) - macs(net[:2]) for net in (policy, value))
    return 2 * (2 * macs(policy) + macs(value) + epochs * learned)


def trpo_step_flops(observation: int, outputs: int, hidden: tuple[int, ...] = (64, 64), products: int = 16, epochs: int = 10) -> int:
    """The same, with a gradient, products with the Fisher matrix (the tangent forward, its transpose backward) and one step searched."""
    policy, value = (observation, *hidden, outputs), (observation, *hidden, 1)
    backward = {net: 2 * macs(net) - macs(net[:2]) for net in (policy, value)}
    moves = macs(policy) + backward[policy] + products * (macs(policy) + backward[policy]) + macs(policy)
    return 2 * (2 * macs(policy) + macs(value) + moves + epochs * (macs(value) + backward[value]))


REWARD_NET, MEMBERS = (17 + 6, 256, 256, 256, 1), 3
EPOCH_FLOPS = 2 * MEMBERS * (500 * 2 * 50) * (3 * macs(REWARD_NET) - macs(REWARD_NET[:2]))
RELABEL_FLOPS = 2 * MEMBERS * 1_000_000 * macs(REWARD_NET)
PRODUCT_FLOPS = 2 * 1024**3
