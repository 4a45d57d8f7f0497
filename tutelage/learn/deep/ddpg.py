"""Deep deterministic policy gradient: climb the critic through a deterministic actor, off-policy.

Lillicrap et al. 2016 (arXiv 1509.02971), algorithm 1; the gradient is that of Silver et al. 2014 (ICML), theorem 1.
The critic regresses on r + gamma Q'(s', mu'(s')), with target nets that follow slowly; the actor ascends Q(s, mu(s)). Noise added to
mu(s) explores.

Where we depart from the paper
- Exploration is white Gaussian noise, not an Ornstein-Uhlenbeck process: Fujimoto et al. 2018, section 6.1, found no difference.
- Actor and critic take their gradients at the same weights, in one backward pass, where the paper moves the critic first.
- A time limit is not a terminal state: the true successor's value is bootstrapped.
- The action enters the critic at its first layer, scaled to [-1, 1]; no weight decay, no batch normalization.
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
from tutelage.games.nested import action_bounds, flat_width
from tutelage.games.spec import Space
from tutelage.learn.learner import Carry, Progress
from tutelage.nets.mlp import MLP
from tutelage.nets.noise import normal, uniform
from tutelage.nets.training import Group, TrainState, Update


@dataclass(frozen=True)
class Config:
    """Settings of DDPG."""

    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of actor and critic (paper: 400, 300)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    batch_size: int = 256
    """Transitions per update (paper: 64; SB3: 256)."""
    actor_learning_rate: float = 1e-3
    """Of the actor (paper: 1e-4; SB3: 1e-3)."""
    critic_learning_rate: float = 1e-3
    """Of the critic (paper: 1e-3)."""
    target_rate: float = 0.005
    """How far the targets move towards actor and critic per update (paper: 0.001; SB3: 0.005)."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on an action, in halves of the action's range (TD3's paper: 0.1)."""
    random_steps: int = 1_000
    """Steps with uniformly random actions before learning starts (TD3's paper: 1,000 to 10,000 by task)."""
    updates_per_step: int = 1
    """Gradient steps per environment step (paper: 1)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (paper: 1e6)."""
    compile: bool = False
    """Compile the whole update at the first one, which takes half a minute and a C++ compiler; equal to rounding, and faster."""


class DeterministicActor:
    """mu(s) = tanh of a net, R seeds at once, in units of half the action's range; and the same in the game's units."""

    def __init__(
        self, name: str, hidden: Sequence[int], observation_space: Space, action_space: Space, members: int, device: torch.device
    ) -> None:
        """Raises GameError, with the algorithm's name, for images and for actions that are not a vector of bounded reals."""
        low, high = action_bounds(action_space, name)
        self.middle, self.reach = ((low + high) / 2.0).to(device), ((high - low) / 2.0).to(device)
        self.width, self.observation_width = len(low), flat_width(observation_space)
        self.net = MLP((self.observation_width, *hidden, self.width), (members,))

    def __call__(self, weights: Mapping[str, Tensor], observation: Float[Tensor, "R N D"]) -> Float[Tensor, "R N A"]:
        """In [-1, 1]."""
        return torch.tanh(self.net(weights, observation))

    def play(
        self, weights: Mapping[str, Tensor], observation: Float[Tensor, "R B D"], noise: Float[Tensor, "R B A"] | None = None
    ) -> Float[Tensor, "R B A"]:
        """In the game's units and within its bounds; noise is added before, in halves of the range."""
        with torch.no_grad():
            action = self(weights, observation.to(self.reach.device))
            if noise is not None:
                action = (action + noise.to(action.device)).clamp(-1.0, 1.0)
            return torch.addcmul(self.middle, action, self.reach).cpu()

    def random(self, generators: Sequence[Generator], copies: int) -> Float[Tensor, "R B A"]:
        """Uniform within the game's bounds."""
        return self.middle.cpu() + (2.0 * uniform(generators, (copies, self.width)) - 1.0) * self.reach.cpu()

    def unit(self, action: Float[Tensor, "R N A"]) -> Float[Tensor, "R N A"]:
        """From the game's units to [-1, 1]."""
        return (action - self.middle) / self.reach


def critic_loss(q: Float[Tensor, "R N"], target: Float[Tensor, "R N"], mask: Float[Tensor, "R N"]) -> Float[Tensor, "R"]:
    """(Q(s, a) - y)^2, the mean over real transitions (algorithm 1)."""
    return masked_mean((q - target).square(), mask)


def actor_loss(q: Float[Tensor, "R N"], mask: Float[Tensor, "R N"]) -> Float[Tensor, "R"]:
    """-Q(s, mu(s)), the mean over real transitions (eq. 6)."""
    return -masked_mean(q, mask)


def ddpg_loss(
    actor: DeterministicActor,
    critic: MLP,
    actor_weights: Mapping[str, Tensor],
    critic_weights: Mapping[str, Tensor],
    actor_target: Mapping[str, Tensor],
    critic_target: Mapping[str, Tensor],
    batch: Batch,
    discount: float,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """Both losses added; gradients do not mix, since the actor sees the critic's weights detached. Metrics are `[R]` each."""

    def value(weights: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        return critic(weights, torch.cat([observation, action], -1)).squeeze(-1)

    with torch.no_grad():
        next_q = value(critic_target, batch.next_observation, actor(actor_target, batch.next_observation))
        target = q_target(batch.reward, next_q, batch.terminated, discount)
    q = value(critic_weights, batch.observation, actor.unit(batch.action))
    frozen = {name: weight.detach() for name, weight in critic_weights.items()}
    climbed = value(frozen, batch.observation, actor(actor_weights, batch.observation))
    losses = {"loss/critic": critic_loss(q, target, batch.mask), "loss/actor": actor_loss(climbed, batch.mask)}
    metrics = {name: loss.detach() for name, loss in losses.items()} | {"q": q.detach().mean(-1)}
    return losses["loss/critic"] + losses["loss/actor"], metrics


class DDPG:
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
        self.actor = DeterministicActor("DDPG", config.hidden, observation_space, action_space, members, self.device)
        self.critic = MLP((self.actor.observation_width + self.actor.width, *config.hidden, 1), (members,))
        groups = {
            "critic": Group.of(self.critic, generators, config.critic_learning_rate, device),
            "actor": Group.of(self.actor.net, generators, config.actor_learning_rate, device),
        }
        self.train = TrainState(groups, ["critic", "actor"], generators)
        self._step = Update(self._loss, list(groups.values()), list(self.train.targets.values()), compile=config.compile)

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
        """One gradient step on a given batch (actions in the game's units)."""
        self.train.updates += 1
        return self._step(self.config.target_rate, batch)

    def _loss(self, groups: Sequence[Mapping[str, Tensor]], critic_target: Mapping[str, Tensor], actor_target: Any, batch: Batch) -> Any:
        critic, actor = groups
        return ddpg_loss(self.actor, self.critic, actor, critic, actor_target, critic_target, batch, self.config.discount)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.train.frozen()

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return self.train.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state)
