"""Soft actor-critic: maximize reward and entropy, off-policy, with twin critics.

Haarnoja et al. 2018 (arXiv 1812.05905), algorithm 1, with the temperature learned as in its section 5.
The critics regress on r + gamma (min_j Q'_j(s', a') - alpha log pi(a'|s')); the actor follows the gradient of the smaller
critic through its own reparameterized action; alpha keeps the policy's entropy near a target.

Where we depart from the paper
- Critic, actor and temperature take their gradients at the same weights, in one backward pass over detached views, where
  most codes let the actor see the critic of a moment later. One pass is cheaper; scores are the same (benchmarks/).
- A time limit is not a terminal state: the true successor's value is bootstrapped.
- R seeds learn at once: every net has a leading member axis, the losses sum over it.
Left out: the separate value net of the first paper (1801.01290), images, discrete actions.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.bellman import soft_bellman_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.games.nested import action_bounds, flat_width
from tutelage.games.spec import Space
from tutelage.learn.learner import Progress
from tutelage.nets.adam import StackedAdam
from tutelage.nets.mlp import MLP
from tutelage.nets.noise import normal
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry
from tutelage.nets.tanh_gaussian import tanh_gaussian, tanh_gaussian_mode
from tutelage.nets.training import Group, TrainState, Update


@dataclass(frozen=True)
class Config:
    """Settings of SAC."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics (paper: 256, 256)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    batch_size: int = 256
    """Transitions per update (paper: 256)."""
    learning_rate: float = 3e-4
    """Of actor and critics (paper: 3e-4)."""
    temperature_learning_rate: float = 3e-4
    """Of log alpha (paper: 3e-4; B-Pref: 1e-4)."""
    initial_temperature: float = 1.0
    """alpha before its first update (SB3: 1; B-Pref: 0.1)."""
    target_entropy: float | None = None
    """The entropy that alpha aims at, in nats. None: minus the width of the action (paper, appendix D)."""
    target_rate: float = 0.005
    """How far the target critics move towards the critics per update (paper: 0.005)."""
    target_every: int = 1
    """Updates between two moves of the target critics (paper: 1; B-Pref: 2)."""
    random_steps: int = 1_000
    """Steps with uniformly random actions before learning starts (paper: 1,000 to 10,000 by task)."""
    updates_per_step: int = 1
    """Gradient steps per environment step (paper: 1)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (paper: 1e6)."""
    compile: bool = False
    """Compile the whole update at the first one, which takes half a minute and a C++ compiler; equal to rounding, and faster."""


def twin_values(
    critic: MLP, weights: Mapping[str, Tensor], observation: Float[Tensor, "R N D"], action: Float[Tensor, "R N A"]
) -> Float[Tensor, "R 2 N"]:
    """Q_1 and Q_2 of each pair; actions in [-1, 1]."""
    pair = torch.cat([observation, action], -1)[:, None]
    return critic(weights, pair.expand(-1, 2, -1, -1)).squeeze(-1)


def critic_loss(q: Float[Tensor, "R 2 N"], target: Float[Tensor, "R N"], mask: Float[Tensor, "R N"]) -> Float[Tensor, "R"]:
    """1/2 (Q_j(s, a) - y)^2, the mean over real transitions, the sum over both critics (eq. 5)."""
    return 0.5 * masked_mean((q - target[:, None]).square().sum(1), mask)


