"""Gridworlds as maps: the lecture's 4 x 3 grid, random ones, and one's own.

A map has a character per cell: `.` free, `#` wall, `S` where episodes start, and exits (`+` pays 1, `-` pays -1 unless told
otherwise). In an exit every action is the exit action: it pays and ends the episode. Elsewhere an action is a move up, right, down or
left; with probability slip it goes to one of its two sides instead, half each; whoever would leave the map or hit a wall stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Generator, Tensor

from tutelage.games.finite import FiniteMDP, Layout
from tutelage.games.spec import GameError

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left as (rows down, columns to the right); the sides of a move are its neighbors in this list."""

LECTURE = """
...+
.#.-
S...
"""


@dataclass(frozen=True)
class GridWorld:
    """A map. States are its cells without the walls, row by row from the top left."""

    wall: Bool[Tensor, "rows columns"]
    exit: Bool[Tensor, "rows columns"]
    payoff: Float64[Tensor, "rows columns"]
    """What the exit action pays; looked at in exits only."""
    begin: Bool[Tensor, "rows columns"]
    """Where episodes start, all equally likely."""
    slip: float = 0.0
    """The probability that a move goes to a side."""
    step_reward: float = 0.0
    """Of every action but the exit action."""
    name: str = "a grid"

    def __post_init__(self) -> None:
        """Raises GameError for a map nobody can play on."""
        if not 0.0 <= self.slip <= 1.0:
            raise GameError(f"{self.name}: slip={self.slip} was given; a probability was expected")
        if not bool(self.begin.any()) or bool((self.begin & self.wall).any()):
            raise GameError(f"{self.name}: the map has no free cell to start in")

    @property
    def states(self) -> int:
        """S, the cells that are no walls."""
        return int((~self.wall).sum())

    @cached_property
    def place(self) -> Int64[Tensor, "S"]:
        """row * columns + column of each state."""
        return (~self.wall).flatten().nonzero()[:, 0]

    def state(self, x: int, y: int) -> int:
        """The number of the state in column x from the left and row y from below, both from 1, as lectures count."""
        rows, columns = self.wall.shape
        if not (1 <= x <= columns and 1 <= y <= rows) or bool(self.wall[rows - y, x - 1]):
            raise GameError(f"{self.name}: there is no free cell ({x}, {y}) on a map of {columns} x {rows}")
        return int((self.place == (rows - y) * columns + x - 1).nonzero())

    def field(self, value: Float[Tensor, "S"]) -> Float[Tensor, "M N"]:
        """The values on the map with a border around it, M = rows + 2 and N = columns + 2; border and walls are -inf."""
        rows, columns = self.wall.shape
        flat = value.new_full((rows * columns,), -torch.inf)
        flat[self.place] = value
        return torch.nn.functional.pad(flat.view(rows, columns), (1, 1, 1, 1), value=-torch.inf)

    @cached_property
    def mdp(self) -> FiniteMDP:
        """The same world as arrays, made at the first use."""
        rows, columns = self.wall.shape
        S = self.states
        number = torch.full((rows + 2, columns + 2), -1)
        number[1:-1, 1:-1][~self.wall] = torch.arange(S)
        here = torch.arange(S)
        neighbors = [number[1 + i : rows + 1 + i, 1 + j : columns + 1 + j][~self.wall] for i, j in MOVES]
        reached = torch.stack([torch.where(neighbor < 0, here, neighbor) for neighbor in neighbors])  # [4, S]
        turns, chances = ((0, -1, 1), (1.0 - self.slip, 0.5 * self.slip, 0.5 * self.slip)) if self.slip else ((0,), (1.0,))
        following = torch.stack([reached[[(a + turn) % 4 for a in range(4)]] for turn in turns], 2)  # [4, S, outcomes]
        leaving, payoff = self.exit[~self.wall], self.payoff[~self.wall]
        following = torch.where(leaving[:, None], here[:, None], following)
        probability = torch.tensor(chances, dtype=torch.float64).expand(following.shape)
        # An exit has one outcome, the first; a slip of 1 leaves no straight move.
        kept = torch.where(leaving[:, None], torch.arange(len(turns)) == 0, probability > 0.0)
        probability = torch.where(leaving[:, None], 1.0, probability)
        paid = torch.where(leaving, payoff, self.step_reward)[:, None]
        start = self.begin[~self.wall].double()
        return FiniteMDP(
            S,
            4,
            torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(2).flatten().cumsum(0)]),
            following[kept].int(),
            probability[kept],
            paid.expand_as(following)[kept],
            leaving[:, None].expand_as(following)[kept],
            start / start.sum(),
            Layout(rows, columns, self.place, MOVES),
            self.name,
        )


