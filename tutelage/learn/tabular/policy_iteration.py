"""Policy iteration: evaluate the policy, then act greedily on what it is worth, until nothing changes.

V = V^(pi_i);   pi_(i+1)(s) = argmax_a sum_s' P(s'|s, a) (R(s, a, s') + gamma V(s')).
Howard 1960; Sutton & Barto 2018, section 4.3. Each policy is at least as good as the last, and there are finitely many: it ends, after
a handful of evaluations where value iteration takes hundreds of sweeps.

Where we depart from the books
- The first policy is uniformly random, not arbitrary: from everywhere it reaches what can be reached, so that it has a value at
  discount 1 wherever some policy has.
- An action is given up only for one that is better by more than rounding: equal ones would be exchanged for ever.
Left out: a horizon (`value_iteration.py` has one).
Landscape: model-based, planning; discrete actions; scale: tabular
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from tutelage.equations.dynamic_programming import action_values, greedy_policy, policy_backup, policy_value
from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import GridWorld
from tutelage.learn.tabular.policy_evaluation import check_solvable, uniform_policy
from tutelage.learn.tabular.sweeps import PRECISION, Convergence, arrays_of, check


@dataclass(frozen=True)
class Config:
    """Settings of policy iteration."""

    evaluation: Literal["solve", "sweeps"] = "solve"
    """How a policy is evaluated: by a linear solve (Howard), or by sweeps until `tolerance` (the lecture)."""
    discount: float = 0.9
    """Of the next state's value (the lecture's noisy grid: 0.9)."""
    tolerance: float = 1e-10
    """How far an evaluation by sweeps may be from the policy's value."""
    precision: Literal["float32", "float64"] = "float64"
    """Of the values."""


def improved(q: Float[Tensor, "S A"], policy: Int64[Tensor, "S"] | None) -> Int64[Tensor, "S"]:
    """The greedy policy, which keeps the old action of a state where no other is better by more than rounding (None: no old one)."""
    best = greedy_policy(q)
    if policy is None:
        return best
    old, new = q.gather(1, policy[:, None])[:, 0], q.gather(1, best[:, None])[:, 0]
    scale = q[torch.isfinite(q)].abs().amax().clamp(min=1.0)
    return torch.where(new - old > 1e3 * torch.finfo(q.dtype).eps * scale, best, policy)


class PolicyIteration:
    """Holds pi_i and what pi_(i-1) is worth; `sweep` evaluates pi_i and improves it."""

    def __init__(self, config: Config, world: FiniteMDP | GridWorld) -> None:
        """Raises GameError for settings that make no sense, and for more states than a solve takes."""
        check(config.discount, config.tolerance)
        self.config, self.world, self.sweeps = config, world, 0
        self._mdp, dtype = arrays_of(world), PRECISION[config.precision]
        if config.evaluation == "solve":
            check_solvable(self._mdp)
        self.reward, self.transition = self._mdp.expected_reward(dtype), self._mdp.transition(dtype)
        self._value = torch.zeros(self._mdp.states, dtype=dtype)
        self._policy: Tensor | None = None
        """None: uniformly random."""
        self._stable = False

    @property
    def finished(self) -> bool:
        """Whether the last improvement changed nothing: the policy is optimal."""
        return self._stable

    @property
    def value(self) -> Float[Tensor, "S"]:
        """What the last policy that was evaluated is worth."""
        return self._value.clone()

    @property
    def policy(self) -> Int64[Tensor, "S"]:
        """The newest policy; of the random one its greedy guess."""
        return greedy_policy(self.action_values()) if self._policy is None else self._policy.clone()

    def action_values(self) -> Float[Tensor, "S A"]:
        """One step ahead of the value."""
        return action_values(self.reward, self.transition, self._value, self.config.discount)

    def sweep(self) -> float:
        """Evaluate and improve; the largest change of a value. Raises ValueError where a policy plays on for ever at discount 1."""
        if self._policy is None:
            table = uniform_policy(self._mdp, self.reward.dtype)
        else:
            table = one_hot(self._policy, self._mdp.actions).to(self.reward.dtype)
        old, self._value = self._value, self._evaluate(table)
        policy = improved(self.action_values(), self._policy)
        self._stable = self._policy is not None and torch.equal(policy, self._policy)
        self._policy, self.sweeps = policy, self.sweeps + 1
        return float((self._value - old).abs().amax())

    def _evaluate(self, table: Float[Tensor, "S A"]) -> Float[Tensor, "S"]:
        if self.config.evaluation == "solve":
            return policy_value(self.reward, self.transition, table, self.config.discount)
        value, convergence = self._value, Convergence(self.config.discount, self.config.tolerance, self.config.precision)
        while not convergence.reached:
            new = policy_backup(action_values(self.reward, self.transition, value, self.config.discount), table)
            convergence.note(float((new - value).abs().amax()))
            value = new
        return value

    def state(self) -> dict[str, Any]:
        """Value, policy, and how many evaluations made them."""
        return {"sweeps": self.sweeps, "stable": self._stable, "value": self._value, "policy": self._policy}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sweeps, self._stable = int(state["sweeps"]), bool(state["stable"])
        self._value = state["value"].clone()
        self._policy = None if state["policy"] is None else state["policy"].clone()
