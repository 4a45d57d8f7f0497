"""The policy gradient, from REINFORCE to the actor-critic: raise log pi(a|s) as much as a weight says.

grad J = E[sum_t w_t grad log pi(a_t|s_t)], with one of six weights that agree in expectation and differ in variance (Williams 1992;
Schulman et al. 2016, arXiv 1506.02438, eq. 1): the total return R(tau); the reward to go; the reward to go less a baseline b(s_t) = V(s_t);
Q(s_t, a_t); the advantage Q(s_t, a_t) - V(s_t); the TD residual r_t + gamma V(s_{t+1}) - V(s_t); and GAE, which lies between the last
and the third. V, and Q where it is needed, regress on the reward to go of a window of fresh experience; then the policy takes one step.

Where we depart from the papers
- A window cuts episodes. What lies behind a cut, or behind a time limit, is V's estimate, for every weight; and the total return
  is that of the part of the episode which the window holds, since what was paid before it no action here can change.
- Weights are discounted and states are not (the factor gamma^t of the exact gradient is left away), as everywhere.
- The six agree where V and Q are exact; learned ones bias the last three.
Left out: natural gradients (trpo.py), more than one step on the same experience (ppo.py).
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.returns import discounted_return, gae
from tutelage.equations.statistics import mean_of, standardized
from tutelage.equations.surrogates import policy_gradient_surrogate
from tutelage.experience.steps import Steps
from tutelage.games.nested import flat_width, flatten_observation, unflatten_action
from tutelage.games.spec import GameError, Space
from tutelage.learn.deep.on_policy import OnPolicy, Recorded
from tutelage.learn.learner import Progress
from tutelage.nets.adam import StackedAdam
from tutelage.nets.mlp import MLP
from tutelage.nets.parameters import Parameters

Weight = Literal["total_return", "reward_to_go", "baseline", "q", "advantage", "td_residual", "gae"]


@dataclass(frozen=True)
class Config:
    """Settings of the policy gradient. With weight="gae" it is Spinning Up's vanilla policy gradient, whose defaults these are."""

    weight: Weight = "gae"
    """What log pi(a|s) is weighted by (see above)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and critics (Spinning Up: 64, 64)."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers (Spinning Up: tanh)."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Cell behind the last hidden layer of policy and value, as wide as it (none)."""
    window: int = 4000
    """Steps per copy of the game between two updates (Spinning Up: 4000)."""
    learning_rate: float = 3e-4
    """Of the policy's step, by Adam (Spinning Up: 3e-4)."""
    critic_learning_rate: float = 1e-3
    """Of the regression of V and Q, by Adam (Spinning Up: 1e-3)."""
    critic_steps: int = 80
    """Gradient steps of V and Q on all steps of a window (Spinning Up: 80)."""
    discount: float = 0.99
    """Of the next state's value (Spinning Up: 0.99)."""
    gae_lambda: float = 0.97
    """How far GAE looks ahead (Spinning Up: 0.97)."""
    standardize_weight: bool = True
    """Over the window: mean 0, standard deviation 1 (Spinning Up: yes). For the first two weights and Q the mean is a baseline, too."""
    normalize_observation: bool = False
    """By running mean and deviation (Spinning Up: no)."""
    normalize_reward: bool = False
    """By the running deviation of the discounted return (Spinning Up: no)."""


def policy_gradient_loss(
    logp: Float[Tensor, "R *n"], weight: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None
) -> Float[Tensor, "R"]:
    """-E[log pi(a|s) w], the mean over the steps of each seed; mask: 1 for a real step, else 0 (None: all are)."""
    return -mean_of(policy_gradient_surrogate(logp, weight), mask)


def critic_loss(value: Float[Tensor, "R *n"], target: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None) -> Float[Tensor, "R"]:
    """E[(V - G)^2] of each seed; of Q in the same way."""
    return mean_of((value - target).square(), mask)


def total_return(reward_to_go: Float[Tensor, "T *b"], boundary: Bool[Tensor, "T *b"]) -> Float[Tensor, "T *b"]:
    """For every step the reward to go of the first step of its episode (or of the recording)."""
    time = torch.arange(len(boundary), device=boundary.device).view(-1, *[1] * (boundary.dim() - 1))
    first = torch.zeros_like(boundary, dtype=torch.int64)
    first[1:] = torch.where(boundary[:-1], time[1:], 0)
    return reward_to_go.gather(0, first.cummax(0).values)


