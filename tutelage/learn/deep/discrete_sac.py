"""Soft actor-critic with discrete actions: every expectation over actions is a sum.

Christodoulou 2019 (arXiv 1910.07207), algorithm 1, after Haarnoja et al. 2018 (arXiv 1812.05905). The critics give Q(s, a) for all
actions at once, the actor their probabilities, so no action is sampled in a loss and nothing has to be reparameterized.

Where we depart from the paper
- Critics, actor and temperature take their gradients at the same weights, in one backward pass over detached views.
- A time limit is not a terminal state: the true successor's value is bootstrapped.
- Actions that are not allowed have probability 0 and no part in any expectation; the target entropy is a share of the logarithm
  of how many are allowed in each state.
Left out: nothing.
Landscape: model-free, off-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from tutelage.equations.bellman import expected_soft_value, q_target
from tutelage.equations.statistics import masked_mean
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.games.nested import observation_shape
from tutelage.games.spec import Discrete, GameError, Space
from tutelage.learn.learner import Carry, Progress
from tutelage.nets.adam import StackedAdam
from tutelage.nets.body import Body, make_body
from tutelage.nets.heads import Categorical
from tutelage.nets.parameters import Parameters
from tutelage.nets.training import Group, TrainState, Update


@dataclass(frozen=True)
class Config:
    """Settings of discrete SAC."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics, of images after the convolution (paper: 512 on images)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    batch_size: int = 64
    """Transitions per update (paper: 64)."""
    learning_rate: float = 3e-4
    """Of actor and critics (paper: 3e-4)."""
    temperature_learning_rate: float = 3e-4
    """Of log alpha (paper: 3e-4). 0 keeps the temperature as it is."""
    initial_temperature: float = 1.0
    """alpha before its first update (paper: 1)."""
    target_entropy_share: float = 0.98
    """The entropy that alpha aims at, as a share of the largest possible one, log |A(s)| (paper: 0.98)."""
    target_rate: float = 0.005
    """How far the target critics move towards the critics when they do (paper: 1, every 8,000 steps; SAC: 0.005)."""
    target_every: int = 1
    """Updates between two moves of the target critics (paper: 2,000; SAC: 1)."""
    random_steps: int = 1_000
    """Steps with uniformly random actions before learning starts (paper: 20,000)."""
    update_every: int = 1
    """Steps between updates (paper: 4)."""
    updates_at_once: int = 1
    """Gradient steps each time (paper: 1)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (paper: 1e6)."""
    compile: bool = False
    """Compile the whole update at the first one, which takes half a minute and a C++ compiler; equal to rounding, and faster."""


def critic_loss(q: Float[Tensor, "R 2 N"], target: Float[Tensor, "R N"], mask: Float[Tensor, "R N"]) -> Float[Tensor, "R"]:
    """1/2 (Q_j(s, a) - y)^2, the mean over real transitions, the sum over both critics (Haarnoja et al. 2018, eq. 5)."""
    return masked_mean(0.5 * (q - target[:, None]).square().sum(1), mask)


def temperature_loss(
    log_temperature: Float[Tensor, "R"], entropy: Float[Tensor, "R N"], target_entropy: Float[Tensor, "R N"], mask: Float[Tensor, "R N"]
) -> Float[Tensor, "R"]:
    """log alpha (H(pi(.|s)) - target entropy). Eq. 11 has alpha in place of log alpha; the sign and the fixed point are the same."""
    return log_temperature * masked_mean((entropy - target_entropy).detach(), mask)


