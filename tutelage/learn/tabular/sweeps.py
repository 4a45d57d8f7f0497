"""The sweep that all planners share: V_k from V_(k-1), on arrays or on a map.

Both forms hold two arrays of values and write each sweep over the older one, so that a sweep allocates next to nothing.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.equations.bellman import soft_value
from tutelage.equations.dynamic_programming import action_values, best_value, grid_action_values, grid_backup
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.games.spec import GameError

PRECISION = {"float32": torch.float32, "float64": torch.float64}
BAND = 16384
"""Cells of a map that are backed up at once without a compiler: intermediate results then stay in the processor's cache."""


@runtime_checkable
class Planner(Protocol):
    """Value iteration and its relatives: what a run, a picture or a test asks of them."""

    sweeps: int
    """k, how often `sweep` was called."""

    @property
    def finished(self) -> bool:
        """Whether the horizon is reached, or the values are as exact as was asked for."""
        ...

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V_k."""
        ...

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """pi_k, the best action in each state when k steps are left."""
        ...

    def action_values(self) -> Float[Tensor, "S A"]:
        """Q_k, what pi_k is the argmax of."""
        ...

    def sweep(self) -> float:
        """One more; the largest change of a value."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that continues the planning to the same bits."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


def arrays_of(world: FiniteMDP | GridWorld) -> FiniteMDP:
    """The arrays of any finite world."""
    return world.mdp if isinstance(world, GridWorld) else world


class Convergence:
    """How near the limit the values are, judged by how much the sweeps changed them."""

    def __init__(self, discount: float, tolerance: float, precision: str) -> None:
        """tolerance: how far the values may be from their limit."""
        self._reach = discount / (1.0 - discount) if discount < 1.0 else 1.0
        self._tolerance, self._epsilon = tolerance, torch.finfo(PRECISION[precision]).eps
        self.change, self.total = math.inf, 0.0

    def note(self, change: float) -> None:
        """change: the largest of the newest sweep."""
        self.change, self.total = change, self.total + change

    @property
    def reached(self) -> bool:
        """Whether the values lie within the tolerance, or as near as rounding permits.

        |V_k - V*| <= gamma / (1 - gamma) |V_k - V_(k-1)| (Puterman 1994, theorem 6.3.1 d). At discount 1 no such bound exists, and the
        change itself must fall below the tolerance. No value is larger than the sum of all changes, which rounding is relative to.
        """
        return self._reach * self.change <= self._tolerance or self.change <= 2.0 * self._epsilon * self.total

    def state(self) -> dict[str, float]:
        """The newest change and the sum of all."""
        return {"change": self.change, "total": self.total}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.change, self.total = float(state["change"]), float(state["total"])


def check(discount: float, tolerance: float, horizon: int | None = None) -> None:
    """Raises GameError for settings of a planner that make no sense."""
    if not 0.0 <= discount <= 1.0 or not tolerance >= 0.0:
        raise GameError(f"discount={discount} and tolerance={tolerance} were given; planning needs 0 <= discount <= 1 and tolerance >= 0")
    if horizon is not None and horizon < 1:
        raise GameError(f"horizon={horizon} was given; at least one step is needed, or None for no end")


