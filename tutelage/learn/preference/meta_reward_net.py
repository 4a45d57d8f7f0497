"""Meta-Reward-Net: the reward model also learns from what its rewards do to the critic.

Liu et al. 2022 (NeurIPS 35, pp. 22270-22284), algorithm 1. A reward is good if the critic that is trained on it prefers what people
prefer. So, every `every` steps: take one step of plain gradient descent of the critic on the present rewards, but keep it a function of
the reward model; ask this virtual critic which of two clips it values more at their first step; and move the reward model down the
gradient of the cross-entropy with the labels, through the virtual step. The supervised fits of PEBBLE go on beside it.

Where we depart from the paper
- A tie is a label of one half here too, as in every other comparison (the authors' code does not treat ties).
- Autograd differentiates the virtual step; the paper's factor h = -alpha (grad L)' grad J is not the derivative of what it stands for.
- The ordinary update that follows draws a batch of its own.
Left out: nothing. After the last label it is PEBBLE, as the authors' code is.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.bellman import soft_bellman_target
from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.learn.deep.sac import SAC, critic_loss, twin_values
from tutelage.nets.mlp import MLP
from tutelage.nets.noise import normal
from tutelage.nets.tanh_gaussian import tanh_gaussian
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.learned import RewardEnsemble


@dataclass(frozen=True)
class Config:
    """What Meta-Reward-Net adds."""

    every: int = 0
    """N: steps between two bilevel steps (paper: 1,000 on walker-walk, 5,000 on cheetah-run, 3,000 on quadruped-walk). 0: none."""
    weight: float = 0.1
    """Of the outer loss (authors' code: 0.1)."""
    labels: int | None = None
    """Newest labels that the outer loss is taken over. None: as many as in a session (authors' code)."""


def virtual_critic(weights: Mapping[str, Tensor], loss: Float[Tensor, "R"], learning_rate: float) -> dict[str, Tensor]:
    """theta - alpha grad_theta J: one step of plain gradient descent, still a function of all that J depends on.

    MRN, section 4.2. Not Adam's step: its moments would be constants here, and the direction another one.
    """
    gradients = torch.autograd.grad(loss.sum(), list(weights.values()), create_graph=True)
    return {name: weight - learning_rate * g for (name, weight), g in zip(weights.items(), gradients, strict=True)}


def meta_reward_net_loss(
    critic: MLP,
    critic_weights: Mapping[str, Tensor],
    batch: Batch,
    reward: Float[Tensor, "R N"],
    future: Float[Tensor, "R N"],
    first_observation: Float[Tensor, "R P 2 D"],
    first_action: Float[Tensor, "R P 2 A"],
    label: Float[Tensor, "R P"],
    weight: Float[Tensor, "R P"],
    learning_rate: float,
) -> Float[Tensor, "R"]:
    """The outer loss of each seed, a function of the reward model through `reward`.

    L(theta'), theta' = theta - alpha grad_theta sum_j mean (Q_j(s, a) - r^ - gamma V(s'))^2,
    L = -sum_j mean [y log P_j + (1 - y) log(1 - P_j)],   P_j = sigma(Q_j(s_0, a_0; left) - Q_j(s_0, a_0; right)).

    MRN, eqs. 6 to 9. reward: r^ on the batch, with its graph. future: gamma V(s'), 0 after termination, without. The critic judges a
    clip by its first step, `first_...`: what follows is what Q is about. Actions lie in [-1, 1]. critic_weights must require gradients.
    """
    q = twin_values(critic, critic_weights, batch.observation, batch.action)
    td = 2.0 * critic_loss(q, reward + future, batch.mask)
    virtual = virtual_critic(critic_weights, td, learning_rate)
    values = twin_values(critic, virtual, first_observation.flatten(1, 2), first_action.flatten(1, 2)).unflatten(-1, (-1, 2))
    loss = bradley_terry_loss(values[..., 0] - values[..., 1], label[:, None])  # [R, 2, P]
    return (loss * weight[:, None]).sum((1, 2)) / weight.sum(-1).clamp(min=1e-12)


def bilevel_step(
    config: Config, ensemble: RewardEnsemble, sac: SAC, replay: Replay, comparisons: Comparisons, learned: Bool[Tensor, "R"]
) -> Float[Tensor, "R"]:
    """`outer_step`; and all memory of the `learned` seeds, which the reward model pays, has its new reward afterwards."""
    loss = outer_step(config, ensemble, sac, replay, comparisons)
    ensemble.measure_outputs(replay.observations(), replay.actions(), learned)
    replay.relabel(ensemble.reward, chosen=learned)
    return loss


def outer_step(config: Config, ensemble: RewardEnsemble, sac: SAC, replay: Replay, comparisons: Comparisons) -> Float[Tensor, "R"]:
    """Move the reward models of the seeds that have labels among `comparisons` by one outer gradient; returns the outer losses."""
    batch = sac.unit(replay.sample(sac.config.batch_size, ensemble.generators))
    actor, target = sac.train.weights("actor"), sac.train.targets["critic"].weights
    with torch.no_grad():
        noise = normal(ensemble.generators, (batch.reward.shape[1], batch.action.shape[-1])).to(sac.device)
        next_action, next_logp = tanh_gaussian(sac.actor(actor, batch.next_observation), noise)
        next_q = twin_values(sac.critic, target, batch.next_observation, next_action).amin(1)
        temperature = sac.train.weights("temperature")["log_temperature"].exp()[:, None]
        nothing = torch.zeros_like(batch.reward)
        future = soft_bellman_target(nothing, next_q, next_logp, temperature, batch.terminated, sac.config.discount)
    leaves = ensemble.parameters.leaves
    played = batch.action * sac.action_reach + sac.action_middle
    reward = ensemble.normalized(ensemble.member_rewards(batch.observation, played, leaves)).mean(1)
    first = comparisons.margin
    loss = meta_reward_net_loss(
        sac.critic, sac.train.groups["critic"].parameters.leaves, batch, reward, future,
        comparisons.observation[:, :, :, first].to(sac.device), sac.scaled(comparisons.action[:, :, :, first].to(sac.device)),
        comparisons.label.to(sac.device), comparisons.weight.to(sac.device), sac.config.learning_rate,
    )  # fmt: skip
    gradient = torch.autograd.grad(config.weight * loss.sum(), list(leaves.values()))
    ensemble.optimizer.step(ensemble.parameters.gather(gradient), (comparisons.weight > 0).any(-1).to(ensemble.device))
    return loss.detach()