def td_lambda(recorded: Recorded, discount: float, gae_lambda: float) -> Float[Tensor, "T R B"]:
    """GAE of a recording; the TD residual for lambda = 0."""
    x = recorded
    return gae(x.reward, x.value, x.next_value, x.terminated, x.boundary, discount, gae_lambda)


WEIGHTS: dict[str, Callable[[Recorded, Float[Tensor, "T R B"], Config], Float[Tensor, "T R B"]]] = {
    "total_return": lambda recorded, to_go, config: total_return(to_go, recorded.boundary),
    "reward_to_go": lambda recorded, to_go, config: to_go,
    "baseline": lambda recorded, to_go, config: to_go - recorded.value,
    "td_residual": lambda recorded, to_go, config: td_lambda(recorded, config.discount, 0.0),
    "gae": lambda recorded, to_go, config: td_lambda(recorded, config.discount, config.gae_lambda),
}
"""All but those of Q, which reads states and actions."""


class PolicyGradient(OnPolicy):
    """R stacked learners: a policy, a value, perhaps a critic of actions, each with an optimizer of its own."""

    def __init__(
        self, config: Config, observation_space: Space, action_space: Space, generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """generators: one per seed. Errors as in OnPolicy; and GameError where Q would have to see images or to remember."""
        super().__init__(config, observation_space, action_space, generators, device)
        self.config, self.action_space = config, action_space
        # Two optimizers of one buffer: what the loss of one does not reach has no gradient there, hence no moments, and stays.
        self.optimizers["policy"] = StackedAdam(self.parameters, config.learning_rate)
        self.optimizers["value"] = StackedAdam(self.parameters, config.critic_learning_rate)
        self.q: MLP | None = None
        if config.weight in ("q", "advantage"):
            if config.memory != "none" or len(self.observation_shape) != 1:
                raise GameError(f'weight="{config.weight}" needs vectors and no memory: Q(s, a) reads one observation with its action')
            widths = (self.observation_shape[0] + flat_width(action_space), *config.hidden, 1)
            self.q = MLP(widths, (len(self.generators),), config.activation)
            parameters = Parameters(self.q.shapes(), device)
            self.q.initialize(parameters, self.generators)
            self.optimizers["q"] = StackedAdam(parameters, config.critic_learning_rate)

    def estimate(self, recorded: Recorded) -> tuple[Float[Tensor, "T R B"], Float[Tensor, "T R B"]]:
        """The weight (for Q: nothing yet), and the reward to go."""
        config = self.config
        bootstrap = torch.where(recorded.terminated, 0.0, recorded.next_value)
        to_go = discounted_return(recorded.reward, recorded.boundary, config.discount, bootstrap)
        return (to_go if self.q is not None else WEIGHTS[config.weight](recorded, to_go, config)), to_go

    def improve(self, steps: Steps, progress: Progress) -> dict[str, Tensor]:
        """Steps of the critics, then one of the policy; Q has to have seen the actions that it is to judge."""
        config, head, leaves = self.config, self.nets.head, self.parameters.leaves
        pairs = self._pairs(steps)
        for _ in range(config.critic_steps):
            self.descend("value", critic_loss(self.value(leaves, steps), steps.target, steps.mask))
            if self.q is not None:
                q = self.q(self.optimizers["q"].parameters.leaves, pairs)[..., 0]
                self.descend("q", critic_loss(q, steps.target, steps.mask))
        weight = steps.advantage
        if self.q is not None:
            q = self.q(self.optimizers["q"].parameters.weights, pairs)[..., 0]
            weight = q - self.value(self.parameters.weights, steps) if config.weight == "advantage" else q
        weight = standardized(weight, steps.mask) if config.standardize_weight else weight
        logp = head.log_prob(self.policy(leaves, steps), steps.action, steps.legal)
        self.descend("policy", policy_gradient_loss(logp, weight, steps.mask))
        return {}

    def _pairs(self, steps: Steps) -> Tensor:
        """Observation and action as one vector, integers one-hot."""
        if self.q is None:
            return steps.observation
        action = flatten_observation(self.action_space, unflatten_action(self.action_space, steps.action))
        return torch.cat([steps.observation, action], -1)
