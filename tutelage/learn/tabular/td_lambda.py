"""TD(0) and TD(lambda): learn what a policy is worth from each step, with a trace of the states that led to it.

Sutton 1988 (Machine Learning 3:9): V(s) moves towards r + gamma V(s') for the state just left, and by what the trace remembers of them
for those before it. The policy is given and stays: this is policy evaluation without the arrays.
lambda = 0 is TD(0), bootstrapping alone; lambda = 1 is Monte Carlo that does not wait for the end.

Where we depart from the paper
- A time limit is not a terminal state: the true successor's value is bootstrapped before the trace is cut.
- The trace may also replace in place of accumulate (Singh & Sutton 1996), as one field.
- R seeds and B copies learn at once, each copy with its own trace; with rates that fall, an entry's count is of its own visits.
Left out: true online TD(lambda), control (`sarsa.py`, `q_learning.py`).
Landscape: model-free, on-policy, online; discrete actions; scale: tabular
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Generator, Tensor

from tutelage.equations.bellman import q_target
from tutelage.experience.latest import Latest
from tutelage.games.spec import GameError, Space
from tutelage.learn.learner import Progress
from tutelage.learn.tabular.table import draw, generators_state, load_generators, sizes, states_of, uniform_legal


@dataclass(frozen=True)
class Config:
    """Settings of TD(lambda)."""

    trace_lambda: float = 0.0
    """How much of an error reaches the state before, and so on back; 0: none, TD(0)."""
    replacing: bool = False
    """A state that is visited again has trace 1, not one more (Singh & Sutton 1996)."""
    discount: float = 0.9
    """Of the next state's value (the lecture's grid: 0.9)."""
    learning_rate: float = 1.0
    """Of a state's first visit; with rate_power 0, of all."""
    rate_power: float = 0.77
    """After n visits a state moves by learning_rate / n^rate_power of its trace times the error (0: constant, as in the paper)."""


def td_error(
    value: Float64[Tensor, "R B"],
    next_value: Float64[Tensor, "R B"],
    reward: Float64[Tensor, "R B"],
    terminated: Bool[Tensor, "R B"],
    discount: float,
) -> Float64[Tensor, "R B"]:
    """delta = r + gamma V(s') - V(s),   V(s') = 0 after a termination (Sutton & Barto 2018, eq. 6.5)."""
    return q_target(reward, next_value, terminated, discount) - value


def decay_traces(
    trace: Float64[Tensor, "R B S"], state: Int64[Tensor, "R B"], starts: Bool[Tensor, "R B"], decay: float, replacing: bool
) -> Float64[Tensor, "R B S"]:
    """z(s) <- gamma lambda z(s), then + 1 (or = 1) for the state visited; zero before an episode's first (S. & B. 2018, eq. 12.5)."""
    visited = torch.nn.functional.one_hot(state, trace.shape[-1]).double()
    faded = torch.where(starts[..., None], 0.0, decay * trace)
    return torch.where(visited > 0.0, 1.0, faded) if replacing else faded + visited


class TDLambda:
    """R stacked tables of state values, the traces of B copies, and the policy that they follow."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
        policy: Float[Tensor, "S A"] | None = None,
    ) -> None:
        """policy: pi(a|s); None: every legal action equally often. Raises GameError unless states and actions are integers."""
        states, actions = sizes("TD(lambda)", observation_space, action_space)
        if not 0.0 <= config.trace_lambda <= 1.0 or not 0.0 < config.learning_rate <= 1.0 or not 0.0 <= config.rate_power <= 1.0:
            raise GameError(f"{config} was given; trace_lambda and rate_power lie in [0, 1] and learning_rate in (0, 1]")
        self.config, self.generators, self.actions = config, list(generators), actions
        self.policy = None if policy is None else policy.double()
        self.values = torch.zeros(len(self.generators), states, dtype=torch.float64)
        """[R, S]."""
        self.counts = torch.zeros_like(self.values)
        """[R, S], visits."""
        self._trace: Tensor | None = None
        """[R, B, S]. None: before the first step."""
        self._starts: Tensor | None = None
        """[R, B], whether the step that is under way is an episode's first."""

    def experience(self, steps: int, copies: int) -> Latest:
        """The newest step is all it learns from."""
        return Latest()

    def _probabilities(self, observation: Tensor, legal: Tensor | None) -> Float64[Tensor, "R B A"]:
        if self.policy is not None:
            return self.policy[states_of(observation)]
        return uniform_legal((*observation.shape[:2], self.actions), legal)

    def behave(
        self, observation: Shaped[Tensor, "R B S"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B A"] | None, progress: Progress
    ) -> Float[Tensor, "R B 1"]:
        """The policy's."""
        self._starts = starts
        return self.act(observation, False, legal)

    def act(
        self,
        observation: Shaped[Tensor, "R B S"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B A"] | None = None,
        carry: None = None,
    ) -> Float[Tensor, "R B 1"]:
        """The policy's; deterministic: its likeliest action, the first of equals."""
        policy = self._probabilities(observation, legal)
        action = policy.argmax(-1) if deterministic else draw(policy, self.generators)
        return action[..., None].float()

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def update(self, experience: Latest, progress: Progress) -> dict[str, Tensor]:
        """Learn from the newest step of every copy; metrics `[R]`."""
        step, config = experience.transition, self.config
        state, after = states_of(step.observation), states_of(step.successor)
        value = self.values.gather(1, state)
        error = td_error(value, self.values.gather(1, after), experience.reward.double(), step.terminated, config.discount)
        if self._trace is None or self._starts is None:
            self._trace, self._starts = self.values.new_zeros(*state.shape, self.values.shape[1]), torch.ones_like(step.boundary)
        trace = decay_traces(self._trace, state, self._starts, config.discount * config.trace_lambda, config.replacing)
        self._trace = torch.where(step.mask[..., None], trace, self._trace)
        visits = torch.zeros_like(self.counts).scatter_add_(1, state, step.mask.double())
        self.counts += visits
        rate = config.learning_rate * self.counts.clamp(min=1.0) ** -config.rate_power
        # Copies in one state: as many moves as visits, but never beyond the mean of what they aim at.
        rate = torch.minimum(rate, 1.0 / visits.clamp(min=1.0))
        self.values += rate * torch.einsum("rb,rbs->rs", error * step.mask, self._trace)
        return {"error": error.abs().mean(-1).float(), "value": value.mean(-1).float()}

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have values that are no longer finite: traces with large constant rates can diverge."""
        return {"table": ~torch.isfinite(self.values).all(1)}

    def state(self) -> dict[str, Any]:
        """Values, counts, traces and generators."""
        held = {"values": self.values, "counts": self.counts, "trace": self._trace, "starts": self._starts}
        return held | {"generators": generators_state(self.generators)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.values.copy_(state["values"])
        self.counts.copy_(state["counts"])
        self._trace, self._starts = (None if state[name] is None else state[name].clone() for name in ("trace", "starts"))
        load_generators(self.generators, state["generators"])
