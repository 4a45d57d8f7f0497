"""Q-value iteration: value iteration whose values belong to actions.

Q_(k+1)(s, a) = sum_s' P(s'|s, a) (R(s, a, s') + gamma max_a' Q_k(s', a')),   Q_0 = 0.
The maximum is inside the expectation, so that it can be replaced by a sample: this file with one sampled transition in place of the sum
is Q-learning (`q_learning.py`), and with a net in place of the table it is DQN, where the right side is the regression target.

Where we depart from the books
- Nothing: max_a Q_k is V_k of `value_iteration.py`, for every k.
Landscape: model-based, planning; discrete actions; scale: tabular
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.equations.dynamic_programming import action_values, best_value, greedy_policy
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.learn.tabular.sweeps import PRECISION, Convergence, arrays_of, check


@dataclass(frozen=True)
class Config:
    """Settings of Q-value iteration."""

    discount: float = 0.9
    """Of the next state's value (the lecture's noisy grid: 0.9)."""
    horizon: int | None = None
    """How many steps are left at the start. None: no end; sweeps go on until `tolerance`."""
    tolerance: float = 1e-10
    """How far the last Q_k may be from Q* where there is no horizon."""
    precision: Literal["float32", "float64"] = "float64"
    """Of the values."""


class QValueIteration:
    """Holds Q_k; `sweep` makes it Q_(k+1)."""

    def __init__(self, config: Config, world: FiniteMDP | GridWorld) -> None:
        """Raises GameError for settings that make no sense."""
        check(config.discount, config.tolerance, config.horizon)
        self.config, self.world, self.sweeps = config, world, 0
        mdp, dtype = arrays_of(world), PRECISION[config.precision]
        self.reward, self.transition = mdp.expected_reward(dtype), mdp.transition(dtype)
        self._q = torch.zeros_like(self.reward)
        self._convergence = Convergence(config.discount, config.tolerance, config.precision)

    @property
    def finished(self) -> bool:
        """Whether the horizon is reached, or Q_k is within `tolerance` of Q*."""
        return self._convergence.reached if self.config.horizon is None else self.sweeps >= self.config.horizon

    @property
    def value(self) -> Float[Tensor, "S"]:
        """max_a Q_k."""
        return best_value(self._q)

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """argmax_a Q_k."""
        return greedy_policy(self._q)

    def action_values(self) -> Float[Tensor, "S A"]:
        """Q_k."""
        return self._q.clone()

    def sweep(self) -> float:
        """Q_(k+1); the largest change of an action that exists."""
        new = action_values(self.reward, self.transition, best_value(self._q), self.config.discount)
        exists = torch.isfinite(new)  # Q of a missing action is -inf from the first sweep on
        self._convergence.note(float((new - self._q)[exists].abs().amax()))
        self._q, self.sweeps = new, self.sweeps + 1
        return self._convergence.change

    def state(self) -> dict[str, Any]:
        """Q_k and how many sweeps made it."""
        return {"sweeps": self.sweeps, "convergence": self._convergence.state(), "q": self._q}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sweeps = int(state["sweeps"])
        self._convergence.load(state["convergence"])
        self._q.copy_(state["q"])
