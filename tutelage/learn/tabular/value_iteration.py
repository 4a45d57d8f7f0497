"""Value iteration: the best value with k steps left, from the best value with k - 1.

V_k(s) = max_a sum_s' P(s'|s, a) (R(s, a, s') + gamma V_(k-1)(s')),   V_0 = 0;   pi_k(s) is the a that attains it.
Bellman 1957; Sutton & Barto 2018, section 4.4. With a horizon H it stops at V_H, and pi_H, ..., pi_1 played in this order is optimal.
Without one it goes on until V_k is within `tolerance` of V*, which it nears by a factor gamma a sweep.

Where we depart from the books
- Synchronous: V_k is computed from V_(k-1) only, so that every V_k is the exact optimum of a finite horizon. Gauss-Seidel sweeps in
  place converge in fewer, but their V_k mean nothing.
- A world that is a map is backed up as a map, by shifts: no transition is stored, and a million cells take a millisecond.
- At a temperature the maximum is soft (Haarnoja et al. 2017, eq. 3): the fixed point is what soft actor-critic aims at.
Left out: prioritized sweeping, asynchronous updates.
Landscape: model-based, planning; discrete actions; scale: tabular
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.equations.dynamic_programming import greedy_policy
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.games.spec import GameError
from tutelage.learn.tabular.sweeps import ArraySweeps, Convergence, GridSweeps, arrays_of, check


@dataclass(frozen=True)
class Config:
    """Settings of value iteration."""

    discount: float = 0.9
    """Of the next state's value (the lecture's noisy grid: 0.9)."""
    horizon: int | None = None
    """How many steps are left at the start. None: no end; sweeps go on until `tolerance`."""
    tolerance: float = 1e-10
    """How far the last V_k may be from V* where there is no horizon."""
    temperature: float = 0.0
    """Price of a nat of entropy: V_k is alpha log sum exp(Q_k / alpha). 0: the maximum, as in the books."""
    precision: Literal["float32", "float64"] = "float64"
    """Of the values. float32 is twice as fast, and stops at a relative 2e-7."""
    compile: bool = False
    """Compile the sweep over a map, which takes some seconds and a C++ compiler; equal to rounding, and faster."""


class ValueIteration:
    """Holds V_k and V_(k-1); `sweep` makes it V_(k+1)."""

    def __init__(self, config: Config, world: FiniteMDP | GridWorld) -> None:
        """Raises GameError for settings that make no sense."""
        check(config.discount, config.tolerance, config.horizon)
        if config.temperature < 0.0:
            raise GameError(f"temperature={config.temperature} was given; it cannot be negative")
        self.config, self.world = config, world
        self.sweeps = 0
        self._convergence = Convergence(config.discount, config.tolerance, config.precision)
        self._sweeps: ArraySweeps | GridSweeps
        if isinstance(world, GridWorld) and not config.temperature:
            self._sweeps = GridSweeps(world, config.discount, config.precision, config.compile)
        else:
            self._sweeps = ArraySweeps(arrays_of(world), config.discount, config.precision, config.temperature)

    @property
    def finished(self) -> bool:
        """Whether the horizon is reached, or V_k is within `tolerance` of V*."""
        if self.config.horizon is not None:
            return self.sweeps >= self.config.horizon
        return self._convergence.reached

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V_k."""
        return self._sweeps.value

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """pi_k."""
        return greedy_policy(self.action_values())

    def action_values(self) -> Float[Tensor, "S A"]:
        """Q_k, of which V_k is the maximum and pi_k the argmax."""
        return self._sweeps.action_values()

    def sweep(self) -> float:
        """V_(k+1); the largest change of a value."""
        self._convergence.note(self._sweeps.sweep())
        self.sweeps += 1
        return self._convergence.change

    def state(self) -> dict[str, Any]:
        """Both arrays of values, and how many sweeps made them."""
        return {"sweeps": self.sweeps, "convergence": self._convergence.state(), "values": self._sweeps.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sweeps = int(state["sweeps"])
        self._convergence.load(state["convergence"])
        self._sweeps.load(state["values"])


def value_iteration(
    world: FiniteMDP | GridWorld, horizon: int, discount: float
) -> tuple[Float[Tensor, "{horizon}+1 S"], Int64[Tensor, "{horizon} S"]]:
    """All of the lecture's table: V_0, ..., V_H and pi_1, ..., pi_H."""
    planner = ValueIteration(Config(discount=discount, horizon=horizon), world)
    values, policies = [planner.value], []
    while not planner.finished:
        planner.sweep()
        values.append(planner.value)
        policies.append(planner.policy)
    return torch.stack(values), torch.stack(policies)
