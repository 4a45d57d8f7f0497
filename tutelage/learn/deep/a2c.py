"""Advantage actor-critic: one gradient step on a few fresh steps of many copies of the game.

Mnih et al. 2016 (arXiv 1602.01783), algorithm S3, synchronous: play T steps in B copies; the advantage of an action is the return of
the steps that are left, with the value of where they end, less the value of where it was taken; then one step down
-log pi(a|s) A + c 1/2 (V - G)^2 - alpha H, all from the same weights.

Where we depart from the paper
- The copies wait for one another and share each step (A2C, as Baselines named it), where the paper's workers race.
- RMSProp is Adam without its first moment, whose second moment is corrected for starting at zero: without that correction the first
  steps are ten times too long (Baselines starts it at one for the same reason).
- A time limit is not a terminal state: the true successor's value is bootstrapped, with memory from what was remembered there.
- With memory the gradient reaches back to the beginning of the window, not of the episode.
Left out: shared moments between workers, n-step Q-learning and Sarsa (the paper's other algorithms).
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.returns import gae
from tutelage.equations.schedules import linear
from tutelage.equations.statistics import mean_of, standardized
from tutelage.equations.surrogates import policy_gradient_surrogate
from tutelage.experience.steps import Steps
from tutelage.games.spec import Space
from tutelage.learn.deep.on_policy import OnPolicy, Recorded
from tutelage.learn.learner import Progress
from tutelage.nets.adam import StackedAdam


@dataclass(frozen=True)
class Config:
    """Settings of A2C."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value (SB3: 64, 64); for images behind the convolution (Baselines: 512)."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers (SB3: tanh; for images: relu)."""
    shared: bool = False
    """One body for policy and value (paper: yes; SB3: for images)."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Cell behind the last hidden layer, as wide as it (paper: none, or an LSTM)."""
    window: int = 5
    """Steps per copy of the game between two updates (paper: t_max 5; with memory longer windows learn more)."""
    learning_rate: float = 7e-4
    """Of the gradient steps (paper: drawn from 1e-4 to 1e-2; Baselines, SB3: 7e-4)."""
    anneal: bool = False
    """Let the rate fall to 0 over the run (SB3: no; paper: yes)."""
    decay: float = 0.99
    """Of the mean of squared gradients (paper: 0.99)."""
    epsilon: float = 1e-5
    """Beside the root of that mean (SB3, Baselines: 1e-5)."""
    max_grad_norm: float = 0.5
    """Largest norm of the gradient of all weights of a seed (SB3, Baselines: 0.5)."""
    discount: float = 0.99
    """Of the next state's value (paper: 0.99)."""
    gae_lambda: float = 1.0
    """How far an advantage looks ahead (paper: 1, all steps of the window)."""
    value_coefficient: float = 1.0
    """Weight of half the value's squared error (SB3: 0.5 of the whole, which is the same)."""
    temperature: float = 0.0
    """Weight of the entropy (SB3: 0; paper: 0.01)."""
    standardize_advantage: bool = False
    """Over the window: mean 0, standard deviation 1 (SB3: no)."""
    normalize_observation: bool = False
    """By running mean and deviation (SB3: by a wrapper)."""
    normalize_reward: bool = False
    """By the running deviation of the discounted return (SB3: by a wrapper)."""


def a2c_loss(
    logp: Float[Tensor, "R *n"],
    advantage: Float[Tensor, "R *n"],
    value: Float[Tensor, "R *n"],
    target: Float[Tensor, "R *n"],
    entropy: Float[Tensor, "R *n"] | None,
    mask: Float[Tensor, "R *n"] | None,
    value_coefficient: float = 1.0,
    temperature: float = 0.0,
) -> Float[Tensor, "R"]:
    """E[-log pi(a|s) A + c 1/2 (V - G)^2 - alpha H], the mean over the steps of each seed.

    entropy: H of the policy, where there is a bonus. mask: 1 for a real step, else 0 (None: all are).
    """
    loss = value_coefficient * 0.5 * (value - target).square() - policy_gradient_surrogate(logp, advantage)
    return mean_of(loss if entropy is None else loss - temperature * entropy, mask)


class A2C(OnPolicy):
    """R stacked learners with one optimizer for policy and value."""

    def __init__(
        self, config: Config, observation_space: Space, action_space: Space, generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """generators: one per seed. Errors as in OnPolicy."""
        super().__init__(config, observation_space, action_space, generators, device, config.shared)
        self.config = config
        betas, norm = (0.0, config.decay), config.max_grad_norm
        self.optimizers["policy and value"] = StackedAdam(
            self.parameters, config.learning_rate, betas, config.epsilon, max_grad_norm=norm
        )  # fmt: skip

    def estimate(self, recorded: Recorded) -> tuple[Float[Tensor, "T R B"], Float[Tensor, "T R B"]]:
        """GAE, by default with lambda = 1, and the lambda-return."""
        x, config = recorded, self.config
        advantage = gae(x.reward, x.value, x.next_value, x.terminated, x.boundary, config.discount, config.gae_lambda)
        return advantage, x.value + advantage

    def improve(self, steps: Steps, progress: Progress) -> dict[str, Tensor]:
        """One gradient step on all steps."""
        config, head, leaves = self.config, self.nets.head, self.parameters.leaves
        rate = linear(config.learning_rate, 0.0, progress.share) if config.anneal else config.learning_rate
        self.optimizers["policy and value"].learning_rate = rate
        parameters, value = self.read(leaves, steps)
        advantage = standardized(steps.advantage, steps.mask) if config.standardize_advantage else steps.advantage
        loss = a2c_loss(
            head.log_prob(parameters, steps.action, steps.legal), advantage, value, steps.target,
            head.entropy(parameters, steps.legal) if config.temperature else None, steps.mask,
            config.value_coefficient, config.temperature,
        )  # fmt: skip
        self.descend("policy and value", loss)
        return {}