def discrete_sac_loss(
    actor: Body,
    critic: Body,
    actor_weights: Mapping[str, Tensor],
    critic_weights: Mapping[str, Tensor],
    target_weights: Mapping[str, Tensor],
    log_temperature: Float[Tensor, "R"],
    batch: Batch,
    head: Categorical,
    discount: float,
    target_entropy_share: float,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """The three losses added; gradients do not mix, since each term sees the other nets' weights detached. Metrics are `[R]` each.

    y = r + gamma V(s'),  V(s) = sum_a pi(a|s) (min_j Q_j(s, a) - alpha log pi(a|s)) (eq. 10);  the actor ascends V(s) (eq. 12).
    """
    temperature = log_temperature.detach().exp()[:, None]

    def twin(weights: Mapping[str, Tensor], observation: Tensor) -> Tensor:
        return critic(weights, observation[:, None].expand(-1, 2, *observation.shape[1:]))

    with torch.no_grad():
        next_q = twin(target_weights, batch.next_observation).amin(1)
        next_logits = actor(actor_weights, batch.next_observation)
        next_value = expected_soft_value(next_q, next_logits, temperature, batch.next_legal)
        target = q_target(batch.reward, next_value, batch.terminated, discount)
    q = twin(critic_weights, batch.observation)
    taken = q.gather(-1, batch.action.long()[:, None].expand(-1, 2, -1, -1)).squeeze(-1)
    logits = actor(actor_weights, batch.observation)
    value = expected_soft_value(q.detach().amin(1), logits, temperature, batch.legal)
    entropy = head.entropy(logits, batch.legal)
    largest = head.entropy(torch.zeros_like(logits), batch.legal)
    losses = {
        "loss/critic": critic_loss(taken, target, batch.mask),
        "loss/actor": -masked_mean(value, batch.mask),
        "loss/temperature": temperature_loss(log_temperature, entropy, target_entropy_share * largest, batch.mask),
    }
    metrics = {name: loss.detach() for name, loss in losses.items()}
    metrics |= {"q": taken.detach().mean((1, 2)), "entropy": entropy.detach().mean(-1), "temperature": temperature[:, 0]}
    return losses["loss/critic"] + losses["loss/actor"] + losses["loss/temperature"], metrics


class DiscreteSAC:
    """R stacked learners: nets, optimisers and the generators that they draw from."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed. Raises GameError when the action is not one of n choices."""
        if not isinstance(action_space, Discrete):
            raise GameError(f"discrete SAC needs an action that is one of n choices; this game's actions are {action_space}")
        self.config, self.device, members = config, torch.device(device), len(generators)
        self.head, self.shape = Categorical(action_space.n), observation_shape(observation_space)
        self.actor = make_body(self.shape, config.hidden, self.head.n, (members,), activation="relu")
        self.critic = make_body(self.shape, config.hidden, self.head.n, (members, 2), activation="relu")
        temperature = Parameters({"log_temperature": (members,)}, device)
        temperature.flat.fill_(torch.tensor(config.initial_temperature).log())
        groups = {
            "critic": Group.of(self.critic, generators, config.learning_rate, device),
            "actor": Group.of(self.actor, generators, config.learning_rate, device),
            "temperature": Group(temperature, StackedAdam(temperature, config.temperature_learning_rate)),
        }
        self.train = TrainState(groups, ["critic"], generators)
        self._step = Update(self._loss, list(groups.values()), [self.train.targets["critic"]], compile=config.compile)

    def experience(self, steps: int, copies: int) -> Replay:
        """An empty replay for a run of so many steps."""
        capacity, members = self.config.replay_capacity or steps, len(self.train.generators)
        return Replay(capacity, members, copies, self.shape, 1, self.head.n, device=self.device)

    def behave(
        self, observation: Shaped[Tensor, "R B *O"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B n"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """Uniformly random legal actions for `random_steps`, then the policy's. Raises GameError where none is legal."""
        if progress.steps >= self.config.random_steps:
            return self.act(observation, legal=legal)
        return self.head.sample(torch.zeros(*starts.shape, self.head.n), self.train.generators, legal)

    def act(
        self,
        observation: Shaped[Tensor, "R B *O"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B n"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B 1"]:
        """Drawn from the policy; its most probable action when deterministic. Raises GameError where no action is legal."""
        with torch.no_grad():
            legal = None if legal is None else legal.to(self.device)
            logits = self.actor(self.train.weights("actor"), observation.to(self.device))
            action = self.head.mode(logits, legal) if deterministic else self.head.sample(logits, self.train.generators, legal)
            return action.cpu()

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """After the random steps, every `update_every` steps: `updates_at_once` gradient steps; metrics `[R]` of the last."""
        config, metrics = self.config, {}
        if progress.steps > config.random_steps and progress.steps % config.update_every == 0:
            for _ in range(config.updates_at_once):
                metrics = self.update_on(experience.sample(config.batch_size, self.train.generators))
        return metrics

    def update_on(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a given batch, whose actions are indices."""
        self.train.updates += 1
        return self._step(self.config.target_rate if self.train.updates % self.config.target_every == 0 else 0.0, batch)

    def _loss(self, groups: Sequence[Mapping[str, Tensor]], target: Mapping[str, Tensor], batch: Batch) -> Any:
        critic, actor, temperature = groups
        return discrete_sac_loss(
            self.actor, self.critic, actor, critic, target, temperature["log_temperature"], batch, self.head,
            self.config.discount, self.config.target_entropy_share,
        )  # fmt: skip

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.train.frozen()

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return self.train.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state)
