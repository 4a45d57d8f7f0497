"""TD3: DDPG with twin critics, smoothed targets and a slower actor.

Fujimoto, van Hoof & Meger 2018 (arXiv 1802.09477), algorithm 1. Three cures for a critic that overestimates: the target takes the
smaller of two critics; it looks at mu'(s') with a little clipped noise, so that a narrow peak of the critic is no prize; actor
and targets move every `policy_delay` updates only, towards a critic that has settled.

Where we depart from the paper
- Where the actor moves, actor and critics take their gradients at the same weights, in one backward pass, where the paper's actor
  sees the critics of a moment later.
- A time limit is not a terminal state: the true successor's value is bootstrapped (so does the paper's code).
- Critics see actions scaled to [-1, 1]; all noise is in halves of the action's range, as the paper's code has it.
Left out: images.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.bellman import q_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Space
from tutelage.learn.deep.ddpg import DeterministicActor
from tutelage.learn.learner import Carry, Progress
from tutelage.nets.mlp import MLP
from tutelage.nets.noise import normal
from tutelage.nets.training import Group, TrainState, Update


@dataclass(frozen=True)
class Config:
    """Settings of TD3."""

    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of actor and critics (paper: 400, 300)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    batch_size: int = 256
    """Transitions per update (paper: 100; its code and SB3: 256)."""
    learning_rate: float = 1e-3
    """Of actor and critics (paper: 1e-3)."""
    target_rate: float = 0.005
    """How far the targets move when they do (paper: 0.005)."""
    policy_delay: int = 2
    """Updates of the critics per update of the actor and the targets (paper: 2)."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target's action, in halves of the action's range (paper: 0.2)."""
    target_noise_clip: float = 0.5
    """Where that noise is clipped, in the same units (paper: 0.5)."""
    minimum_actor: bool = False
    """The actor climbs the smaller critic, not the first one: TD4."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on an action played, in halves of the action's range (paper: 0.1)."""
    random_steps: int = 1_000
    """Steps with uniformly random actions before learning starts (paper: 1,000 to 10,000 by task)."""
    updates_per_step: int = 1
    """Gradient steps per environment step (paper: 1)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (paper: 1e6)."""
    compile: bool = False
    """Compile the two kinds of update when each is first due: a minute and a C++ compiler; equal to rounding, and faster."""


