"""What a world is: spaces, the Game, and the Step it answers with.

A Game is a partially observable stochastic game with ordered agents, played in B copies at once. A game of one agent takes and
gives plain tensors `[B, ...]`. A game of many (`players` says who they are) takes and gives tuples over groups of agents with
equal spaces, each `[B, agents in the group, ...]`, and pays, ends and masks each of its N agents: `[B, N]`, in the order of the agents.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Nested = Tensor | tuple[Any, ...] | dict[str, Any]
"""One tensor, or a tuple or dict of Nested: the shape of a nested observation or action."""

Snapshot = Mapping[str, Any]
"""A tree of dicts and lists whose leaves are tensors, numpy arrays, numbers, strings, booleans or None."""


@dataclass(frozen=True)
class Box:
    """A box of reals, or an image when `dtype` is "uint8"."""

    shape: tuple[int, ...]
    low: np.ndarray
    """[*shape], may be -inf."""
    high: np.ndarray
    """[*shape], may be +inf."""
    dtype: str = "float32"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Box)
            and (self.shape, self.dtype) == (other.shape, other.dtype)
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype, self.low.tobytes(), self.high.tobytes()))


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n - 1."""

    n: int


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers; entry i is in 0 .. sizes[i] - 1."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class MultiBinary:
    """An array of zeros and ones."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class TupleSpace:
    """One of each, in order."""

    spaces: tuple["Space", ...]


@dataclass(frozen=True)
class DictSpace:
    """One of each, by name (names sorted)."""

    spaces: tuple[tuple[str, "Space"], ...]


Space = Box | Discrete | MultiDiscrete | MultiBinary | TupleSpace | DictSpace


class GameError(ValueError):
    """A game that cannot be made or played as asked; one sentence: what was given, what was expected, where."""


class CannotSnapshot(GameError):
    """This world cannot be put back into an earlier state; the sentence names the world and the reason."""


@dataclass(frozen=True)
class Group:
    """Agents with equal spaces."""

    agents: tuple[int, ...]
    """Who they are, in the order of the game."""
    observation_space: Space
    """Of one of them."""
    action_space: Space
    """Of one of them."""


@dataclass(frozen=True)
class Players:
    """Who plays a game of many agents. Raises GameError where an agent has no group or no team, or two."""

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    teams: tuple[tuple[int, ...], ...]
    """Who learns together: a scheme is applied to each team. The first team is the one by whose returns policies are judged."""

    def __post_init__(self) -> None:
        everyone = list(range(len(self.names)))
        for what, parts in (("group", [group.agents for group in self.groups]), ("team", self.teams)):
            if sorted(agent for part in parts for agent in part) != everyone or not all(parts):
                raise GameError(f"agents {', '.join(self.names)} need one {what} each; the {what}s given are {list(map(tuple, parts))}")

    def score(self, returns: Float[Tensor, "*n N"]) -> Float[Tensor, "*n"]:
        """One number for the returns of all agents: the mean over the first team."""
        return returns[..., list(self.teams[0])].mean(-1)

    @property
    def observation_space(self) -> "TupleSpace":
        """One space per group, as the game gives it: `[n, ...]`."""
        return TupleSpace(tuple(stacked(group.observation_space, len(group.agents)) for group in self.groups))

    @property
    def action_space(self) -> "TupleSpace":
        """One space per group, as the game takes it: `[n, ...]`."""
        return TupleSpace(tuple(stacked(group.action_space, len(group.agents)) for group in self.groups))


def stacked(space: Space, count: int) -> Space:
    """The space of `count` values along a new first axis; a MultiDiscrete's are laid one after the other.

    Raises GameError for several nested values: flattened, they would not lie agent by agent, so that each needs a group of its own.
    """
    if isinstance(space, Box):
        low, high = (np.repeat(bound[None], count, axis=0) for bound in (space.low, space.high))
        return Box((count, *space.shape), low, high, space.dtype)
    if isinstance(space, Discrete):
        return MultiDiscrete((space.n,) * count)
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(space.sizes * count)
    if isinstance(space, MultiBinary):
        return MultiBinary((count, *space.shape))
    if count > 1:
        raise GameError(f"{count} agents share the nested space {space}; agents with nested spaces need a group each")
    if isinstance(space, TupleSpace):
        return TupleSpace(tuple(stacked(child, 1) for child in space.spaces))
    return DictSpace(tuple((name, stacked(child, 1)) for name, child in space.spaces))


@dataclass(frozen=True, slots=True)
class Step:
    """What B copies answer to one joint action. In a game of many, reward, terminated and mask have an axis of agents: `[B, N]`."""

    observation: Nested
    """[B, ...], the true successor, also where the episode ended: games never reset themselves."""
    reward: Float[Tensor, "B *N"]
    terminated: Bool[Tensor, "B *N"]
    """The value after this step is zero. An episode of one agent ends with it; one of many may go on without the agent."""
    boundary: Bool[Tensor, "B"]
    """The episode ends here, by termination or by a time limit."""
    mask: Bool[Tensor, "B *N"]
    """False where no real step was taken: by a vectorised world that spends a step on its reset, by an agent that was dead before."""


class Game(ABC):
    """A world in B copies. Checking for NaN is the business of whoever steps it (the rollout, the evaluation)."""

    players: Players | None = None
    """Who plays. None: one agent."""
    observation_space: Space
    action_space: Space
    copies: int

    @abstractmethod
    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """Start episodes in the copies that `where` marks (None: all) and return the current observations `[B, ...]`.

        seed: one integer per copy, given at the first reset; later resets continue each copy's own generator.
        """

    @abstractmethod
    def step(self, actions: Nested) -> Step:
        """Advance every copy by one joint action `[B, ...]`."""

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """Which discrete actions each copy may take now, in the order of `nested.legal_width`; None: all, always."""
        return None

    def success(self) -> Bool[Tensor, "B"] | None:
        """Whether the task was done after each copy's last step, false after a reset or a restore; None: the world does not say.

        It measures policies and teaches none: no learner reads it.
        """
        return None

    def snapshot(self, copy: int) -> Snapshot:
        """All that is needed to continue this copy bit by bit, its generator included. Raises CannotSnapshot."""
        raise CannotSnapshot(f"{type(self).__name__} cannot be put back into an earlier state")

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """Put one copy back; returns its current observation `[...]`, without the copy axis. Raises CannotSnapshot."""
        raise CannotSnapshot(f"{type(self).__name__} cannot be put back into an earlier state")

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """Draw one copy. Raises GameError with the reason where the world has no picture."""
        raise GameError(f"{type(self).__name__} has no picture")

    def close(self) -> None:
        """Release windows, contexts and processes."""


def space_to_json(space: Space) -> dict[str, Any]:
    """Plain values that `space_from_json` turns back into the space."""
    if isinstance(space, Box):
        bounds = {name: [_bound(x) for x in getattr(space, name).ravel().astype(float).tolist()] for name in ("low", "high")}
        return {"kind": "Box", "shape": list(space.shape), "dtype": space.dtype, **bounds}
    if isinstance(space, TupleSpace):
        return {"kind": "TupleSpace", "spaces": [space_to_json(child) for child in space.spaces]}
    if isinstance(space, DictSpace):
        return {"kind": "DictSpace", "spaces": [[name, space_to_json(child)] for name, child in space.spaces]}
    kept = space.n if isinstance(space, Discrete) else list(space.sizes if isinstance(space, MultiDiscrete) else space.shape)
    return {"kind": type(space).__name__, "size": kept}


def players_to_json(players: Players) -> dict[str, Any]:
    """Plain values that `players_from_json` turns back into the players."""
    groups = [[list(g.agents), space_to_json(g.observation_space), space_to_json(g.action_space)] for g in players.groups]
    return {"names": list(players.names), "groups": groups, "teams": [list(team) for team in players.teams]}


def players_from_json(values: Mapping[str, Any]) -> Players:
    """The inverse of `players_to_json`. Raises GameError for values that describe no players."""
    try:
        groups = [Group(tuple(agents), space_from_json(seen), space_from_json(done)) for agents, seen, done in values["groups"]]
        return Players(tuple(values["names"]), tuple(groups), tuple(tuple(team) for team in values["teams"]))
    except (KeyError, TypeError, ValueError) as error:
        raise GameError(f"{dict(values)} describes no players: {error}") from None


def space_from_json(values: Mapping[str, Any]) -> Space:
    """The inverse of `space_to_json`. Raises GameError for values that describe no space."""
    try:
        kind = values["kind"]
        if kind == "Box":
            shape = tuple(values["shape"])
            low, high = (np.array([float(x) for x in values[name]], dtype=values["dtype"]).reshape(shape) for name in ("low", "high"))
            return Box(shape, low, high, values["dtype"])
        if kind == "TupleSpace":
            return TupleSpace(tuple(space_from_json(child) for child in values["spaces"]))
        if kind == "DictSpace":
            return DictSpace(tuple((name, space_from_json(child)) for name, child in values["spaces"]))
        if kind == "Discrete":
            return Discrete(int(values["size"]))
        return {"MultiDiscrete": MultiDiscrete, "MultiBinary": MultiBinary}[kind](tuple(values["size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise GameError(f"{dict(values)} describes no space: {error}") from None


def _bound(x: float) -> float | str:
    """JSON has no infinity."""
    return x if np.isfinite(x) else str(x)
