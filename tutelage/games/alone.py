"""A game of one agent as a game of many with one agent: what a learner of many plays where there is nobody else."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from tutelage.games.nested import from_leaves, leaf_spaces, leaves
from tutelage.games.spec import Game, Group, MultiDiscrete, Nested, Players, Snapshot, Space, Step


class Alone(Game):
    """The same world, with an axis of one agent in everything."""

    def __init__(self, game: Game) -> None:
        """game: of one agent. Its copies, seeds and snapshots stay as they are."""
        self.game, self.copies = game, game.copies
        self.players = Players(("agent",), (Group((0,), game.observation_space, game.action_space),), ((0,),))
        self.observation_space, self.action_space = self.players.observation_space, self.players.action_space

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset."""
        return self._among(self.game.reset(seed, where))

    def step(self, actions: Nested) -> Step:
        """As Game.step."""
        assert isinstance(actions, tuple)  # of one group
        step = self.game.step(_of_each(self.game.action_space, actions[0], lambda leaf: leaf[:, 0]))
        return Step(self._among(step.observation), step.reward[:, None], step.terminated[:, None], step.boundary, step.mask[:, None])

    def _among(self, observation: Nested) -> Nested:
        return (_of_each(self.game.observation_space, observation, lambda leaf: leaf[:, None]),)

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """As Game.legal."""
        return self.game.legal()

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot."""
        return self.game.snapshot(copy)

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore."""
        return (_of_each(self.game.observation_space, self.game.restore(copy, snapshot), lambda leaf: leaf[None]),)

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """As Game.render."""
        return self.game.render(copy, width, height)

    def close(self) -> None:
        """As Game.close."""
        self.game.close()


def _of_each(space: Space, nested: Nested, change: Callable[[Tensor], Tensor]) -> Nested:
    """The tree with changed leaves; those of a MultiDiscrete lie one after the other and have no axis of agents (`stacked`)."""
    pairs = zip(leaf_spaces(space), leaves(nested), strict=True)
    return from_leaves(space, [leaf if isinstance(kind, MultiDiscrete) else change(leaf) for kind, leaf in pairs])
