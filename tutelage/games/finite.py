"""Finite worlds as arrays: MDPs with sparse transitions, POMDPs over them, random ones, and the array form of a small game.

What an action in a state can lead to is a list of outcomes: a next state, its probability, its reward, and whether the episode ends
there. The lists of all pairs lie one after the other, action-major: those of action a in state s are number a S + s, as the rows of
`equations.dynamic_programming` are. A pair without outcomes is an action that the state does not have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Generator, Tensor

from tutelage.equations.dynamic_programming import sparse_matrix
from tutelage.games.nested import leaves
from tutelage.games.spec import Discrete, Game, GameError, Nested, Snapshot

Outcome = tuple[float, int, float, bool]
"""Probability, next state, reward, terminated: as Gymnasium's tables have it."""


@dataclass(frozen=True)
class Layout:
    """Where the states lie on a map. Only pictures look at it."""

    rows: int
    columns: int
    place: Int64[Tensor, "S"]
    """row * columns + column of each state; a place without a state is a wall."""
    moves: tuple[tuple[int, int], ...]
    """(rows down, columns to the right) that each action aims at."""


@dataclass(frozen=True)
class FiniteMDP:
    """S states, A actions, E outcomes. A million states with four actions of three outcomes each take 0.3 GB."""

    states: int
    actions: int
    edges: Int64[Tensor, "AS_and_1"]
    """The outcomes of pair a S + s are number edges[a S + s] to edges[a S + s + 1] - 1."""
    next_state: Int32[Tensor, "E"]
    """Where an outcome leads; also the state that is seen when the episode ends there."""
    probability: Float64[Tensor, "E"]
    reward: Float64[Tensor, "E"]
    terminated: Bool[Tensor, "E"]
    """The episode ends with this outcome: no value follows, whatever the next state is worth."""
    start: Float64[Tensor, "S"]
    """The probability of each state to be the first."""
    layout: Layout | None = None
    name: str = "a finite world"

    def __post_init__(self) -> None:
        """Raises GameError for arrays that are no world."""
        pairs, count = self.states * self.actions, len(self.next_state)
        if self.states < 1 or self.actions < 1:
            raise GameError(f"{self.name} has {self.states} states and {self.actions} actions; at least one of each is needed")
        ordered = len(self.edges) == pairs + 1 and self.edges[0] == 0 and self.edges[-1] == count and bool((self.edges.diff() >= 0).all())
        if not ordered or any(len(x) != count for x in (self.probability, self.reward, self.terminated)):
            raise GameError(
                f"{self.name}: edges must rise from 0 to the {count} outcomes in {pairs} steps, one for each action in each state"
            )
        if count and not 0 <= int(self.next_state.min()) <= int(self.next_state.max()) < self.states:
            raise GameError(f"{self.name}: a next state lies outside 0 to {self.states - 1}")
        if not bool(torch.isfinite(self.reward).all()):
            raise GameError(f"{self.name}: a reward is NaN or infinite")
        total = torch.zeros(pairs, dtype=torch.float64).index_add_(0, self._pair, self.probability)
        wrong = ((total - 1.0).abs() > 1e-9) & (self.edges.diff() > 0)
        if bool(wrong.any()) or not bool((self.probability >= 0.0).all()):
            pair = int(wrong.long().argmax())
            action, state = divmod(pair, self.states)
            raise GameError(
                f"{self.name}: the probabilities of action {action} in state {state} sum to {float(total[pair]):g}; "
                "1 was expected, of none that is negative"
            )
        if len(self.start) != self.states or not abs(float(self.start.sum()) - 1.0) <= 1e-9 or bool((self.start < 0.0).any()):
            raise GameError(f"{self.name}: the start distribution needs {self.states} probabilities that sum to 1")
        stuck = ~(self.edges.diff() > 0).view(self.actions, self.states).any(0)
        if bool(stuck.any()):
            raise GameError(f"{self.name}: state {int(stuck.long().argmax())} has no action at all")

    @property
    def _pair(self) -> Int64[Tensor, "E"]:
        return torch.repeat_interleave(torch.arange(self.states * self.actions), self.edges.diff())

    @cached_property
    def legal(self) -> Bool[Tensor, "S A"] | None:
        """Which actions each state has. None: all."""
        legal = (self.edges.diff() > 0).view(self.actions, self.states).T
        return None if bool(legal.all()) else legal.contiguous()

    @cached_property
    def final(self) -> Bool[Tensor, "S"]:
        """The states in which every action ends the episode."""
        going_on = torch.zeros(self.states, dtype=torch.bool)
        going_on[self._pair[~self.terminated & (self.probability > 0.0)] % self.states] = True
        return ~going_on

    def expected_reward(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "S A"]:
        """r(s, a) = E[R(s, a, s')], -inf where the state has no such action; stored action-major."""
        total = torch.zeros(self.states * self.actions, dtype=torch.float64).index_add_(0, self._pair, self.probability * self.reward)
        total[self.edges.diff() == 0] = -torch.inf
        return total.to(dtype).view(self.actions, self.states).T

    def transition(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "AS S"]:
        """P(s'|s, a) for going on, sparse: a row lacks the probability that the episode ends."""
        going_on = ~self.terminated
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), going_on.cumsum(0)])[self.edges]
        return sparse_matrix(kept, self.next_state[going_on], self.probability[going_on].to(dtype), self.states)


