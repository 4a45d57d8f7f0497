"""Enduro, paid for keeping pace with the other cars: `py:tutelage.recipes.enduro:PacedEnduro`.

Christiano et al. 2017 (arXiv 1706.03741), section 3.2: an agent that was taught to stay even with the other cars, for which the game pays
nothing. The other cars drive at speed 24 in the console's own units; how fast the player's car is against them stands in its memory, and
not in what the learner sees: the instrument panel is hidden, and a race that is over is followed by the next.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tutelage.games.atari import AtariGame, Preprocessing
from tutelage.games.spec import Nested, Step

RELATIVE_SPEED = 50
"""Where in memory the player's speed less the others' is, as a signed byte; at 22 is the player's. Found by driving: see the tests."""
OTHERS = 24
"""The others' speed."""


def pace(relative: Sequence[int]) -> list[float]:
    """1 at the others' speed, 0 at a standstill and from twice their speed on, straight lines between."""
    return [max(1.0 - abs(speed) / OTHERS, 0.0) for speed in relative]


class PacedEnduro(AtariGame):
    """The game as Christiano et al. teach it, except for what it pays at every step: `pace`."""

    def __init__(self, copies: int, max_frames: int = 18_000) -> None:
        """max_frames: after which an episode is cut off, five minutes of play; four of them are a step."""
        name = f"py:tutelage.recipes.enduro:PacedEnduro?max_frames={max_frames}"
        super().__init__("enduro", copies, name, Preprocessing(endless=True, hide_score=True, max_frames=max_frames))

    def step(self, actions: Nested) -> Step:
        """As Game.step."""
        outcome = super().step(actions)
        relative = [int(self.memory(copy)[RELATIVE_SPEED].astype(np.int8)) for copy in range(self.copies)]
        return replace(outcome, reward=torch.tensor(pace(relative)))
