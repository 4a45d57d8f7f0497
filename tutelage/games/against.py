"""One team of a game of many: the others are part of its world, played by a policy that does not learn."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from tutelage.games.spec import Game, GameError, Group, Nested, Players, Snapshot, Step


@runtime_checkable
class Opponents(Protocol):
    """Who plays the others; without a memory of its own, so that a snapshot of the game is all there is to put back."""

    def act(self, observation: Nested) -> tuple[Tensor, ...]:
        """Everybody's actions, for everybody's observations; a tuple over the groups each."""
        ...


class Against(Game):
    """The agents of one team, in the game's order."""

    def __init__(self, game: Game, team: int, opponents: Opponents) -> None:
        """team: which of the game's. Raises GameError for a game of one, and where agents of two teams have equal spaces."""
        if game.players is None:
            raise GameError("a game of one agent was given; a team needs others to play against")
        whole, self.game, self.copies, self._opponents = game.players, game, game.copies, opponents
        self.team = sorted(whole.teams[team])
        self._groups = [g for g, group in enumerate(whole.groups) if set(group.agents) <= set(self.team)]
        groups = [whole.groups[g] for g in self._groups]
        if sum(len(group.agents) for group in groups) < len(self.team):
            raise GameError(f"team {team} of {', '.join(whole.names)} shares its spaces with others; each group needs to be of one team")
        renumbered = (Group(tuple(map(self.team.index, g.agents)), g.observation_space, g.action_space) for g in groups)
        names = tuple(whole.names[agent] for agent in self.team)
        self.players = Players(names, tuple(renumbered), (tuple(range(len(names))),))
        self.observation_space, self.action_space = self.players.observation_space, self.players.action_space
        self._seen: list[Any] = []
        """Per group of the whole game, what it observes."""

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset. Raises GameError for a game with illegal choices, which opponents are not told of."""
        if self.game.legal() is not None:
            raise GameError("a game in which some choices are illegal was given; the opponents here heed none")
        return self._own(self.game.reset(seed, where))

    def step(self, actions: Nested) -> Step:
        """As Game.step."""
        assert isinstance(actions, tuple)
        everybody = list(self._opponents.act(tuple(self._seen)))
        for g, action in zip(self._groups, actions, strict=True):
            everybody[g] = action
        step = self.game.step(tuple(everybody))
        reward, terminated, mask = (part[:, self.team] for part in (step.reward, step.terminated, step.mask))
        return Step(self._own(step.observation), reward, terminated, step.boundary, mask)

    def _own(self, observation: Nested) -> Nested:
        assert isinstance(observation, tuple)
        self._seen = list(observation)
        return tuple(observation[g] for g in self._groups)

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot."""
        return self.game.snapshot(copy)

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore."""
        seen: Any = self.game.restore(copy, snapshot)
        self._seen = self._seen or [torch.zeros(self.copies, *own.shape) for own in seen]
        self._seen = [torch.cat([x[:copy], own[None], x[copy + 1 :]]) for x, own in zip(self._seen, seen, strict=True)]
        return tuple(seen[g] for g in self._groups)

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render."""
        return self.game.render(copy, width, height)

    def close(self) -> None:
        """As Game.close."""
        self.game.close()
