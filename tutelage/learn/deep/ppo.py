"""Proximal policy optimization: several passes over fresh experience, each ratio kept near 1 by a clipped objective.

Schulman et al. 2017 (arXiv 1707.06347), algorithm 1 with eqs. 7 and 9. Play a window of T steps in B copies of the game; estimate
advantages by GAE; then maximize min(rho A, clip(rho, 1 - e, 1 + e) A) by minibatches for some epochs, rho = pi(a|s) / pi_old(a|s),
while the value regresses on the lambda-return. Where a ratio has left the interval in the direction that pays, its gradient is zero.

Where we depart from the paper
- What PPO's own code does and the paper does not say is here too: orthogonal first weights, advantages standardized in each
  minibatch, clipped gradients, Adam's epsilon of 1e-5, an annealed rate, clipped values, normalization (Huang et al. 2022, "The 37
  implementation details of PPO"). Each is a field; the defaults are Stable-Baselines3's.
- A time limit is not a terminal state: the true successor's value is bootstrapped, with memory from what was remembered there.
- `target_kl` stops each seed for itself, and before the step that would follow, with the estimate k3 of the KL divergence.
- With memory a minibatch holds whole recordings of some copies, from what was remembered when the window began.
Left out: the adaptive KL penalty (the paper's section 4, which it finds worse), state-dependent exploration.
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.divergences import kl_k3
from tutelage.equations.returns import gae
from tutelage.equations.schedules import linear
from tutelage.equations.statistics import mean_of, standardized
from tutelage.equations.surrogates import clipped_surrogate, clipped_value_loss
from tutelage.experience.steps import Steps
from tutelage.games.spec import GameError, Space
from tutelage.learn.deep.on_policy import OnPolicy, Recorded
from tutelage.learn.learner import Progress
from tutelage.nets.adam import StackedAdam
from tutelage.nets.compiled import CompiledUpdate


@dataclass(frozen=True)
class Config:
    """Settings of PPO. CleanRL's for MuJoCo: anneal and both normalizations, value_clip_range 0.2, value_coefficient 0.5, one copy."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value (paper, section 6.1: 64, 64); for images behind the convolution (Atari: 512)."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers (paper: tanh; Atari: relu)."""
    shared: bool = False
    """One body for policy and value (paper: for Atari; SB3: for images)."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Cell behind the last hidden layer, as wide as it (none)."""
    window: int = 2048
    """Steps per copy of the game between two updates (paper: 2048; Atari: 128)."""
    epochs: int = 10
    """Passes over the window (paper: 10; Atari: 3)."""
    batch_size: int = 64
    """Steps in a minibatch (paper: 64; Atari: 256). With memory: as many whole recordings as it holds, at least one."""
    learning_rate: float = 3e-4
    """Adam's (paper: 3e-4; Atari: 2.5e-4)."""
    anneal: bool = False
    """Let the rate fall to 0 over the run (SB3: no; paper for Atari, and CleanRL: yes)."""
    epsilon: float = 1e-5
    """Adam's (SB3, Baselines: 1e-5)."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient of all weights of a seed (SB3, Baselines: 0.5)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    gae_lambda: float = 0.95
    """How far an advantage looks ahead (paper: 0.95)."""
    clip_range: float = 0.2
    """How far a ratio may move (paper: 0.2; Atari: 0.1)."""
    value_clip_range: float | None = None
    """How far a value may move (SB3: None, freely; Baselines, CleanRL: as far as a ratio)."""
    value_coefficient: float = 1.0
    """Weight of half the value's squared error (SB3: 0.5 of the whole, which is the same; CleanRL: 0.5)."""
    temperature: float = 0.0
    """Weight of the entropy (SB3: 0; paper for Atari: 0.01)."""
    standardize_advantage: bool = True
    """In each minibatch: mean 0, standard deviation 1 (SB3, Baselines: yes)."""
    target_kl: float | None = None
    """A seed leaves its window when a minibatch shows more than 1.5 times as much (SB3: None; Spinning Up: 0.01)."""
    normalize_observation: bool = False
    """By running mean and deviation (SB3: by a wrapper; Baselines, CleanRL for MuJoCo: yes)."""
    normalize_reward: bool = False
    """By the running deviation of the discounted return (as above)."""
    compile: bool = False
    """Compile the whole update at the first one, which takes half a minute and a C++ compiler; equal to rounding, and faster."""


