"""MASAC: soft actor-critic among many agents, under any scheme.

SAC (Haarnoja et al. 2018, arXiv 1812.05905) for each agent, its critics shown what the scheme says; under ct-de, what MADDPG's are (Lowe et
al. 2017, arXiv 1706.02275). Every agent has a temperature alpha^i of its own and is paid for its own entropy alone. In an actor's step the
others' actions come from the buffer; with `soft` they are drawn from what the others are now, without gradient. `fork` adds to what
an actor climbs what it sees two steps ahead (`fork.py`). For one agent it is SAC, to the last term.

Where we depart from the papers
- Critics, actors and temperatures take their gradients at the same weights, in one backward pass.
- Choices are drawn straight-through, by Gumbel noise, as in MATD3: critics of a team judge joint actions, of which one agent may choose and
  another give reals, and `soft` and `fork` need the gradient of what was drawn. The sum over all choices of Christodoulou 2019 (arXiv
  1910.07207) would need one pass for each option; the entropy of choices, which needs none, is such a sum here.
- The entropy that alpha aims at is, of choices, a share of the largest (as that paper has it).
- A time limit is no end: the true successor's value is bootstrapped.
- The norm of a gradient is limited for each agent's net.
Left out: a temperature that a whole team shares, images.
Landscape: model-free, off-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.bellman import soft_bellman_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Players
from tutelage.learn.deep import sac
from tutelage.learn.many_agents import fork
from tutelage.learn.many_agents.actions import ESTIMATORS
from tutelage.learn.many_agents.nets import Cut, Nets, Weights, cut, of_seeds, values
from tutelage.learn.many_agents.schemes import Scheme
from tutelage.learn.many_agents.teams import Teams


@dataclass(frozen=True)
class Config:
    """Settings of MASAC."""

    scheme: Scheme = "ct-de"
    """Who shares parameters and what critics see: ct-de, concurrent, shared or centralized."""
    soft: bool = False
    """In an actor's step the others do what they would do now, not what they did."""
    fork: bool = False
    """Actors look two steps ahead through learned models of the world and of the reward (Wei & Ying 2021, arXiv 2010.01652)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actors and critics (SAC: 256, 256; MADDPG's code: 64, 64)."""
    learning_rate: float = 1e-3
    """Of actors, critics and models (SAC: 3e-4; MATD3 here: 1e-3)."""
    temperature_learning_rate: float = 3e-4
    """Of log alpha (SAC: 3e-4). 0 keeps the temperatures as they are."""
    initial_temperature: float = 1.0
    """alpha before its first update (SB3: 1)."""
    target_entropy_share: float = 0.98
    """Of choices: the entropy that alpha aims at, as a share of the largest one (Christodoulou: 0.98). Of reals: minus their number."""
    discount: float = 0.95
    """Of the next state's value (MADDPG's code: 0.95, for episodes of 25 steps)."""
    batch_size: int = 1024
    """Joint transitions per update (MADDPG's code: 1024)."""
    target_rate: float = 0.01
    """How far the target critics move per update (MADDPG's code: 0.01; SAC: 0.005)."""
    max_grad_norm: float | None = 0.5
    """Limit of the norm of one agent's gradient (MADDPG's code: 0.5, for each tensor; SAC: none)."""
    estimator: Literal["straight-through", "gumbel-rao", "gapped"] = "straight-through"
    """How a gradient passes a drawn choice (Tilbury et al. 2023, arXiv 2302.10778, compare them)."""
    temperature: float = 1.0
    """Of that estimator, not of the entropy (Jang et al. 2017: 1)."""
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
    """Compile the update when it is first due: a minute and a C++ compiler; equal to rounding, and faster."""

    # What `Teams` and `fork` ask of every algorithm, and SAC does not leave open.
    twin_critics: ClassVar[bool] = True
    minimum_actor: ClassVar[bool] = True
    policy_delay: ClassVar[int] = 1
    exploration_noise: ClassVar[float] = 0.0


def critic_loss(
    nets: Nets,
    critics: Weights,
    targets: Weights,
    actors: Weights,
    given: Cut,
    alphas: Sequence[Tensor],
    noise: Sequence[Tensor],
    config: Config,
) -> tuple[list[Float[Tensor, "_Rm"]], dict[str, Tensor]]:
    """SAC's, y^i = r^i + gamma (min_j Q'_j^i(w', a') - alpha^i log pi^i(a'^i|w'^i)),   a' of *all* agents by their policies now.

    alphas: per unit, `[R n]`. Metrics `[R]`.
    """  # fmt: skip
    view, R = nets.view, nets.members
    estimator, _ = ESTIMATORS[config.estimator]
    with torch.no_grad():
        ahead: list[Tensor] = []
        costs: list[Tensor] = []
        for i, unit in enumerate(view.units):
            output = unit.actions.masked(nets.actors[i](actors[i], given.following[i]), given.next_legal[i])
            action, logp = unit.actions.drawn(output, noise[i], estimator, config.temperature)
            ahead.append(action)
            costs.append(alphas[i][:, None] * logp)
        shown = zip(nets.critics, targets, view.pairs(given.following, ahead, R), strict=True)
        next_q = [values(critic, weights, pair).amin(1) for critic, weights, pair in shown]
        costs = view.of_critics(costs, R)
    losses: list[Tensor] = []
    q_mean: list[Tensor] = []
    for i, (critic, weights, pair) in enumerate(zip(nets.critics, critics, view.pairs(given.observations, given.actions, R), strict=True)):
        target = soft_bellman_target(given.reward[i], next_q[i], costs[i], 1.0, given.terminated[i], config.discount)
        q = values(critic, weights, pair)
        losses.append(sac.critic_loss(q, target, given.mask[i]))
        q_mean.append(q.detach().mean((1, 2)))
    return losses, {"loss/critic": of_seeds(losses, R), "q": of_seeds(q_mean, R)}


