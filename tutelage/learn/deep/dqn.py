"""DQN: Q-learning with a deep net, a replay and a target net.

Mnih et al. 2015 (Nature 518), algorithm 1: regress Q(s, a) on r + gamma max_a' Q'(s', a'), play greedily with probability 1 - epsilon.
Four of Rainbow's extensions (Hessel et al. 2018, arXiv 1710.02298) are fields: the double estimator, a dueling net, n-step
returns, prioritized replay.

Where we depart from the papers
- Adam in place of RMSProp; clipping the error is written as Huber's loss, which has that gradient.
- A time limit is not a terminal state: the true successor's value is bootstrapped.
- Actions that are not allowed are never taken, never maximized over, and have no part in a dueling net's mean.
- The streams of the dueling net part at the last layer, not one before it.
- n-step returns stop at an episode's end and where the future is not known yet, with the discount of the steps taken.
Left out: noisy nets, distributional values, reward clipping (a world's business).
Landscape: model-free, off-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor
from torch.nn.functional import huber_loss

from tutelage.equations.bellman import double_q_value, greedy_value, q_target
from tutelage.equations.schedules import linear
from tutelage.equations.statistics import masked_mean
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.games.nested import observation_shape
from tutelage.games.spec import Discrete, GameError, Space
from tutelage.learn.learner import Carry, Progress
from tutelage.nets.body import Body, make_body
from tutelage.nets.heads import Categorical
from tutelage.nets.noise import uniform
from tutelage.nets.training import Group, TrainState, Update


@dataclass(frozen=True)
class Config:
    """Settings of DQN."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of images after the convolution (paper: 512; SB3 on vectors: 64, 64)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    batch_size: int = 32
    """Transitions per update (paper: 32)."""
    learning_rate: float = 1e-4
    """Of Adam (SB3: 1e-4)."""
    error_clip: float | None = 1.0
    """Where the gradient of the error is clipped (paper: 1). None: nowhere, which alone gives means: a clipped one gives the median of
    outcomes that lie far apart, as where an episode may or may not end."""
    max_grad_norm: float | None = 10.0
    """Where the norm of a gradient is clipped (Wang et al. 2016 and SB3: 10). None: nowhere."""
    target_rate: float = 1.0
    """How far the target moves when it does; 1 copies (paper: 1)."""
    target_every: int = 2_500
    """Updates between two moves of the target (paper: 10,000; SB3: 10,000 steps, 2,500 updates)."""
    exploration_start: float = 1.0
    """Probability of a random action at the start (paper: 1)."""
    exploration_end: float = 0.05
    """The same from `exploration_fraction` on (paper: 0.1; SB3: 0.05)."""
    exploration_fraction: float = 0.1
    """Share of the run over which it falls (SB3: 0.1)."""
    random_steps: int = 100
    """Steps with uniformly random actions before learning starts (paper: 50,000; SB3: 100)."""
    update_every: int = 4
    """Steps between updates (paper: 4)."""
    updates_at_once: int = 1
    """Gradient steps each time (paper: 1)."""
    double: bool = False
    """The online net chooses the next action and the target net values it (van Hasselt et al. 2016)."""
    dueling: bool = False
    """The net gives a value and advantages (Wang et al. 2016)."""
    n_step: int = 1
    """Rewards summed before the value of a successor is added (Rainbow: 3)."""
    prioritized: bool = False
    """Transitions are drawn in proportion to their last error (Schaul et al. 2016)."""
    priority_exponent: float = 0.6
    """How much the error counts when drawing (Schaul et al., proportional variant: 0.6)."""
    importance_start: float = 0.4
    """How far importance weights undo the bias at the start; wholly at the end (Schaul et al.: 0.4)."""
    replay_capacity: int | None = None
    """Steps kept per copy of the game. None: all of the run's (paper: 1e6)."""
    compile: bool = False
    """Compile the whole update at the first one, which takes half a minute and a C++ compiler; equal to rounding, and faster."""


PRIORITY_FLOOR = 1e-6
"""Added to every absolute error, so that none is forgotten (Schaul et al. 2016, section 3.3; OpenAI Baselines: 1e-6)."""


def action_values(
    body: Body,
    weights: Mapping[str, Tensor],
    observation: Shaped[Tensor, "R N *O"],
    legal: Bool[Tensor, "R N n"] | None,
    dueling: bool,
) -> Float[Tensor, "R N n"]:
    """Q(s, a) for every action. A dueling body gives V(s) first, then A(s, a) (`dueling_value`)."""
    output = body(weights, observation)
    return dueling_value(output[..., 0], output[..., 1:], legal) if dueling else output


def dueling_value(
    value: Float[Tensor, "*batch"], advantage: Float[Tensor, "*batch n"], legal: Bool[Tensor, "*batch n"] | None
) -> Float[Tensor, "*batch n"]:
    """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a'), the mean over legal actions. Wang et al. 2016 (arXiv 1511.06581), eq. 9."""
    mean = advantage.mean(-1) if legal is None else masked_mean(advantage, legal.to(advantage.dtype))
    return advantage + (value - mean)[..., None]