def twin(critic: MLP, weights: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Float[Tensor, "R 2 N"]:
    """Q_1 and Q_2 of observations `[R, N, D]` and actions `[R, N, A]` in [-1, 1]."""
    pair = torch.cat([observation, action], -1)[:, None]
    return critic(weights, pair.expand(-1, 2, -1, -1)).squeeze(-1)


def smoothed(action: Float[Tensor, "R N A"], noise: Float[Tensor, "R N A"], std: float, clip: float) -> Float[Tensor, "R N A"]:
    """clip(a + clip(std eps, -c, c), -1, 1),   a in [-1, 1], eps standard normal (algorithm 1; section 5.3)."""
    return (action + (std * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)


def critic_loss(
    actor: DeterministicActor,
    critic: MLP,
    critic_weights: Mapping[str, Tensor],
    critic_target: Mapping[str, Tensor],
    actor_target: Mapping[str, Tensor],
    batch: Batch,
    noise: Float[Tensor, "R N A"],
    config: Config,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """sum_j (Q_j(s, a) - y)^2,   y = r + gamma min_j Q'_j(s', smoothed mu'(s')),   the mean over real transitions (algorithm 1)."""
    with torch.no_grad():
        next_action = smoothed(actor(actor_target, batch.next_observation), noise, config.target_noise, config.target_noise_clip)
        next_q = twin(critic, critic_target, batch.next_observation, next_action).amin(1)
        target = q_target(batch.reward, next_q, batch.terminated, config.discount)
    q = twin(critic, critic_weights, batch.observation, actor.unit(batch.action))
    loss = masked_mean((q - target[:, None]).square().sum(1), batch.mask)
    return loss, {"loss/critic": loss.detach(), "q": q.detach().mean((1, 2))}


def actor_loss(
    actor: DeterministicActor,
    critic: MLP,
    actor_weights: Mapping[str, Tensor],
    critic_weights: Mapping[str, Tensor],
    batch: Batch,
    config: Config,
) -> Float[Tensor, "R"]:
    """-Q_1(s, mu(s)), or with `minimum_actor` -min_j Q_j(s, mu(s)), the mean over real transitions; the critics get no gradient."""
    action = actor(actor_weights, batch.observation)
    if config.minimum_actor:
        frozen = {name: weight.detach() for name, weight in critic_weights.items()}
        q = twin(critic, frozen, batch.observation, action).amin(1)
    else:  # the second critic is not even computed: it would be a sixth of all products
        first = {name: weight[:, 0].detach() for name, weight in critic_weights.items()}
        q = MLP(critic.sizes, critic.members[:1])(first, torch.cat([batch.observation, action], -1)).squeeze(-1)
    return -masked_mean(q, batch.mask)


def td3_loss(
    actor: DeterministicActor,
    critic: MLP,
    actor_weights: Mapping[str, Tensor],
    critic_weights: Mapping[str, Tensor],
    critic_target: Mapping[str, Tensor],
    actor_target: Mapping[str, Tensor],
    batch: Batch,
    noise: Float[Tensor, "R N A"],
    config: Config,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """Both losses added, for the updates in which the actor moves. noise: standard normal, for the actions at s'. Metrics `[R]`."""
    loss, metrics = critic_loss(actor, critic, critic_weights, critic_target, actor_target, batch, noise, config)
    climb = actor_loss(actor, critic, actor_weights, critic_weights, batch, config)
    return loss + climb, metrics | {"loss/actor": climb.detach()}


class TD3:
    """R stacked learners: nets, optimisers and the generators that they draw from."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed. Raises GameError for images, and for actions that are not a vector of bounded reals."""
        self.config, self.device, members = config, torch.device(device), len(generators)
        self.actor = DeterministicActor("TD3", config.hidden, observation_space, action_space, members, self.device)
        self.critic = MLP((self.actor.observation_width + self.actor.width, *config.hidden, 1), (members, 2))
        critic = Group.of(self.critic, generators, config.learning_rate, device)
        actor = Group.of(self.actor.net, generators, config.learning_rate, device)
        self.train = TrainState({"critic": critic, "actor": actor}, ["critic", "actor"], generators)
        targets = list(self.train.targets.values())
        self._critic_step = Update(self._critic_loss, [critic], targets, follow=False, compile=config.compile)
        self._whole_step = Update(self._loss, [critic, actor], targets, compile=config.compile)

    def experience(self, steps: int, copies: int) -> Replay:
        """An empty replay for a run of so many steps."""
        capacity, shape = self.config.replay_capacity or steps, (self.actor.observation_width,)
        return Replay(capacity, len(self.train.generators), copies, shape, self.actor.width, device=self.device)

    def behave(
        self, observation: Float[Tensor, "R B D"], starts: Bool[Tensor, "R B"], legal: Tensor | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Uniformly random actions for `random_steps`, then the actor's with noise, within the bounds."""
        copies = observation.shape[1]
        if progress.steps < self.config.random_steps:
            return self.actor.random(self.train.generators, copies)
        noise = self.config.exploration_noise * normal(self.train.generators, (copies, self.actor.width))
        return self.actor.play(self.train.weights("actor"), observation, noise)

    def act(
        self, observation: Float[Tensor, "R B D"], deterministic: bool = False, legal: Tensor | None = None, carry: Carry | None = None
    ) -> Float[Tensor, "R B A"]:
        """The actor's actions in the game's units; there is nothing random in them."""
        return self.actor.play(self.train.weights("actor"), observation)

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """After the random steps: `updates_per_step` gradient steps; metrics `[R]` of the last."""
        metrics: dict[str, Tensor] = {}
        if progress.steps > self.config.random_steps:
            for _ in range(self.config.updates_per_step):
                metrics = self.update_on(experience.sample(self.config.batch_size, self.train.generators))
        return metrics

    def update_on(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a given batch (actions in the game's units); the actor and the targets move where it is their turn."""
        noise = normal(self.train.generators, (batch.reward.shape[1], self.actor.width)).to(self.device)
        self.train.updates += 1
        if self.train.updates % self.config.policy_delay:
            return self._critic_step(0.0, batch, noise)
        return self._whole_step(self.config.target_rate, batch, noise)

    def _critic_loss(self, groups: Any, critic_target: Any, actor_target: Any, batch: Batch, noise: Tensor) -> Any:
        return critic_loss(self.actor, self.critic, groups[0], critic_target, actor_target, batch, noise, self.config)

    def _loss(self, groups: Any, critic_target: Any, actor_target: Any, batch: Batch, noise: Tensor) -> Any:
        critic, actor = groups
        return td3_loss(self.actor, self.critic, actor, critic, critic_target, actor_target, batch, noise, self.config)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.train.frozen()

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return self.train.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state)
