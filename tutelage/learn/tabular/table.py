"""A table of values with R seeds, and how one learns in it: what the tabular learners share.

An observation arrives one-hot, and the state is where the one is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Generator, Tensor

from tutelage.equations.bellman import allow
from tutelage.games.spec import Discrete, GameError, Space
from tutelage.nets.noise import uniform


def sizes(name: str, observation_space: Space, action_space: Space) -> tuple[int, int]:
    """S and A. Raises GameError unless both spaces are single integers; name: of the algorithm."""
    if not isinstance(observation_space, Discrete) or not isinstance(action_space, Discrete):
        raise GameError(
            f"{name} needs a table with a row for each state and a column for each action, so both must be one integer; this game's "
            f"observations are {observation_space} and its actions {action_space}"
        )
    return observation_space.n, action_space.n


def states_of(observation: Shaped[Tensor, "R B S"]) -> Int64[Tensor, "R B"]:
    """The states that one-hot observations stand for."""
    return observation.argmax(-1)


def uniform_legal(shape: tuple[int, ...], legal: Bool[Tensor, "R B A"] | None) -> Float64[Tensor, "R B A"]:
    """Every legal action equally likely; shape: (R, B, A). Raises GameError where none is legal."""
    if legal is not None and not bool(legal.any(-1).all()):
        seed, copy = (~legal.any(-1)).nonzero()[0].tolist()
        raise GameError(f"no action is legal in copy {copy} of seed {seed}; a game must leave at least one until it ends")
    weight = torch.ones(shape, dtype=torch.float64) if legal is None else legal.double()
    return weight / weight.sum(-1, keepdim=True)


def epsilon_greedy(q: Float64[Tensor, "R B A"], epsilon: float, legal: Bool[Tensor, "R B A"] | None) -> Float64[Tensor, "R B A"]:
    """pi(a|s): epsilon shared by all legal actions, the rest by the best of them (Sutton & Barto 2018, section 5.4).

    Equally good actions share: a table of zeros is no preference for action 0. Raises GameError where no action is legal.
    """
    uniformly = uniform_legal(tuple(q.shape), legal)
    q = allow(q, legal)
    best = (q == q.amax(-1, keepdim=True)).double()
    return epsilon * uniformly + (1.0 - epsilon) * best / best.sum(-1, keepdim=True)


def draw(policy: Float64[Tensor, "R B A"], generators: Sequence[Generator]) -> Int64[Tensor, "R B"]:
    """One action each, seed r by generators[r]; an action of probability zero never."""
    draws = uniform(generators, policy.shape[1:-1]).double()
    total = policy.cumsum(-1)
    below = (total <= (draws * total[..., -1])[..., None]).sum(-1)
    last = policy.shape[-1] - 1 - (policy > 0.0).flip(-1).long().argmax(-1)  # where rounding would step past the end
    return torch.minimum(below, last)


class Table:
    """Values `[R, S, A]` and how often each was learned; a table of states has A = 1."""

    def __init__(self, members: int, states: int, actions: int, learning_rate: float, rate_power: float) -> None:
        """The n-th sample of an entry moves it by learning_rate / n^rate_power of its error. Raises GameError for rates outside [0, 1]."""
        if not 0.0 < learning_rate <= 1.0 or not 0.0 <= rate_power <= 1.0:
            raise GameError(
                f"learning_rate={learning_rate} and rate_power={rate_power} were given; a table needs 0 < learning_rate <= 1 and "
                "0 <= rate_power <= 1"
            )
        self.values = torch.zeros(members, states, actions, dtype=torch.float64)
        self.counts = torch.zeros_like(self.values)
        self._rate, self._power = learning_rate, rate_power

    def rows(self, state: Int64[Tensor, "R B"]) -> Float64[Tensor, "R B A"]:
        """The entries of states."""
        return self.values[torch.arange(len(state))[:, None], state]

    def greedy(self, observation: Shaped[Tensor, "R B S"], legal: Bool[Tensor, "R B A"] | None) -> Float[Tensor, "R B 1"]:
        """The best legal action of each state as the game takes it, the first of equals."""
        return allow(self.rows(states_of(observation)), legal).argmax(-1, keepdim=True).float()

    def entry(self, seed: Int64[Tensor, "*n"], state: Int64[Tensor, "*n"], action: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
        """Places in the flat table."""
        return (seed * self.values.shape[1] + state) * self.values.shape[2] + action

    def learn(self, entry: Int64[Tensor, "n"], error: Float64[Tensor, "n"]) -> None:
        """Move entries by their errors. Samples of one entry that come at once move it by their mean, as far as all of them would.

        With learning_rate 1 and rate_power 1 an entry is the mean of all its samples, however they were batched.
        """
        touched, place, count = entry.unique(return_inverse=True, return_counts=True)
        mean = torch.zeros(len(touched), dtype=torch.float64).index_add_(0, place, error) / count
        values, counts = self.values.view(-1), self.counts.view(-1)
        counts[touched] += count
        values[touched] += (count * self._rate * counts[touched] ** -self._power).clamp(max=1.0) * mean

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """A table has no weights that could stop: a NaN among rewards is refused before it is learned from."""
        return {"table": torch.zeros(len(self.values), dtype=torch.bool)}

    def state(self) -> dict[str, Tensor]:
        """Values and counts."""
        return {"values": self.values, "counts": self.counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.values.copy_(state["values"])
        self.counts.copy_(state["counts"])


def generators_state(generators: Sequence[Generator]) -> list[Tensor]:
    """What `load_generators` takes."""
    return [generator.get_state() for generator in generators]


def load_generators(generators: Sequence[Generator], states: Sequence[Tensor]) -> None:
    """Continue the streams where they were."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
