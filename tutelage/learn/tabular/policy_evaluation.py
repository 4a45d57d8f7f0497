"""Policy evaluation: what a policy is worth, by sweeps or by one linear solve.

V_(i+1)(s) = sum_a pi(a|s) sum_s' P(s'|s, a) (R(s, a, s') + gamma V_i(s')),   whose limit is V^pi = (I - gamma P_pi)^-1 r_pi.
Sutton & Barto 2018, section 4.1; Puterman 1994, theorem 6.1.1. V_i is also exact itself: the value of playing pi for i steps.

Where we depart from the books
- The policy is any table of probabilities; none given means every action of a state equally often.
- The solve is dense: cubic in the states, exact to rounding. More states than MOST_SOLVED are left to the sweeps.
Left out: in-place sweeps.
Landscape: model-based, planning; discrete actions; scale: tabular
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.equations.dynamic_programming import action_values, greedy_policy, policy_backup, policy_value
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.games.spec import GameError
from tutelage.learn.tabular.sweeps import PRECISION, Convergence, arrays_of, check

MOST_SOLVED = 10_000
"""States whose values one dense solve gives; as many take 0.8 GB in float64."""


@dataclass(frozen=True)
class Config:
    """Settings of policy evaluation."""

    method: Literal["sweeps", "solve"] = "sweeps"
    """sweeps: V_i for every i, until `tolerance`; solve: the limit in one step."""
    discount: float = 0.9
    """Of the next state's value (the lecture's noisy grid: 0.9)."""
    horizon: int | None = None
    """How many steps are left at the start. None: no end. A solve knows no horizon."""
    tolerance: float = 1e-10
    """How far the last V_i may be from V^pi where there is no horizon."""
    precision: Literal["float32", "float64"] = "float64"
    """Of the values."""


def uniform_policy(mdp: FiniteMDP, dtype: torch.dtype = torch.float64) -> Float[Tensor, "S A"]:
    """Every action that a state has, equally often."""
    if mdp.legal is None:
        return torch.full((mdp.states, mdp.actions), 1.0 / mdp.actions, dtype=dtype)
    return mdp.legal.to(dtype) / mdp.legal.sum(1, keepdim=True)


def check_solvable(mdp: FiniteMDP) -> None:
    """Raises GameError where a dense solve would not fit."""
    if mdp.states > MOST_SOLVED:
        raise GameError(f"{mdp.name} has {mdp.states} states, and a linear solve takes at most {MOST_SOLVED}; sweeps take any number")


class PolicyEvaluation:
    """Holds the policy and V_i; `sweep` makes it V_(i+1), or V^pi."""

    def __init__(self, config: Config, world: FiniteMDP | GridWorld, policy: Float[Tensor, "S A"] | None = None) -> None:
        """policy: pi(a|s); None: uniform. Raises GameError for a table that is no policy of this world."""
        check(config.discount, config.tolerance, config.horizon)
        self.config, self.world, self.sweeps = config, world, 0
        mdp, dtype = arrays_of(world), PRECISION[config.precision]
        if config.method == "solve":
            check_solvable(mdp)
        self.reward, self.transition = mdp.expected_reward(dtype), mdp.transition(dtype)
        self.evaluated = uniform_policy(mdp, dtype) if policy is None else policy.to(dtype)
        """The policy that is evaluated."""
        sums = self.evaluated.sum(1)
        missing = (self.evaluated > 0.0) & ~torch.isfinite(self.reward)
        if self.evaluated.shape != self.reward.shape or bool((self.evaluated < 0.0).any()) or bool(((sums - 1.0).abs() > 1e-5).any()):
            raise GameError(f"{mdp.name}: a policy needs {tuple(self.reward.shape)} probabilities, those of each state summing to 1")
        if bool(missing.any()):
            raise GameError(f"{mdp.name}: the policy takes an action that state {int(missing.any(1).long().argmax())} does not have")
        self._value = torch.zeros(mdp.states, dtype=dtype)
        self._convergence = Convergence(config.discount, config.tolerance, config.precision)

    @property
    def finished(self) -> bool:
        """Whether the horizon is reached, V_i is within `tolerance` of V^pi, or the system is solved."""
        if self.config.method == "solve":
            return self.sweeps > 0
        return self._convergence.reached if self.config.horizon is None else self.sweeps >= self.config.horizon

    @property
    def value(self) -> Float[Tensor, "S"]:
        """V_i."""
        return self._value.clone()

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """The greedy improvement of the policy, as far as V_i knows."""
        return greedy_policy(self.action_values())

    def action_values(self) -> Float[Tensor, "S A"]:
        """One step ahead of V_i: Q^pi in the limit."""
        return action_values(self.reward, self.transition, self._value, self.config.discount)

    def sweep(self) -> float:
        """V_(i+1), or V^pi; the largest change. Raises ValueError for a policy that can play on for ever at discount 1, when solving."""
        if self.config.method == "solve":
            new = policy_value(self.reward, self.transition, self.evaluated, self.config.discount)
        else:
            new = policy_backup(self.action_values(), self.evaluated)
        self._convergence.note(float((new - self._value).abs().amax()))
        self._value, self.sweeps = new, self.sweeps + 1
        return self._convergence.change

    def state(self) -> dict[str, Any]:
        """The policy, V_i and how many sweeps made it."""
        return {"sweeps": self.sweeps, "convergence": self._convergence.state(), "value": self._value, "evaluated": self.evaluated}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sweeps = int(state["sweeps"])
        self._convergence.load(state["convergence"])
        self._value, self.evaluated = state["value"].clone(), state["evaluated"].clone()