class ArraySweeps:
    """Of any finite world: one sparse product, one addition and one maximum a sweep."""

    def __init__(self, mdp: FiniteMDP, discount: float, precision: str, temperature: float = 0.0) -> None:
        """temperature: the maximum becomes the soft one of `soft_value`; 0: the hard one."""
        dtype = PRECISION[precision]
        self.temperature = temperature
        self.reward, self.discounted = mdp.expected_reward(dtype), mdp.transition(dtype) * discount
        self._value, self._previous = torch.zeros(2, mdp.states, dtype=dtype).unbind()
        self._ahead = torch.empty(mdp.states * mdp.actions, dtype=dtype)

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V_k, a copy."""
        return self._value.clone()

    def action_values(self) -> Float[Tensor, "S A"]:
        """Q_k, from V_(k-1)."""
        return action_values(self.reward, self.discounted, self._previous, 1.0)

    def sweep(self) -> float:
        """V_k = max_a Q_k; the largest change."""
        q = action_values(self.reward, self.discounted, self._value, 1.0, self._ahead)
        if self.temperature:
            self._previous = soft_value(q, self.temperature)
        else:
            best_value(q, self._previous)
        self._value, self._previous = self._previous, self._value
        # Q_k has been used: its memory takes the differences.
        fall, rise = torch.aminmax(torch.sub(self._value, self._previous, out=self._ahead[: len(self._value)]))
        return max(-float(fall), float(rise))

    def state(self) -> dict[str, Tensor]:
        """Both arrays of values."""
        return {"value": self._value, "previous": self._previous}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._value.copy_(state["value"])
        self._previous.copy_(state["previous"])


class GridSweeps:
    """Of a map: the values of the four neighbors are the map shifted, and nothing but the values is read."""

    def __init__(self, grid: GridWorld, discount: float, precision: str, compiled: bool = False) -> None:
        """compiled: one kernel for the whole sweep, made at the first one by a C++ compiler."""
        dtype = PRECISION[precision]
        self.grid, self.discount = grid, discount
        self._value = grid.field(torch.zeros(grid.states, dtype=dtype))
        self._previous = self._value.clone()
        self._payoff = grid.payoff.to(dtype)
        # Numbers, for a compiled sweep that loads booleans takes 1.7 times as long.
        self._free = (~(grid.wall | grid.exit)).to(dtype)
        self._begun = False
        self._step: Callable[..., Tensor] = torch.compile(_sweep, fullgraph=True, dynamic=False) if compiled else _sweep
        rows, columns = grid.wall.shape
        self._band = rows if compiled else max(1, BAND // columns)

    def _on_states(self, cells: Tensor) -> Tensor:
        return cells.flatten(-2)[..., self.grid.place]

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V_k, a copy."""
        return self._on_states(self._value[1:-1, 1:-1])

    def action_values(self) -> Float[Tensor, "S 4"]:
        """Q_k, from V_(k-1)."""
        q = grid_action_values(self._previous, self.grid.slip, self.grid.step_reward, self.discount)
        return self._on_states(torch.where(self.grid.exit, self._payoff, q)).T

    def sweep(self) -> float:
        """V_k = max_a Q_k; the largest change."""
        grid, old, new, rows = self.grid, self._value, self._previous, len(self.grid.wall)
        change = 0.0
        for low in range(0, rows, self._band):
            high = min(low + self._band, rows)
            part = slice(low, high + 2)
            largest = self._step(old[part], new[part], self._free[low:high], grid.slip, grid.step_reward, self.discount)
            change = max(change, float(largest))
        if not self._begun:
            # An exit is worth nothing while no step is left, and its payoff from one step on, which every later sweep keeps.
            new[1:-1, 1:-1][grid.exit] = self._payoff[grid.exit]
            change = max([change, *self._payoff[grid.exit].abs().tolist()])
        self._begun = True
        self._value, self._previous = new, old
        return change

    def state(self) -> dict[str, Any]:
        """Both arrays of values, and whether they are more than zeros."""
        return {"value": self._value, "previous": self._previous, "begun": self._begun}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._value.copy_(state["value"])
        self._previous.copy_(state["previous"])
        self._begun = bool(state["begun"])


def _sweep(
    old: Float[Tensor, "M N"], new: Float[Tensor, "M N"], free: Float[Tensor, "M-2 N-2"], slip: float, step_reward: float, discount: float
) -> Float[Tensor, ""]:
    """Back up a band of rows into `new`, walls and exits (where `free` is 0) as they were; the largest change."""
    here, moves = old[1:-1, 1:-1], free > 0.0
    backed_up = grid_backup(old, slip, step_reward, discount)
    new[1:-1, 1:-1].copy_(torch.where(moves, backed_up, here))
    return torch.where(moves, (backed_up - here).abs(), 0.0).amax()
