"""The rollout: the only code that steps a game to learn."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage.experience.trajectory import Transition
from tutelage.games.nested import encode_observation, observation_shape, unflatten_action
from tutelage.games.spec import CannotSnapshot, Game, GameError


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode that has ended."""

    seed: int
    """Index on the member axis, 0 .. R-1."""
    copy: int
    total: float
    """Undiscounted sum of the game's rewards; in a game of many, what `Players.score` makes of it."""
    length: int


@dataclass(slots=True)
class Anchor:
    """Where a copy of the game can be put back to, so that a clip is drawn later and off the training path."""

    slot: int
    """Steps taken by all copies when the snapshot was made: the time index of the next transition."""
    snapshot: Any


@dataclass
class Rollout:
    """Plays R x B copies of a game, seed-major, and resets the copies whose episode has ended."""

    game: Game
    members: int
    """R. `game.copies` must be a multiple of it."""
    seeds: Sequence[int]
    """One reset seed per copy of the game."""
    anchor_every: int = 0
    """Steps between snapshots for later drawing; also at each episode start. 0: none."""
    anchors_kept: int = 1000
    """Snapshots kept per copy of the game."""
    steps: int = 0
    """Steps taken by every copy."""
    observation: Shaped[Tensor, "R B *O"] = field(init=False)
    """Current: a vector, or an image of bytes (`nested.encode_observation`)."""
    starts: Bool[Tensor, "R B"] = field(init=False)
    """Where the current observation is the first of an episode."""
    legal: Bool[Tensor, "R B K"] | None = field(init=False)
    """Which discrete actions can be taken now. None: all."""
    episodes: list[Episode] = field(init=False, default_factory=list[Episode])
    """Ended since somebody last cleared the list."""

    def __post_init__(self) -> None:
        if self.game.copies % self.members:
            raise GameError(f"a rollout of {self.members} seeds needs a multiple of {self.members} copies; the game has {self.game.copies}")
        self.copies = self.game.copies // self.members
        self._shape = observation_shape(self.game.observation_space)
        self.observation = self._encode(self.game.reset(seed=self.seeds))
        self._refuse_nan("first observation", self.observation)
        self.starts = torch.ones(self.members, self.copies, dtype=torch.bool)
        self.legal = self._legal()
        each = () if self.game.players is None else (len(self.game.players.names),)
        self.totals = torch.zeros(self.members, self.copies, *each, dtype=torch.float64)
        self.lengths = torch.zeros(self.members, self.copies, dtype=torch.int64)
        self.anchors: list[deque[Anchor]] = [deque(maxlen=self.anchors_kept) for _ in range(self.game.copies)]
        self._anchor(torch.ones(self.game.copies, dtype=torch.bool))

    def _encode(self, observation: Any) -> Tensor:
        return encode_observation(self.game.observation_space, observation).view(self.members, self.copies, *self._shape)

    def _legal(self) -> Tensor | None:
        legal = self.game.legal()
        return None if legal is None else legal.view(self.members, self.copies, -1)

    def _anchor(self, fresh: Tensor) -> None:
        if not self.anchor_every:
            return
        due = fresh | (self.lengths.view(-1) % self.anchor_every == 0)
        for copy in _numbers(due):
            self.anchors[copy].append(Anchor(self.steps, self.game.snapshot(copy)))

    def step(self, action: Float[Tensor, "R B A"]) -> Transition:
        """Advance every copy by one action, laid out as `nested.flatten_action` does. Raises GameError when the game answers with NaN."""
        before, legal = self.observation, self.legal
        outcome = self.game.step(unflatten_action(self.game.action_space, action.reshape(self.game.copies, -1)))
        successor = self._encode(outcome.observation)
        self._refuse_nan("observation", successor)
        self._refuse_nan("reward", outcome.reward)
        following = successor
        self.legal = next_legal = self._legal()
        ended = _numbers(outcome.boundary)
        if ended:
            following = self._encode(self.game.reset(where=outcome.boundary))
            self._refuse_nan("first observation", following)
            self.legal = self._legal()
        shape = (self.members, self.copies)
        reward, terminated, mask = (x.view(*shape, *x.shape[1:]) for x in (outcome.reward, outcome.terminated, outcome.mask))
        self.totals += reward * mask
        self.lengths += mask if self.game.players is None else mask.any(-1)
        self.steps += 1
        for copy in ended:
            seed, own = divmod(copy, self.copies)
            total = self.totals[seed, own] if self.game.players is None else self.game.players.score(self.totals[seed, own])
            self.episodes.append(Episode(seed, own, float(total), int(self.lengths[seed, own])))
            self.totals[seed, own], self.lengths[seed, own] = 0.0, 0
        self.observation, self.starts = following, outcome.boundary.view(shape)
        self._anchor(outcome.boundary)
        return Transition(
            before, action, reward, successor, following, terminated, self.starts, mask, legal, next_legal
        )  # fmt: skip

    def _refuse_nan(self, what: str, values: Tensor) -> None:
        if not values.is_floating_point():
            return
        # A sum is finite when its terms are: one pass over a small tensor instead of a mask of every entry.
        if math.isfinite(float(values.sum())):
            return
        bad = _numbers(~values.reshape(self.game.copies, -1).isfinite().all(-1))
        if bad:
            raise GameError(f"the game gave a {what} that is not finite in copy {bad[0]} after step {self.steps}; nothing was stored")

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs, with a snapshot of each copy where the game can give one."""
        snapshots: list[Any] = []
        for copy in range(self.game.copies):
            try:
                snapshots.append(self.game.snapshot(copy))
            except CannotSnapshot as reason:
                snapshots.append({"cannot_snapshot": str(reason)})
        return {
            "steps": self.steps,
            "observation": self.observation,
            "starts": self.starts,
            "totals": self.totals,
            "lengths": self.lengths,
            "snapshots": snapshots,
            "anchors": [[{"slot": a.slot, "snapshot": a.snapshot} for a in kept] for kept in self.anchors],
        }

    def load(self, state: dict[str, Any]) -> list[int]:
        """Continue where `state` was taken. Returns the copies that had to start a fresh episode instead."""
        self.steps = int(state["steps"])
        self.observation, self.starts = state["observation"].clone(), state["starts"].clone()
        self.totals, self.lengths = state["totals"].clone(), state["lengths"].clone()
        for own, kept in zip(self.anchors, state["anchors"], strict=True):  # in place: whoever cuts clips holds the same lists
            own.clear()
            own.extend(Anchor(int(a["slot"]), a["snapshot"]) for a in kept)
        fresh = [copy for copy, snapshot in enumerate(state["snapshots"]) if "cannot_snapshot" in snapshot]
        for copy, snapshot in enumerate(state["snapshots"]):
            if copy not in fresh:
                self.game.restore(copy, snapshot)
        if fresh:
            where = torch.zeros(self.game.copies, dtype=torch.bool)
            where[fresh] = True
            first = self._encode(self.game.reset(where=where))
            chosen = where.view(self.members, self.copies)
            self.observation[chosen], self.starts[chosen] = first[chosen], True
            self.totals[chosen], self.lengths[chosen] = 0.0, 0
        self.legal = self._legal()
        return fresh


def _numbers(where: Tensor) -> list[int]:
    """The copies that a `[R x B]` bool marks."""
    return [int(copy) for copy in where.nonzero()] if where.any() else []  # mostly none, which is the quicker thing to ask