def dqn_loss(
    body: Body,
    weights: Mapping[str, Tensor],
    target_weights: Mapping[str, Tensor],
    batch: Batch,
    importance: Float[Tensor, "R N"],
    config: Config,
) -> tuple[Float[Tensor, "R"], dict[str, Tensor]]:
    """1/2 (Q(s, a) - y)^2, or Huber's loss where the error is clipped: the mean over real transitions, each times its importance.

    y = r + gamma V(s') with the value of the greedy or the double estimator. Metrics `[R]`, and "error" `[R, N]`.
    """

    def values(weights: Mapping[str, Tensor], observation: Tensor, legal: Tensor | None) -> Tensor:
        return action_values(body, weights, observation, legal, config.dueling)

    with torch.no_grad():
        next_q = values(target_weights, batch.next_observation, batch.next_legal)
        if config.double:
            online = values(weights, batch.next_observation, batch.next_legal)
            next_value = double_q_value(online, next_q, batch.next_legal)
        else:
            next_value = greedy_value(next_q, batch.next_legal)
        target = q_target(batch.reward, next_value, batch.terminated, config.discount if batch.discount is None else batch.discount)
    q = values(weights, batch.observation, batch.legal).gather(-1, batch.action.long()).squeeze(-1)
    error = q - target
    each = 0.5 * error.square() if config.error_clip is None else huber_loss(q, target, "none", config.error_clip)
    loss = masked_mean(importance * each, batch.mask)
    return loss, {"loss/critic": loss.detach(), "q": q.detach().mean(-1), "error": error.detach()}


class DQN:
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
            raise GameError(f"DQN needs an action that is one of n choices; this game's actions are {action_space}")
        self.config, self.device, members = config, torch.device(device), len(generators)
        self.head, self.shape = Categorical(action_space.n), observation_shape(observation_space)
        self.body = make_body(self.shape, config.hidden, self.head.n + config.dueling, (members,), activation="relu")
        group = Group.of(self.body, generators, config.learning_rate, device, config.max_grad_norm)
        self.train = TrainState({"critic": group}, ["critic"], generators)
        self.target = self.train.targets["critic"]
        self._step = Update(self._loss, [group], [self.target], follow=False, compile=config.compile)

    def experience(self, steps: int, copies: int) -> Replay:
        """An empty replay for a run of so many steps."""
        config = self.config
        exponent = config.priority_exponent if config.prioritized else None
        capacity, members = config.replay_capacity or steps, len(self.train.generators)
        return Replay(capacity, members, copies, self.shape, 1, self.head.n, exponent, self.device)

    def exploration(self, progress: Progress) -> float:
        """epsilon, the probability of a random action."""
        config = self.config
        if progress.steps < config.random_steps:
            return 1.0
        return linear(config.exploration_start, config.exploration_end, progress.share, config.exploration_fraction)

    def behave(
        self, observation: Shaped[Tensor, "R B *O"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B n"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """The greedy action, or with probability epsilon any legal one. Raises GameError where none is legal."""
        # One number decides, the others choose: the largest of independent uniform numbers is equally often at any place.
        draws = uniform(self.train.generators, (*starts.shape[1:], 1 + self.head.n))
        random = draws[..., :1] < self.exploration(progress)
        if not random.any():  # as most often; and where all are random, the net need not be asked
            return self.act(observation, legal=legal)
        action = self.head.mode(draws[..., 1:], legal)
        return action if random.all() else torch.where(random, action, self.act(observation, legal=legal))

    def act(
        self,
        observation: Shaped[Tensor, "R B *O"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B n"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B 1"]:
        """The greedy action; there is nothing random in it. Raises GameError where no action is legal."""
        with torch.no_grad():
            legal = None if legal is None else legal.to(self.device)
            q = action_values(self.body, self.train.weights("critic"), observation.to(self.device), legal, self.config.dueling)
            return self.head.mode(q, legal).cpu()

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """After the random steps, every `update_every` steps: `updates_at_once` gradient steps; metrics `[R]` of the last."""
        config, metrics = self.config, {}
        if progress.steps <= config.random_steps or progress.steps % config.update_every:
            return metrics
        for _ in range(config.updates_at_once):
            columns = experience.draw(config.batch_size, self.train.generators)
            batch = experience.take(columns) if config.n_step == 1 else experience.take_returns(columns, config.n_step, config.discount)
            priorities, importance = experience.priorities, None
            if priorities is not None:
                exponent = linear(config.importance_start, 1.0, progress.share)
                importance = priorities.weights(columns, len(experience) * experience.copies, exponent)
            metrics = self.update_on(batch, importance)
            error = metrics.pop("error")
            if priorities is not None:
                priorities.set(columns, error.abs() + PRIORITY_FLOOR)
        return metrics

    def update_on(self, batch: Batch, importance: Float[Tensor, "R N"] | None = None) -> dict[str, Tensor]:
        """One gradient step on a given batch, whose actions are indices; metrics `[R]`, and "error" `[R, N]`."""
        self.train.updates += 1
        metrics = self._step(0.0, batch, torch.ones_like(batch.reward) if importance is None else importance)
        if self.train.updates % self.config.target_every == 0:
            self.target.follow(self.config.target_rate)
        return metrics

    def _loss(self, groups: Sequence[Mapping[str, Tensor]], target: Mapping[str, Tensor], batch: Batch, importance: Tensor) -> Any:
        return dqn_loss(self.body, groups[0], target, batch, importance, self.config)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.train.frozen()

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators and the count of updates."""
        return self.train.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state)