def grid_from_text(
    text: str, slip: float = 0.0, step_reward: float = 0.0, payoffs: Mapping[str, float] | None = None, name: str = "a grid"
) -> GridWorld:
    """A map from text. payoffs: what each exit character pays (None: `+` 1, `-` -1). Without `S`, episodes start in any free cell.

    Raises GameError for lines of unequal length and for unknown characters.
    """
    pays = {"+": 1.0, "-": -1.0} if payoffs is None else payoffs
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or len({len(line) for line in lines}) != 1:
        raise GameError(f"{name}: a map needs lines of one length; those given have {[len(line) for line in lines]} characters")
    unknown = sorted(set("".join(lines)) - {".", "#", "S", *pays})
    if unknown:
        raise GameError(f"{name}: the map has the character {unknown[0]!r}; known are . # S and {' '.join(pays)}")
    cells = np.array([list(line) for line in lines])
    payoff = torch.zeros(cells.shape, dtype=torch.float64)
    for character, pay in pays.items():
        payoff[torch.as_tensor(cells == character)] = pay
    wall, start = torch.as_tensor(cells == "#"), torch.as_tensor(cells == "S")
    exits = torch.as_tensor(np.isin(cells, list(pays)))
    return GridWorld(wall, exits, payoff, start if bool(start.any()) else ~(wall | exits), slip, step_reward, name)


def lecture_grid(slip: float = 0.2, step_reward: float = 0.0) -> GridWorld:
    """Four columns, three rows, a wall at (2, 2), exits worth 1 at (4, 3) and -1 at (4, 2), start at (1, 1).

    Russell & Norvig 2010, section 17.1, with the moves of its figure (slip 0.2), but no cost of a step.
    """
    return grid_from_text(LECTURE, slip, step_reward, name="grid:lecture")


def random_grid(
    width: int = 8, height: int = 8, walls: float = 0.2, pits: int = 1, slip: float = 0.2, step_reward: float = 0.0, seed: int = 0
) -> GridWorld:
    """Walls at random, one exit that pays 1, `pits` that pay -1, and a start from which the first can be reached.

    walls: the probability of each cell to be one. Raises GameError where no start is left; another seed may have one.
    """
    name = f"grid:random?width={width}&height={height}&seed={seed}"
    if width < 1 or height < 1 or not 0.0 <= walls < 1.0 or pits < 0:
        raise GameError(f"{name}: walls={walls} and pits={pits} were given; a map needs a cell, walls in [0, 1) and pits >= 0")
    generator = Generator().manual_seed(seed)
    wall = torch.rand(height, width, generator=generator) < walls
    free = (~wall).flatten().nonzero()[:, 0]
    if len(free) < pits + 2:
        raise GameError(f"{name}: {len(free)} free cells are too few for {pits + 1} exits and a start")
    drawn = [int(place) for place in free[torch.randperm(len(free), generator=generator)]]
    exits, payoff = torch.zeros(height * width, dtype=torch.bool), torch.zeros(height * width, dtype=torch.float64)
    pit = drawn[-pits:] if pits else []
    exits[pit], payoff[pit] = True, -1.0
    open_cells = (~wall & ~exits.view(height, width)).numpy()
    # A few places for the exit, and the one that most cells can reach: where walls are many, some places are closed in.
    reach, goal = b"", drawn[0]
    for candidate in drawn[: min(20, len(drawn) - pits)]:
        reached = _reachable(open_cells, candidate)
        if sum(reached) > sum(reach):
            reach, goal = reached, candidate
        if 2 * sum(reach) > len(free):
            break
    start = next((place for place in drawn if reach[place] and place != goal), None)
    if start is None:
        raise GameError(f"{name}: no exit was found that could be reached; fewer walls or another seed would have one")
    exits[goal], payoff[goal] = True, 1.0
    begin = torch.zeros(height * width, dtype=torch.bool)
    begin[start] = True
    shape = (height, width)
    return GridWorld(wall, exits.view(shape), payoff.view(shape), begin.view(shape), slip, step_reward, name)


def _reachable(free: np.ndarray, source: int) -> bytes:
    """Which places (row * columns + column) moves over free cells connect to the source; 1 for yes."""
    rows, columns = free.shape
    width = columns + 2
    # On a map with a border of walls a move is one addition.
    open_places = bytearray(np.pad(free, 1).tobytes())
    frontier = [(source // columns + 1) * width + source % columns + 1]
    met = bytearray(len(open_places))
    met[frontier[0]] = 1
    while frontier:
        place = frontier.pop()
        for step in (-width, 1, width, -1):
            if open_places[place + step] and not met[place + step]:
                met[place + step] = 1
                frontier.append(place + step)
    return np.frombuffer(met, np.uint8).reshape(rows + 2, width)[1:-1, 1:-1].tobytes()
