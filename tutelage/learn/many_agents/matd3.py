"""MADDPG, MATD3 and MATD4: deterministic policy gradients among many agents, under any scheme.

MADDPG (Lowe et al. 2017, arXiv 1706.02275): DDPG whose critic, while learning, sees all observations and actions (scheme ct-de), so that
its world stands still although the others learn. MATD3 (Ackermann et al. 2019, arXiv 1910.01465): TD3 instead of DDPG. MATD4 (thesis,
dspace 127431, as NPFL139 lecture 14 tells it): its actor climbs the smaller of both critics, as SAC's does. Under the schemes concurrent,
shared and centralized the same three are DDPG, TD3 and TD4.

Whose actions does an actor's step show the critic? Its own are fresh. The others' come from the buffer; with `soft` they are what
the others would do now. Either way the gradient reaches the actor of one's own only, because each critic answers to its own agent: in
a zero-sum game the gradients of both players do not cancel.

Where we depart from the papers
- Where actors move, actors and critics take their gradients at the same weights, in one backward pass.
- Target actions that are choices are drawn from the target policy as one-hot vectors, those played too (OpenAI's code plays and stores
  relaxed ones); target noise is for reals only.
- A time limit is no end: the true successor's value is bootstrapped (as in the papers' codes, which never end an episode at all).
- The norm of a gradient is limited for each agent's net, not for each tensor.
Left out: policy ensembles and inferred policies of others (Lowe et al., sections 4.2 and 4.3), images.
Landscape: model-free, off-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.bellman import q_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Players
from tutelage.learn.many_agents import fork
from tutelage.learn.many_agents.actions import ESTIMATORS
from tutelage.learn.many_agents.nets import Cut, Nets, Weights, climbed, cut, of_seeds, values
from tutelage.learn.many_agents.schemes import Scheme
from tutelage.learn.many_agents.teams import Teams


@dataclass(frozen=True)
class Config:
    """Settings of MATD3."""

    scheme: Scheme = "ct-de"
    """Who shares parameters and what critics see: ct-de, concurrent, shared or centralized."""
    soft: bool = False
    """In an actor's step the others do what they would do now, not what they did (thesis: "Soft")."""
    fork: bool = False
    """Actors look two steps ahead through learned models of the world and of the reward (Wei & Ying 2021, arXiv 2010.01652)."""
    minimum_actor: bool = False
    """Actors climb the smaller critic, not the first one: TD4."""
    twin_critics: bool = True
    """Each agent has two critics, and the target takes the smaller (TD3), not one (DDPG)."""
    policy_delay: int = 2
    """Updates of the critics per update of actors and targets (DDPG: 1, TD3: 2)."""
    target_noise: float = 0.2
    """Standard deviation of the noise on every agent's target action, in halves of an action's range (DDPG: 0, TD3: 0.2)."""
    target_noise_clip: float = 0.5
    """Where that noise is clipped, in the same units (TD3: 0.5)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actors and critics (MADDPG's code: 64, 64)."""
    learning_rate: float = 1e-3
    """Of all nets (MADDPG's code: 1e-2; Papoudakis et al. and revisions of it: 5e-4)."""
    discount: float = 0.95
    """Of the next state's value (MADDPG's code: 0.95, for episodes of 25 steps)."""
    batch_size: int = 1024
    """Joint transitions per update (MADDPG's code: 1024)."""
    target_rate: float = 0.01
    """How far the targets move when they do (MADDPG's code: 0.01)."""
    max_grad_norm: float = 0.5
    """Limit of the norm of one agent's gradient (MADDPG's code: 0.5, for each tensor)."""
    output_penalty: float = 1e-3
    """Weight of an actor's mean squared raw output (MADDPG's code: 1e-3)."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on reals that are played, in halves of their range (TD3: 0.1); choices are drawn."""
    estimator: Literal["straight-through", "gumbel-rao", "gapped"] = "straight-through"
    """How a gradient passes a drawn choice (Tilbury et al. 2023, arXiv 2302.10778, compare them)."""
    temperature: float = 1.0
    """Of that estimator (Jang et al. 2017: 1)."""
    gumbel_samples: int = 5
    """That gumbel-rao averages (Tilbury et al.: 5)."""
    random_steps: int = 3_000
    """Steps of every copy with uniformly random actions before learning starts (MADDPG's code: 25,600 of one copy)."""
    update_every: int = 100
    """Steps of every copy between two sessions of updates (MADDPG's code: 100)."""
    updates_at_once: int = 1
    """Updates in a session (MADDPG's code: 1)."""
    agent_id: bool = False
    """Under scheme=shared: a one-hot vector tells the shared nets which agent asks."""
    joint_head: bool = False
    """Under scheme=centralized: one logit for each joint choice, not for each agent's."""
    one_team: bool = False
    """Critics see opponents too, as Lowe et al. have it: the teams of the game are taken as one."""
    fork_weight: float = 0.5
    """Of what an actor sees ahead (authors' code, fixed variant: 0.5)."""
    fork_threshold: float = 0.02
    """An actor looks ahead only where the world's model has a smaller loss on the same batch (authors' code: 0.02)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (MADDPG's code: 1e6)."""
    compile: bool = False
    """Compile the two kinds of update when each is first due: a minute and a C++ compiler; equal to rounding, and faster."""


@dataclass(frozen=True)
class MADDPG(Config):
    """Settings of MADDPG."""

    twin_critics: bool = False
    policy_delay: int = 1
    target_noise: float = 0.0