def mdp_from_outcomes(
    states: int,
    actions: int,
    outcomes: Callable[[int, int], Sequence[Outcome]],
    start: Float64[Tensor, "S"],
    layout: Layout | None = None,
    name: str = "a finite world",
) -> FiniteMDP:
    """A small world from a function (state, action) -> [(probability, next state, reward, terminated), ...]; no outcome: no such action.

    Raises GameError for what is no world.
    """
    lists = [outcomes(s, a) for a in range(actions) for s in range(states)]
    edges = torch.tensor([0, *(len(own) for own in lists)]).cumsum(0)
    rows = [outcome for own in lists for outcome in own]
    probability, following, reward, terminated = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    return FiniteMDP(
        states,
        actions,
        edges,
        torch.tensor(following, dtype=torch.int32),
        torch.tensor(probability, dtype=torch.float64),
        torch.tensor(reward, dtype=torch.float64),
        torch.tensor(terminated, dtype=torch.bool),
        start,
        layout,
        name,
    )


def mdp_from_dense(
    transition: Float[Tensor, "S A S"],
    reward: Float[Tensor, "S A S"],
    start: Float[Tensor, "S"],
    final: Bool[Tensor, "S"] | None = None,
    name: str = "a finite world",
) -> FiniteMDP:
    """A world from P(s'|s, a) and R(s, a, s'); the episode ends on arrival at a `final` state. A row of zeros: no such action.

    Raises GameError for what is no world.
    """
    S, A = transition.shape[:2]
    ends = torch.zeros(S, dtype=torch.bool) if final is None else final
    # What is done after an end is never seen; but every state has actions, and those of a final one end at once and pay nothing.
    resting = torch.eye(S, dtype=torch.float64)[:, None].expand(S, A, S)
    probability = torch.where(ends[:, None, None], resting, transition.double()).permute(1, 0, 2)
    paid = torch.where(ends[:, None, None], 0.0, reward.double()).permute(1, 0, 2)
    kept = probability != 0.0
    edges = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(2).flatten().cumsum(0)])
    following = kept.nonzero()[:, 2]
    return FiniteMDP(S, A, edges, following.int(), probability[kept], paid[kept], ends[following], start.double(), None, name)


def random_mdp(states: int, actions: int, branching: int, generator: Generator, ending: float = 0.0) -> FiniteMDP:
    """A Garnet: each action leads to `branching` different states, rewards are standard normal, the first state is uniform.

    Archibald, McKinnon & Thomas 1995 (J. Oper. Res. Soc. 46:354): the probabilities are the gaps between uniform cuts. ending: the
    probability that a step is the last, the same everywhere. Raises GameError for numbers that make no world.
    """
    if not 1 <= branching <= states or actions < 1 or not 0.0 <= ending <= 1.0:
        raise GameError(
            f"states={states}, actions={actions}, branching={branching} and ending={ending} were given; a random MDP needs an action, "
            "1 <= branching <= states and 0 <= ending <= 1"
        )
    pairs = actions * states
    chosen = torch.rand(pairs, states, generator=generator).argsort(1)[:, :branching]
    cuts = torch.rand(pairs, branching - 1, generator=generator, dtype=torch.float64).sort(1).values
    gaps = torch.diff(cuts, dim=1, prepend=torch.zeros(pairs, 1).double(), append=torch.ones(pairs, 1).double())
    reward = torch.randn(pairs, 1, generator=generator, dtype=torch.float64)
    # Every outcome may be the last one.
    probability = torch.cat([(1.0 - ending) * gaps, ending * gaps], 1)
    terminated = (torch.arange(2 * branching) >= branching).expand(pairs, -1)
    kept = (terminated & (ending > 0.0)) | (~terminated & torch.tensor(ending < 1.0))
    edges = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    return FiniteMDP(
        states,
        actions,
        edges,
        chosen.repeat(1, 2)[kept].int(),
        probability[kept],
        reward.expand(-1, 2 * branching)[kept],
        terminated[kept],
        torch.full((states,), 1.0 / states, dtype=torch.float64),
        name=f"a random MDP of {states} states",
    )