def ppo_loss(
    logp: Float[Tensor, "R *n"],
    old_logp: Float[Tensor, "R *n"],
    advantage: Float[Tensor, "R *n"],
    value: Float[Tensor, "R *n"],
    old_value: Float[Tensor, "R *n"],
    target: Float[Tensor, "R *n"],
    entropy: Float[Tensor, "R *n"] | None,
    mask: Float[Tensor, "R *n"] | None,
    clip_range: float,
    value_clip_range: float | None = None,
    value_coefficient: float = 1.0,
    temperature: float = 0.0,
) -> Float[Tensor, "R"]:
    """E[-min(rho A, clip(rho) A) + c 1/2 (V - G)^2 - alpha H], the mean over the steps of each seed (eq. 9).

    entropy: H of the policy, where there is a bonus. mask: 1 for a real step, else 0 (None: all are).
    """
    if value_clip_range is None:
        value_loss = (0.5 * value_coefficient) * (value - target).square()
    else:
        value_loss = value_coefficient * clipped_value_loss(value, old_value, target, value_clip_range)
    loss = value_loss - clipped_surrogate(logp, old_logp, advantage, clip_range)
    return mean_of(loss if entropy is None else loss - temperature * entropy, mask)


class PPO(OnPolicy):
    """R stacked learners with one optimizer for policy and value."""

    def __init__(
        self, config: Config, observation_space: Space, action_space: Space, generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """generators: one per seed. Errors as in OnPolicy; and GameError for a compiled update that would have to stop or to remember."""
        if config.compile and (config.target_kl is not None or config.memory != "none"):
            raise GameError("a compiled update of PPO knows neither memory nor target_kl; leave compile away, or them")
        super().__init__(config, observation_space, action_space, generators, device, config.shared)
        self.config = config
        optimizer = StackedAdam(self.parameters, config.learning_rate, epsilon=config.epsilon, max_grad_norm=config.max_grad_norm)
        self.optimizers["policy and value"] = optimizer
        self._compiled = CompiledUpdate(self._loss, [(self.parameters, optimizer)]) if config.compile else None

    def estimate(self, recorded: Recorded) -> tuple[Float[Tensor, "T R B"], Float[Tensor, "T R B"]]:
        """GAE, and the lambda-return."""
        x, config = recorded, self.config
        advantage = gae(x.reward, x.value, x.next_value, x.terminated, x.boundary, config.discount, config.gae_lambda)
        return advantage, x.value + advantage

    def improve(self, steps: Steps, progress: Progress) -> dict[str, Tensor]:
        """`epochs` passes over the steps in minibatches."""
        config, optimizer = self.config, self.optimizers["policy and value"]
        optimizer.learning_rate = linear(config.learning_rate, 0.0, progress.share) if config.anneal else config.learning_rate
        active = torch.ones(len(self.generators), dtype=torch.bool, device=self.device)
        if self._compiled is not None and steps.mask is None:
            steps = replace(steps, mask=torch.ones_like(steps.value))  # one function, whether or not a window has steps that were not real
        for _ in range(config.epochs):
            for batch in steps.shuffled(self.generators, config.batch_size):
                self.improve_on(batch, active)
                if config.target_kl is not None and not active.any():
                    return {}
        return {}

    def improve_on(self, batch: Steps, active: Bool[Tensor, "R"]) -> None:
        """One gradient step of the `active` seeds. Those whose policy has moved too far take none, and leave `active`, in place."""
        if self._compiled is not None and self._compiled(0.0, batch) is not None:
            return
        loss, metrics = self._loss([self.parameters.leaves], batch)
        if self.config.target_kl is not None:
            active &= ~(metrics["kl"] > 1.5 * self.config.target_kl)  # what is NaN is left to StackedAdam
        self.descend("policy and value", loss, active)

    def _loss(self, groups: Sequence[Mapping[str, Tensor]], batch: Steps) -> tuple[Tensor, dict[str, Tensor]]:
        (weights,), config, head = groups, self.config, self.nets.head
        parameters, value = self.read(weights, batch)
        logp = head.log_prob(parameters, batch.action, batch.legal)
        advantage = standardized(batch.advantage, batch.mask) if config.standardize_advantage else batch.advantage
        entropy = head.entropy(parameters, batch.legal) if config.temperature else None
        loss = ppo_loss(
            logp, batch.logp, advantage, value, batch.value, batch.target, entropy, batch.mask,
            config.clip_range, config.value_clip_range, config.value_coefficient, config.temperature,
        )  # fmt: skip
        return loss, {} if config.target_kl is None else {"kl": mean_of(kl_k3(batch.logp, logp.detach()), batch.mask)}