@dataclass(frozen=True)
class MATD4(Config):
    """Settings of MATD4."""

    minimum_actor: bool = True


def critic_loss(
    nets: Nets, critics: Weights, critic_targets: Weights, actor_targets: Weights, given: Cut, noise: Sequence[Tensor], config: Config
) -> tuple[list[Float[Tensor, "_Rm"]], dict[str, Tensor]]:
    """sum_j (Q_j - y)^2 of each critic,   y^i = r^i + gamma min_j Q'_j^i(w', a'),   a' of *all* agents by their target policies.

    MATD3, algorithm 1: the noise of the smoothed target actions is on every agent's. Metrics `[R]`.
    """
    view, R = nets.view, nets.members
    with torch.no_grad():
        ahead: list[Tensor] = []
        for unit, actor, weights, seen, e, legal in zip(
            view.units, nets.actors, actor_targets, given.following, noise, given.next_legal, strict=True
        ):
            output = unit.actions.masked(actor(weights, seen), legal)
            ahead.append(unit.actions.perturbed(output, e, config.target_noise, config.target_noise_clip))
        shown = zip(nets.critics, critic_targets, view.pairs(given.following, ahead, R), strict=True)
        next_q = [values(critic, weights, pair).amin(1) for critic, weights, pair in shown]
    losses: list[Tensor] = []
    q_mean: list[Tensor] = []
    for i, (critic, weights, pair) in enumerate(zip(nets.critics, critics, view.pairs(given.observations, given.actions, R), strict=True)):
        target = q_target(given.reward[i], next_q[i], given.terminated[i], config.discount)
        q = values(critic, weights, pair)
        losses.append(masked_mean((q - target[:, None]).square().sum(1), given.mask[i]))
        q_mean.append(q.detach().mean((1, 2)))
    return losses, {"loss/critic": of_seeds(losses, R), "q": of_seeds(q_mean, R)}


def actor_loss(
    nets: Nets, actors: Weights, critics: Weights, given: Cut, noise: Sequence[Tensor], config: Config, ahead: fork.Ahead | None = None
) -> tuple[list[Float[Tensor, "_Rn"]], dict[str, Tensor]]:
    """-Q^i(w, a) of each agent with its own action fresh, plus a little of its squared raw output. Metrics `[R]`.

    The others' actions are the buffer's (MADDPG, eq. 6), or with `soft` those of their present policies; neither gets a gradient.
    ahead: what `fork` adds.
    """
    view, R = nets.view, nets.members
    estimator, _ = ESTIMATORS[config.estimator]
    fresh: list[Tensor] = []
    penalties: list[Tensor] = []
    for unit, actor, weights, seen, e, allowed in zip(view.units, nets.actors, actors, given.observations, noise, given.legal, strict=True):
        output = actor(weights, seen)
        penalties.append(output.square().mean(-1))
        fresh.append(unit.actions.climbing(unit.actions.masked(output, allowed), e, estimator, config.temperature))
    others = [action.detach() for action in fresh] if config.soft else given.actions
    losses: list[Tensor] = []
    shown = zip(view.seen_by_critics(given.observations, R), view.own_turn(fresh, others, R), strict=True)
    for i, (critic, weights, (seen, acted)) in enumerate(zip(nets.critics, critics, shown, strict=True)):
        climb = climbed(critic, weights, torch.cat([seen, acted], -1), config.minimum_actor)
        if ahead is not None:
            climb = climb + config.fork_weight * ahead.gates[i][:, None] * ahead.value(i, seen, acted)
        losses.append(-masked_mean(climb, given.mask[i]))
    small = [config.output_penalty * masked_mean(x, m) for x, m in zip(penalties, view.of_units(given.mask, R), strict=True)]
    return [*losses, *small], {"loss/actor": of_seeds(losses, R)}


def matd3_loss(
    nets: Nets,
    groups: Weights,
    targets: Weights,
    batch: Batch,
    noise: Sequence[Sequence[Tensor]],
    bounds: Sequence[Tensor],
    config: Config,
    climb: bool,
) -> tuple[Float[Tensor, "losses"], dict[str, Tensor]]:
    """Everything that one update descends: critics, with `fork` models, and where it is their turn (`climb`) actors.

    groups: weights of critics, models of the world, models of the reward, actors; targets: of critics, actors. noise: for target actions,
    and for the actions of actors now and (`fork`) one and two steps ahead. bounds: as `fork.Ahead` has them.
    """
    c, m = len(nets.critics), len(nets.systems)
    critics, systems, rewards, actors = groups[:c], groups[c : c + m], groups[c + m : c + 2 * m], groups[c + 2 * m :]
    given = cut(nets.view, batch)
    losses, metrics = critic_loss(nets, critics, targets[:c], targets[c:], given, noise[0], config)
    ahead = None
    if config.fork:
        more, gates, told = fork.model_loss(nets, systems, rewards, given, bounds, config)
        losses, metrics = losses + more, metrics | told
        ahead = fork.Ahead(nets, systems, rewards, critics, actors, gates, bounds, noise[2:], config)
    if climb:
        more, told = actor_loss(nets, actors, critics, given, noise[1], config, ahead)
        losses, metrics = losses + more, metrics | told
    return torch.cat(losses), metrics


class MATD3(Teams):
    """R stacked learners of every team of a game."""

    def __init__(self, config: Config, players: Players, generators: Sequence[Generator], device: torch.device | str = "cpu") -> None:
        """generators: one per seed. Raises GameError for a scheme that a team cannot have, and for actions that are no choices or reals."""
        super().__init__(config, players, generators, device, matd3_loss)
