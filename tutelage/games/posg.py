"""Partially observable stochastic games: finite ones as arrays, and played as a Game.

A POSG given as a program instead of arrays is any Game with players.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Generator, Tensor

from tutelage.games.spec import CannotSnapshot, Discrete, Game, GameError, Group, Nested, Players, Snapshot, Space, Step
from tutelage.games.streams import pick, stream_keys, thresholds, uniforms


@dataclass(frozen=True)
class POSG:
    """(S, N, {A^i}, {Omega^i}, {R^i}, P, {O^i}, rho_0, gamma), and what is observed first, about which the nine say nothing.

    Has no end of its own: an end is a state that is never left and pays nothing (`final`). Straka, NPFL139 lecture 14 (2025).
    """

    transition: Float64[Tensor, "S *A S"]
    """P(s'|s, a^1, ..., a^N)."""
    reward: Float64[Tensor, "N S *A S"]
    """R^i(s, a^1, ..., a^N, s')."""
    likelihood: tuple[Float64[Tensor, "S _ _"], ...]
    """O^i(w|s', a^i) of each agent, [S, A_i, O_i]: what it observes after its own action a^i, when the state has become s'."""
    first_likelihood: tuple[Float64[Tensor, "S _"], ...]
    """[S, O_i]: what it observes in a first state, after no action."""
    start: Float64[Tensor, "S"]
    """rho_0."""
    discount: float
    name: str = "a POSG"

    def __post_init__(self) -> None:
        """Raises GameError for arrays that are no game."""
        N, S = len(self.likelihood), self.transition.shape[0]
        if N < 1 or self.transition.dim() != N + 2 or 0 in self.transition.shape:
            raise GameError(
                f"{self.name}: transitions of shape {tuple(self.transition.shape)} were given for {N} agents; "
                "[S, A_1, ..., A_N, S] was expected"
            )
        expected = {
            "transition": (self.transition, (S, *self.actions, S)),
            "reward": (self.reward, (N, S, *self.actions, S)),
            "start": (self.start, (S,)),
        }
        for i, table in enumerate(self.likelihood):
            observations = table.shape[-1]
            expected[f"likelihood of agent {i + 1}"] = (table, (S, self.actions[i], observations))
            first = self.first_likelihood[i] if i < len(self.first_likelihood) else torch.zeros(0)
            expected[f"first likelihood of agent {i + 1}"] = (first, (S, observations))
        for what, (table, shape) in expected.items():
            if tuple(table.shape) != shape:
                raise GameError(f"{self.name}: the {what} has shape {tuple(table.shape)}; {shape} was expected")
            if what != "reward":
                check_distribution(table, what, self.name)
        if not bool(torch.isfinite(self.reward).all()):
            raise GameError(f"{self.name}: a reward is NaN or infinite")
        check_discount(self.discount, self.name)

    @property
    def states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def agents(self) -> int:
        """N."""
        return len(self.likelihood)

    @property
    def actions(self) -> tuple[int, ...]:
        """(A_1, ..., A_N)."""
        return tuple(self.transition.shape[1:-1])

    @property
    def observations(self) -> tuple[int, ...]:
        """(O_1, ..., O_N)."""
        return tuple(table.shape[-1] for table in self.likelihood)

    @cached_property
    def final(self) -> Bool[Tensor, "S"]:
        """The states that are never left and pay nothing: the value of each agent there is zero."""
        each = torch.arange(self.states)
        stays = self.transition[each, ..., each].flatten(1) == 1.0
        pays = self.reward[:, each, ..., each].flatten(1) != 0.0  # [S, N prod A]
        return stays.all(1) & ~pays.any(1)


def is_fully_cooperative(game: POSG) -> bool:
    """All agents are always paid the same: R^i(s, a, s') = R^j(s, a, s') for all i, j, wherever P(s'|s, a) > 0.

    This and `is_zero_sum` are the two settings that the lecture defines. "Cooperative" and "competitive" are used of games in between,
    but informally: the definitions given in 2024 were wrong and were withdrawn in 2025, and this library has none.
    """
    apart = game.reward.amax(0) - game.reward.amin(0)
    return not bool(((apart > 1e-9) & (game.transition > 0.0)).any())


def is_zero_sum(game: POSG) -> bool:
    """What one gains the others lose: sum_i R^i(s, a, s') = 0, wherever P(s'|s, a) > 0. See `is_fully_cooperative` for a warning."""
    return not bool(((game.reward.sum(0).abs() > 1e-9) & (game.transition > 0.0)).any())


def random_posg(
    states: int,
    actions: Sequence[int],
    observations: Sequence[int],
    generator: Generator,
    branching: int | None = None,
    ending: float = 0.0,
    discount: float = 0.9,
) -> POSG:
    """Standard normal rewards; uniformly distributed distributions, each step of which leads to `branching` states (None: to any).

    actions, observations: how many each agent has. ending: the probability that a step leads to one more state, which is final.
    Raises GameError for numbers that make no game.
    """
    reached = states if branching is None else branching
    if min(states, reached, *actions, *observations) < 1 or reached > states or len(actions) != len(observations) or not 0 <= ending <= 1:
        raise GameError(
            f"a random POSG was asked for with states={states}, actions={tuple(actions)}, observations={tuple(observations)}, "
            f"branching={branching} and ending={ending}; at least one of each, as many agents, branching <= states and 0 <= ending <= 1 "
            "are needed"
        )
    N, S = len(actions), states + (ending > 0.0)
    chosen = torch.rand(states, *actions, states, generator=generator).argsort(-1) < reached
    transition = torch.zeros(S, *actions, S, dtype=torch.float64)
    transition[:states, ..., :states] = (1.0 - ending) * random_distribution((states, *actions, states), generator, chosen)
    reward = torch.randn(N, S, *actions, S, generator=generator, dtype=torch.float64)
    if ending > 0.0:
        transition[:states, ..., -1] = ending
        transition[-1, ..., -1] = 1.0
        reward[:, -1] = 0.0
    sizes = list(zip(actions, observations, strict=True))
    return POSG(
        transition,
        reward,
        tuple(random_distribution((S, a, o), generator) for a, o in sizes),
        tuple(random_distribution((S, o), generator) for _, o in sizes),
        torch.cat([random_distribution((states,), generator), torch.zeros(S - states, dtype=torch.float64)]),
        discount,
        f"a random POSG of {states} states",
    )


def random_distribution(shape: Sequence[int], generator: Generator, possible: Bool[Tensor, "..."] | None = None) -> Float64[Tensor, "..."]:
    """Distributions along the last axis, uniform among all distributions over the `possible` entries (None: over all)."""
    weights = -torch.log1p(-torch.rand(*shape, generator=generator, dtype=torch.float64)) + 1e-12  # exponentially distributed, not zero
    weights = weights if possible is None else torch.where(possible, weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def check_distribution(table: Tensor, what: str, name: str) -> None:
    """Raises GameError where entries along the last axis are negative, NaN or do not sum to 1."""
    wrong = ~((table >= 0.0).all(-1) & ((table.sum(-1) - 1.0).abs() <= 1e-9))
    if not bool(wrong.any()):
        return
    place = wrong.nonzero()[0]
    total = float(table[tuple(place)].sum())
    raise GameError(f"{name}: the {what} at {place.numpy()} sums to {total:g}; 1 was expected, of none that is negative")


def check_discount(discount: float, name: str) -> None:
    """Raises GameError where it is not from 0 to 1."""
    if not 0.0 <= discount <= 1.0:
        raise GameError(f"{name}: the discount {discount} was given; a number from 0 to 1 was expected")


def one_team(names: Sequence[str], observation_spaces: Sequence[Space], action_spaces: Sequence[Space]) -> Players:
    """Agents in one team and in groups by equal spaces, in order of the first of each."""
    kinds = list(zip(observation_spaces, action_spaces, strict=True))
    groups = tuple(Group(tuple(i for i, other in enumerate(kinds) if other == kind), *kind) for kind in dict.fromkeys(kinds))
    return Players(tuple(names), groups, (tuple(range(len(kinds))),))


def in_order(players: Players, actions: Nested, copies: int, name: str) -> Int64[Tensor, "B N"]:
    """The discrete actions of all agents, in their order. Raises GameError for what is none of `[B, n]` per group, within its space."""
    groups = players.groups
    if not isinstance(actions, tuple) or len(actions) != len(groups):
        raise GameError(f"{name} was given actions for {len(actions)} groups; a tuple over {len(groups)} groups was expected")
    joint = torch.zeros(copies, len(players.names), dtype=torch.int64)
    for group, own in zip(groups, actions, strict=True):
        shape, space = (copies, len(group.agents)), group.action_space
        if not isinstance(own, Tensor) or own.shape != shape or own.is_floating_point():
            given = f"{own.dtype} of shape {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
            raise GameError(f"{name} was given actions of type {given}; integers of shape {shape} were expected")
        assert isinstance(space, Discrete)
        outside = (own < 0) | (own >= space.n)
        if bool(outside.any()):
            agent = players.names[group.agents[int(outside.nonzero()[0, 1])]]
            raise GameError(f"{name} was given action {int(own[outside][0])} for {agent}, which is outside {space}")
        joint[:, list(group.agents)] = own.long().cpu()
    return joint


class POSGGame(Game):
    """A finite POSG in B copies; each agent takes and sees integers. An episode ends on arrival in a final state.

    Each copy draws from a stream of its own, a pure function of its seed and of how often it drew.
    """

    def __init__(self, posg: POSG, copies: int, max_steps: int | None = None) -> None:
        """max_steps: a time limit, which is a boundary and no termination. Raises GameError for numbers below one."""
        self.posg, self.copies, self.max_steps, self.name = posg, copies, max_steps, posg.name
        if copies < 1 or (max_steps is not None and max_steps < 1):
            raise GameError(f"{self.name} was asked for with copies={copies} and max_steps={max_steps}; at least one of each is needed")
        names = [f"agent_{i + 1}" for i in range(posg.agents)]
        self._who = one_team(names, [Discrete(o) for o in posg.observations], [Discrete(a) for a in posg.actions])
        self.players, self.observation_space, self.action_space = self._who, self._who.observation_space, self._who.action_space
        self._start, self._transition = thresholds(posg.start), thresholds(posg.transition)
        self._likelihood = [thresholds(table) for table in posg.likelihood]
        self._first_likelihood = [thresholds(table) for table in posg.first_likelihood]
        self._state, self._steps, self._key, self._drawn = torch.zeros(4, copies, dtype=torch.int64).unbind()
        self._seeded, self._playing = torch.zeros(2, copies, dtype=torch.bool).unbind()
        self._seen = torch.zeros(copies, posg.agents, dtype=torch.int64)

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError when a copy would start without ever having been seeded."""
        which = torch.ones(self.copies, dtype=torch.bool) if where is None else where.cpu()
        if seed is not None:
            if len(seed) != self.copies:
                raise GameError(f"{self.name} was given {len(seed)} seeds for {self.copies} copies; one per copy is needed")
            self._key = torch.where(which, stream_keys(seed), self._key)
            self._drawn = torch.where(which, 0, self._drawn)
            self._seeded = self._seeded | which
        if not bool(self._seeded.all()):
            copy = int((~self._seeded).long().argmax())
            raise GameError(f"copy {copy} of {self.name} was reset without a seed; the first reset needs one per copy")
        first = torch.searchsorted(self._start, self._draw(which), right=True)
        self._state = torch.where(which, first, self._state)
        seen = [pick(limits[self._state], self._draw(which)) for limits in self._first_likelihood]
        self._seen = torch.where(which[:, None], torch.stack(seen, 1), self._seen)
        self._steps, self._playing = torch.where(which, 0, self._steps), self._playing | which
        return self._observation()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for what is no joint action, and for a copy that awaits its reset."""
        if not bool(self._playing.all()):
            copy = int((~self._playing).long().argmax())
            raise GameError(f"copy {copy} of {self.name} was stepped outside an episode; reset it first")
        joint = in_order(self._who, actions, self.copies, self.name).unbind(1)
        everyone = torch.ones_like(self._playing)
        before = self._state
        self._state = pick(self._transition[(before, *joint)], self._draw(everyone))
        reward = self.posg.reward[(slice(None), before, *joint, self._state)].T
        seen = [pick(limits[self._state, own], self._draw(everyone)) for limits, own in zip(self._likelihood, joint, strict=True)]
        self._seen, self._steps = torch.stack(seen, 1), self._steps + 1
        ended = self.posg.final[self._state]
        boundary = ended if self.max_steps is None else ended | (self._steps >= self.max_steps)
        self._playing = ~boundary
        terminated = ended[:, None].expand_as(reward)
        return Step(self._observation(), reward.float(), terminated.clone(), boundary, torch.ones_like(terminated))

    def _observation(self) -> tuple[Int64[Tensor, "B _"], ...]:
        return tuple(self._seen[:, list(group.agents)] for group in self._who.groups)

    def _draw(self, which: Bool[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """A number in [0, 1) for every copy; the streams of those that `which` marks move on."""
        draws = uniforms(self._key, self._drawn)
        self._drawn = self._drawn + which.long()
        return draws

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot; plain numbers."""
        if not bool(self._seeded[copy]):
            raise GameError(f"copy {copy} of {self.name} has no state yet; reset it first")
        held = {name: int(tensor[copy]) for name, tensor in self._numbers().items()}
        return {"game": self.name, "playing": bool(self._playing[copy]), "seen": [int(seen) for seen in self._seen[copy]], **held}

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        for name, tensor in self._numbers().items():
            tensor[copy] = int(snapshot[name])
        self._seen[copy] = torch.tensor(snapshot["seen"])
        self._playing[copy], self._seeded[copy] = bool(snapshot["playing"]), True
        return tuple(seen[copy] for seen in self._observation())

    def _numbers(self) -> dict[str, Tensor]:
        return {"state": self._state, "steps": self._steps, "key": self._key, "drawn": self._drawn}