@dataclass(frozen=True)
class FinitePOMDP:
    """An MDP whose state is not seen: O observations in its place."""

    mdp: FiniteMDP
    likelihood: Float64[Tensor, "A S O"]
    """O(o|a, s'), the probability of an observation after action a has led to s'."""
    first_likelihood: Float64[Tensor, "S O"]
    """The probability of an observation in a first state."""

    def __post_init__(self) -> None:
        """Raises GameError for arrays that are no world."""
        S, A, O = self.mdp.states, self.mdp.actions, self.first_likelihood.shape[-1]
        if self.likelihood.shape != (A, S, O) or len(self.first_likelihood) != S:
            given = f"{tuple(self.likelihood.shape)} and {tuple(self.first_likelihood.shape)}"
            raise GameError(f"{self.mdp.name}: likelihoods of shapes {given} were given; {(A, S, O)} and {(S, O)} were expected")
        for table in (self.likelihood, self.first_likelihood):
            if bool((table < 0.0).any()) or bool(((table.sum(-1) - 1.0).abs() > 1e-9).any()):
                raise GameError(f"{self.mdp.name}: the probabilities of what is observed in a state must sum to 1")


def tabulate(game: Game, max_states: int = 10_000) -> tuple[FiniteMDP, list[Float64[Tensor, "D"]]]:
    """The array form of a small game without chance, in one copy, and the observation of each state (its leaves in one vector).

    Every action is tried in every state that can be reached from the first; two states are the same when they look the same. What is
    reached on two ways is tried twice. Raises GameError where the two attempts differ (the game is random, or shows too little), for
    actions that are not discrete, for several copies and for more than `max_states` states. CannotSnapshot where the game cannot.
    """
    name = type(game).__name__
    if not isinstance(game.action_space, Discrete) or game.copies != 1:
        raise GameError(
            f"{name} has {game.copies} copies and the actions {game.action_space}; arrays need one copy and one discrete action"
        )
    actions = game.action_space.n
    seen = _Seen()
    first = seen.number(game.reset(seed=[0]))
    seen.visits[first].append(game.snapshot(0))
    table: list[list[Outcome | None]] = []
    for s, visits in enumerate(seen.visits):  # which grows meanwhile
        # A state in which an episode ended is left by nothing.
        table.append([_attempt(game, visits[0], a, seen) if visits else (1.0, s, 0.0, True) for a in range(actions)])
        if len(seen.visits) > max_states:
            raise GameError(f"{name} has more than {max_states} states; its arrays would not be small")
    for row, visits in zip(table, seen.visits, strict=True):
        if visits and [_attempt(game, visits[-1], a, seen) for a in range(actions)] != row:
            raise GameError(f"{name} answers differently in states that look the same; arrays need a game without chance")
    start = torch.zeros(len(table), dtype=torch.float64)
    start[first] = 1.0

    def outcomes(state: int, action: int) -> list[Outcome]:
        outcome = table[state][action]
        return [] if outcome is None else [outcome]

    return mdp_from_outcomes(len(table), actions, outcomes, start, name=name), seen.observations


class _Seen:
    """The states met so far, by what they look like, each with the newest two visits to it."""

    def __init__(self) -> None:
        self.observations: list[Tensor] = []
        self.visits: list[list[Snapshot]] = []
        self._index: dict[bytes, int] = {}

    def number(self, observation: Nested) -> int:
        """Of the state that looks so; a new one gets the next."""
        vector = torch.cat([leaf[0].double().flatten() for leaf in leaves(observation)])
        key = vector.numpy().tobytes()
        if key not in self._index:
            self._index[key] = len(self.observations)
            self.observations.append(vector)
            self.visits.append([])
        return self._index[key]


def _attempt(game: Game, snapshot: Snapshot, action: int, seen: _Seen) -> Outcome | None:
    """What one action leads to; None where it is not legal."""
    game.restore(0, snapshot)
    legal = game.legal()
    if legal is not None and not bool(legal[0, action]):
        return None
    step = game.step(torch.tensor([action]))
    if bool(step.boundary[0] & ~step.terminated[0]):
        raise GameError(f"{type(game).__name__} was cut off by its time limit; arrays need a game without one")
    state = seen.number(step.observation)
    if not bool(step.boundary[0]):
        seen.visits[state] = [*seen.visits[state][:1], game.snapshot(0)]
    return 1.0, state, float(step.reward[0]), bool(step.terminated[0])