def actor_loss(
    nets: Nets,
    actors: Weights,
    critics: Weights,
    temperatures: Weights,
    given: Cut,
    noise: Sequence[Tensor],
    config: Config,
    ahead: fork.Ahead | None = None,
) -> tuple[list[Float[Tensor, "_Rn"]], dict[str, Tensor]]:
    """SAC's losses of each actor and of its temperature, its own action fresh. Metrics `[R]`.

    The others' actions are the buffer's, or with `soft` drawn from their present policies; neither gets a gradient.
    ahead: what `fork` adds.
    """
    view, R = nets.view, nets.members
    estimator, _ = ESTIMATORS[config.estimator]
    fresh: list[Tensor] = []
    logps: list[Tensor] = []
    for i, unit in enumerate(view.units):
        output = unit.actions.masked(nets.actors[i](actors[i], given.observations[i]), given.legal[i])
        action, logp = unit.actions.drawn(output, noise[i], estimator, config.temperature)
        fresh.append(action)
        logps.append(logp)
    others = [action.detach() for action in fresh] if config.soft else given.actions
    shown = zip(view.seen_by_critics(given.observations, R), view.own_turn(fresh, others, R), strict=True)
    q: list[Tensor] = []
    seen_ahead: list[Tensor] = []
    for i, (critic, weights, (seen, acted)) in enumerate(zip(nets.critics, critics, shown, strict=True)):
        frozen = {name: weight.detach() for name, weight in weights.items()}
        q.append(values(critic, frozen, torch.cat([seen, acted], -1)))
        if ahead is not None:
            climb = config.fork_weight * ahead.gates[i][:, None] * ahead.value(i, seen, acted)
            seen_ahead.append(-masked_mean(climb, given.mask[i]))
    own_q, masks = view.of_units(q, R), view.of_units(given.mask, R)
    own: list[Tensor] = []
    heat: list[Tensor] = []
    for i, unit in enumerate(view.units):
        log_alpha = temperatures[i]["log_temperature"]
        own.append(sac.actor_loss(own_q[i], logps[i], log_alpha.detach().exp(), masks[i]))
        missing = logps[i] + unit.actions.usual_entropy(given.legal[i], config.target_entropy_share)
        heat.append(sac.temperature_loss(log_alpha, missing, 0.0, masks[i]))
    metrics = {"loss/actor": of_seeds(own, R), "loss/temperature": of_seeds(heat, R)}
    metrics["entropy"] = of_seeds([-logp.detach().mean(-1) for logp in logps], R)
    metrics["temperature"] = of_seeds([weights["log_temperature"].detach().exp() for weights in temperatures], R)
    return [*own, *heat, *seen_ahead], metrics


def masac_loss(
    nets: Nets,
    groups: Weights,
    targets: Weights,
    batch: Batch,
    noise: Sequence[Sequence[Tensor]],
    bounds: Sequence[Tensor],
    config: Config,
    climb: bool = True,
) -> tuple[Float[Tensor, "losses"], dict[str, Tensor]]:
    """Everything that one update descends.

    groups: weights of critics, models of the world, models of the reward, actors, temperatures; targets: of critics. noise: for actions at
    the next state, at this one, and (`fork`) one and two steps ahead. bounds: as `fork.Ahead` has them. climb: always, without a delay.
    """
    c, m, u = len(nets.critics), len(nets.systems), len(nets.actors)
    critics, systems, rewards = groups[:c], groups[c : c + m], groups[c + m : c + 2 * m]
    actors, temperatures = groups[c + 2 * m : c + 2 * m + u], groups[c + 2 * m + u :]
    given = cut(nets.view, batch)
    alphas = [weights["log_temperature"].detach().exp() for weights in temperatures]
    losses, metrics = critic_loss(nets, critics, targets, actors, given, alphas, noise[0], config)
    ahead = None
    if config.fork:
        more, gates, told = fork.model_loss(nets, systems, rewards, given, bounds, config)
        losses, metrics = losses + more, metrics | told
        ahead = fork.Ahead(nets, systems, rewards, critics, actors, gates, bounds, noise[2:], config)
    more, told = actor_loss(nets, actors, critics, temperatures, given, noise[1], config, ahead)
    return torch.cat(losses + more), metrics | told


class MASAC(Teams):
    """R stacked learners of every team of a game."""

    def __init__(self, config: Config, players: Players, generators: Sequence[Generator], device: torch.device | str = "cpu") -> None:
        """generators: one per seed. Raises GameError for a scheme that a team cannot have, and for actions that are no choices or reals."""
        super().__init__(config, players, generators, device, masac_loss, entropy=True)