def actor_loss(
    q: Float[Tensor, "R 2 N"], logp: Float[Tensor, "R N"], temperature: Float[Tensor, "R"], mask: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """alpha log pi(a|s) - min_j Q_j(s, a) with a ~ pi reparameterized (eq. 9)."""
    return masked_mean(temperature[:, None] * logp - q.amin(1), mask)


def temperature_loss(
    log_temperature: Float[Tensor, "R"], logp: Float[Tensor, "R N"], target_entropy: float, mask: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """-log alpha (log pi(a|s) + target entropy). Eq. 18 has alpha in place of log alpha; the sign and the fixed point are the same."""
    return -log_temperature * masked_mean(logp.detach() + target_entropy, mask)


def sac_loss(
    actor: MLP,
    critic: MLP,
    actor_weights: Mapping[str, Tensor],
    critic_weights: Mapping[str, Tensor],
    target_weights: Mapping[str, Tensor],
    log_temperature: Float[Tensor, "R"],
    batch: Batch,
    noise: Float[Tensor, "R 2 N A"],
    discount: float,
    target_entropy: float,
    pull: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """The three losses of SAC added; gradients do not mix, since each term sees the other nets' weights detached.

    batch.action lies in [-1, 1]; noise is standard normal, for the actions at s and at s'. Metrics are `[R]` each.
    pull: what the actor pays beside, of (observation, action, log-probability), `[R, N]`.
    """
    mask, temperature = batch.mask, log_temperature.detach().exp()
    with torch.no_grad():
        next_action, next_logp = tanh_gaussian(actor(actor_weights, batch.next_observation), noise[:, 1])
        next_q = twin_values(critic, target_weights, batch.next_observation, next_action).amin(1)
        target = soft_bellman_target(batch.reward, next_q, next_logp, temperature[:, None], batch.terminated, discount)
    q = twin_values(critic, critic_weights, batch.observation, batch.action)
    action, logp = tanh_gaussian(actor(actor_weights, batch.observation), noise[:, 0])
    frozen = {name: weight.detach() for name, weight in critic_weights.items()}
    losses = {
        "loss/critic": critic_loss(q, target, mask),
        "loss/actor": actor_loss(twin_values(critic, frozen, batch.observation, action), logp, temperature, mask),
        "loss/temperature": temperature_loss(log_temperature, logp, target_entropy, mask),
    }
    if pull is not None:
        losses["loss/actor"] = losses["loss/actor"] + masked_mean(pull(batch.observation, action, logp), mask)
    metrics = {name: loss.detach() for name, loss in losses.items()}
    metrics |= {"q": q.detach().mean((1, 2)), "entropy": -logp.detach().mean(-1), "temperature": temperature}
    return losses["loss/critic"] + losses["loss/actor"] + losses["loss/temperature"], metrics


class SAC:
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
        low, high = action_bounds(action_space, "SAC")
        self.config, self.device = config, torch.device(device)
        members, action_width, self.observation_width = len(generators), len(low), flat_width(observation_space)
        self.action_middle, self.action_reach = ((low + high) / 2.0).to(device), ((high - low) / 2.0).to(device)
        self.target_entropy = -float(action_width) if config.target_entropy is None else config.target_entropy
        self.actor = MLP((self.observation_width, *config.hidden, 2 * action_width), (members,))
        self.critic = MLP((self.observation_width + action_width, *config.hidden, 1), (members, 2))
        actor = Group.of(self.actor, generators, config.learning_rate, device)
        critic = Group.of(self.critic, generators, config.learning_rate, device)
        log_temperature = Parameters({"log_temperature": (members,)}, device)
        log_temperature.flat.fill_(torch.tensor(config.initial_temperature).log())
        temperature = Group(log_temperature, StackedAdam(log_temperature, config.temperature_learning_rate))
        self.train = TrainState({"critic": critic, "actor": actor, "temperature": temperature}, ["critic"], generators)
        self.pull: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        """What the actor pays beside its own loss, of (observation, action in [-1, 1], log-probability)."""
        self._step = Update(self._loss, [critic, actor, temperature], [self.train.targets["critic"]], compile=config.compile)

    def experience(self, steps: int, copies: int) -> Replay:
        """An empty replay for a run of so many steps."""
        capacity, members = self.config.replay_capacity or steps, len(self.train.generators)
        return Replay(capacity, members, copies, (self.observation_width,), len(self.action_reach), device=self.device)

    def behave(
        self, observation: Float[Tensor, "R B D"], starts: Bool[Tensor, "R B"], legal: Tensor | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Uniformly random actions for `random_steps`, then the policy's."""
        if progress.steps >= self.config.random_steps:
            return self.act(observation)
        draws = torch.stack([torch.rand(*starts.shape[1:], len(self.action_reach), generator=g) for g in self.train.generators])
        return self.action_middle.cpu() + (2.0 * draws - 1.0) * self.action_reach.cpu()

    def act(
        self, observation: Float[Tensor, "R B D"], deterministic: bool = False, legal: Tensor | None = None, carry: Carry | None = None
    ) -> Float[Tensor, "R B A"]:
        """Actions in the game's units; the mode of the policy when deterministic."""
        with torch.no_grad():
            output = self.actor(self.train.weights("actor"), observation.to(self.device))
            if deterministic:
                action = tanh_gaussian_mode(output)
            else:
                shape = (*output.shape[1:-1], output.shape[-1] // 2)
                action, _ = tanh_gaussian(output, normal(self.train.generators, shape).to(self.device))
            return torch.addcmul(self.action_middle, action, self.action_reach).cpu()

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """After the random steps: `updates_per_step` gradient steps; metrics `[R]` of the last."""
        return self.improve(experience) if progress.steps > self.config.random_steps else {}

    def improve(self, replay: Replay) -> dict[str, Tensor]:
        """`updates_per_step` gradient steps on fresh batches; metrics `[R]` of the last."""
        metrics: dict[str, Tensor] = {}
        for _ in range(self.config.updates_per_step):
            metrics = self.update_on(replay.sample(self.config.batch_size, self.train.generators))
        return metrics

    def update_on(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a given batch (actions in the game's units)."""
        noise = normal(self.train.generators, (2, batch.reward.shape[1], len(self.action_reach))).to(self.device)
        self.train.updates += 1
        rate = self.config.target_rate if self.train.updates % self.config.target_every == 0 else 0.0
        return self._step(rate, batch, noise)

    def _loss(self, groups: Sequence[Mapping[str, Tensor]], target: Mapping[str, Tensor], batch: Batch, noise: Tensor) -> Any:
        critic, actor, temperature = groups
        return sac_loss(
            self.actor, self.critic, actor, critic, target, temperature["log_temperature"], self.unit(batch), noise,
            self.config.discount, self.target_entropy, self.pull,
        )  # fmt: skip

    def scaled(self, action: Float[Tensor, "*n A"]) -> Float[Tensor, "*n A"]:
        """Actions in the game's units as the nets have them, in [-1, 1]."""
        return (action - self.action_middle) / self.action_reach

    def unit(self, batch: Batch) -> Batch:
        """A batch whose actions lie in [-1, 1]."""
        action = self.scaled(batch.action)
        return Batch(batch.observation, action, batch.reward, batch.next_observation, batch.terminated, batch.mask)

    def reset_critic(self, chosen: Bool[Tensor, "R"]) -> None:
        """Fresh critics, targets and moments for the chosen seeds (PEBBLE, after the first relabelling)."""
        critic = self.train.groups["critic"]
        self.critic.initialize(critic.parameters, self.train.generators, chosen)
        critic.optimizer.reset(chosen)
        self.train.targets["critic"].copy(chosen)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.train.frozen()

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return self.train.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state)
