"""Modified policy iteration: improve the policy after a few sweeps of its evaluation, not after all of them.

pi = argmax_a Q(s, a),   Q from V;   V <- m more backups of V under pi, which cost an A-th of a full sweep each.
Puterman & Shin 1978 (Management Science 24:1127); Puterman 1994, section 6.5. With m = 0 it is value iteration, with m without bound
policy iteration; in between it usually beats both.

Where we depart from the paper
- It starts from zeros, where the theory starts from values that one sweep cannot lower; at discounts below 1 it converges from any
  (Puterman 1994, section 6.5.3).
Left out: a number of backups that changes from sweep to sweep, a horizon.
Landscape: model-based, planning; discrete actions; scale: tabular
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.equations.dynamic_programming import action_values, best_value, greedy_policy, select_rows
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.games.spec import GameError
from tutelage.learn.tabular.sweeps import PRECISION, Convergence, arrays_of, check


@dataclass(frozen=True)
class Config:
    """Settings of modified policy iteration."""

    evaluation_sweeps: int = 10
    """m, backups of each policy after the one that found it (Puterman 1994, section 6.5.5, tries 5 to 20)."""
    discount: float = 0.9
    """Of the next state's value (the lecture's noisy grid: 0.9)."""
    tolerance: float = 1e-10
    """How far the last value may be from V*."""
    precision: Literal["float32", "float64"] = "float64"
    """Of the values."""


class ModifiedPolicyIteration:
    """Holds V; `sweep` finds its greedy policy and follows that for 1 + m backups."""

    def __init__(self, config: Config, world: FiniteMDP | GridWorld) -> None:
        """Raises GameError for settings that make no sense."""
        check(config.discount, config.tolerance)
        if config.evaluation_sweeps < 0:
            raise GameError(f"evaluation_sweeps={config.evaluation_sweeps} was given; it cannot be negative")
        self.config, self.world, self.sweeps = config, world, 0
        mdp, dtype = arrays_of(world), PRECISION[config.precision]
        self.reward, self.transition = mdp.expected_reward(dtype), mdp.transition(dtype)
        self._value = torch.zeros(mdp.states, dtype=dtype)
        self._convergence = Convergence(config.discount, config.tolerance, config.precision)

    @property
    def finished(self) -> bool:
        """Whether a full backup would leave V within `tolerance` of V*."""
        return self._convergence.reached

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V."""
        return self._value.clone()

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """The greedy policy on V."""
        return greedy_policy(self.action_values())

    def action_values(self) -> Float[Tensor, "S A"]:
        """One step ahead of V."""
        return action_values(self.reward, self.transition, self._value, self.config.discount)

    def sweep(self) -> float:
        """Improve, then evaluate for a while; the largest change by the full backup, which says how far V was from V*."""
        q, states = self.action_values(), torch.arange(len(self._value))
        value = best_value(q)
        self._convergence.note(float((value - self._value).abs().amax()))
        if not self.finished and self.config.evaluation_sweeps:
            policy = greedy_policy(q)
            reward = self.reward[states, policy]
            transition = select_rows(self.transition, policy * len(states) + states)
            for _ in range(self.config.evaluation_sweeps):
                value = torch.mv(transition, value).mul_(self.config.discount).add_(reward)
        self._value, self.sweeps = value, self.sweeps + 1
        return self._convergence.change

    def state(self) -> dict[str, Any]:
        """V, and how many sweeps made it."""
        return {"sweeps": self.sweeps, "convergence": self._convergence.state(), "value": self._value}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sweeps = int(state["sweeps"])
        self._convergence.load(state["convergence"])
        self._value = state["value"].clone()
