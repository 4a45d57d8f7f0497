"""A finite world played as a game: B copies step at once, by look-ups and one search.

Each copy draws from a stream of its own that is a pure function of its seed and of how often it has drawn, so that all copies draw in
one operation, and a snapshot holds two integers in place of a generator.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from tutelage.games.finite import FiniteMDP, FinitePOMDP
from tutelage.games.spec import CannotSnapshot, Discrete, Game, GameError, Nested, Snapshot, Step
from tutelage.games.streams import pick, stream_keys, thresholds, uniforms

FREE, WALL, GOAL, PIT, AGENT, LINE = (244, 244, 240), (84, 88, 96), (132, 196, 140), (224, 128, 120), (52, 104, 192), (200, 200, 196)
"""Colors of the picture: cells, walls, exits that pay, other ends, the agent, the lines between cells."""


class FiniteGame(Game):
    """Observation and action are integers: the number of the state, or of what is observed of it, and of the action."""

    def __init__(self, world: FiniteMDP | FinitePOMDP, copies: int, max_steps: int | None = None, name: str | None = None) -> None:
        """max_steps: a time limit, which is a boundary and no termination. Raises GameError for numbers below one."""
        self.mdp = world if isinstance(world, FiniteMDP) else world.mdp
        self.world, self.copies, self.name, self.max_steps = world, copies, name or self.mdp.name, max_steps
        if copies < 1 or (max_steps is not None and max_steps < 1):
            raise GameError(f"{self.name} was asked for with copies={copies} and max_steps={max_steps}; at least one of each is needed")
        self.action_space = Discrete(self.mdp.actions)
        self.observation_space = Discrete(self.mdp.states if isinstance(world, FiniteMDP) else world.first_likelihood.shape[1])
        self._ladder = _ladder(self.mdp)
        self._start = thresholds(self.mdp.start)
        self._likelihoods = None if isinstance(world, FiniteMDP) else (thresholds(world.likelihood), thresholds(world.first_likelihood))
        self._state, self._observation, self._steps, self._key, self._drawn = torch.zeros(5, copies, dtype=torch.int64).unbind()
        self._seeded, self._playing = torch.zeros(2, copies, dtype=torch.bool).unbind()

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Int64[Tensor, "B"]:
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
        seen = self._state
        if self._likelihoods is not None:
            seen = torch.where(which, pick(self._likelihoods[1][self._state], self._draw(which)), self._observation)
        self._observation, self._playing = seen, self._playing | which
        self._steps = torch.where(which, 0, self._steps)
        return self._observation.clone()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for what is no action or not a legal one, and for a copy that awaits its reset."""
        if not bool(self._playing.all()):
            copy = int((~self._playing).long().argmax())
            raise GameError(f"copy {copy} of {self.name} was stepped outside an episode; reset it first")
        pair = self._checked(actions) * self.mdp.states + self._state
        first, beyond = self.mdp.edges[pair], self.mdp.edges[pair + 1]
        everyone = torch.ones_like(self._playing)
        outcome = torch.searchsorted(self._ladder, pair + self._draw(everyone), right=True)
        outcome = torch.minimum(torch.maximum(outcome, first), beyond - 1)  # where rounding steps beside the pair
        self._state = self.mdp.next_state[outcome].long()
        self._observation = self._state
        if self._likelihoods is not None:
            self._observation = pick(self._likelihoods[0][pair // self.mdp.states, self._state], self._draw(everyone))
        self._steps = self._steps + 1
        terminated = self.mdp.terminated[outcome]
        boundary = terminated if self.max_steps is None else terminated | (self._steps >= self.max_steps)
        self._playing = ~boundary
        return Step(self._observation.clone(), self.mdp.reward[outcome].float(), terminated, boundary, everyone)

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """Which actions the present states have. None: the world's states have all."""
        return None if self.mdp.legal is None else self.mdp.legal[self._state]

    def _checked(self, actions: Nested) -> Int64[Tensor, "B"]:
        if not isinstance(actions, Tensor) or actions.shape != (self.copies,) or actions.is_floating_point():
            given = f"{actions.dtype} of shape {tuple(actions.shape)}" if isinstance(actions, Tensor) else f"{type(actions).__name__}"
            raise GameError(f"{self.name} was given actions of type {given}; {self.copies} copies need one integer each")
        action = actions.long().cpu()
        outside = (action < 0) | (action >= self.mdp.actions)
        if bool(outside.any()):
            raise GameError(f"{self.name} was given action {int(action[outside][0])}, which is outside {self.action_space}")
        legal = self.legal()
        if legal is not None and not bool(legal.gather(1, action[:, None]).all()):
            copy = int((~legal.gather(1, action[:, None])[:, 0]).long().argmax())
            raise GameError(f"{self.name} was given action {int(action[copy])} in state {int(self._state[copy])}, which does not have it")
        return action

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
        return {"game": self.name, "playing": bool(self._playing[copy]), **held}

    def restore(self, copy: int, snapshot: Snapshot) -> Int64[Tensor, ""]:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        for name, tensor in self._numbers().items():
            tensor[copy] = int(snapshot[name])
        if self._likelihoods is None:
            self._observation = self._state.clone()
        self._playing[copy], self._seeded[copy] = bool(snapshot["playing"]), True
        return self._observation[copy].clone()

    def _numbers(self) -> dict[str, Tensor]:
        numbers = {"state": self._state, "steps": self._steps, "key": self._key, "drawn": self._drawn}
        return numbers if self._likelihoods is None else numbers | {"observation": self._observation}

    def render(self, copy: int, width: int = 256, height: int = 256) -> UInt8[np.ndarray, "height width 3"]:
        """The map with the agent on it; a world without a map is a square of cells, one per state."""
        if not bool(self._seeded[copy]):
            raise GameError(f"copy {copy} of {self.name} has nothing to draw yet; reset it first")
        return draw_map(self.mdp, int(self._state[copy]), width, height)


def draw_map(mdp: FiniteMDP, state: int | None, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """Cells in their colors, lines between them, and a disk for the agent (None: no agent)."""
    side = math.ceil(math.sqrt(mdp.states))
    rows, columns, places = (side, side, torch.arange(mdp.states))
    if mdp.layout is not None:
        rows, columns, places = mdp.layout.rows, mdp.layout.columns, mdp.layout.place
    reward = mdp.expected_reward().amax(1)
    color = torch.tensor(FREE).repeat(mdp.states, 1)
    color[mdp.final & (reward > 0.0)] = torch.tensor(GOAL)
    color[mdp.final & (reward <= 0.0)] = torch.tensor(PIT)
    cells = torch.tensor(WALL).repeat(rows * columns, 1)
    cells[places] = color
    # Where each pixel lies, in cells: the whole part is the cell, the rest the place within it.
    y = ((np.arange(height) + 0.5) * rows / height)[:, None]
    x = ((np.arange(width) + 0.5) * columns / width)[None, :]
    picture = cells.view(rows, columns, 3).numpy().astype(np.uint8)[y.astype(int)[:, 0]][:, x.astype(int)[0]]
    thin = 1.01 * max(rows / height, columns / width)
    if thin < 0.2:
        picture[np.broadcast_to((y % 1.0 < thin) | (x % 1.0 < thin), picture.shape[:2])] = LINE
    if state is not None:
        row, column = divmod(int(places[state]), columns)
        picture[(y - row - 0.5) ** 2 + (x - column - 0.5) ** 2 < max(0.32, thin) ** 2] = AGENT
    return picture


def _ladder(mdp: FiniteMDP) -> Float64[Tensor, "E"]:
    """Pair number + cumulative probability within the pair, of each outcome: one sorted list in which one search samples any pair."""
    pair = torch.repeat_interleave(torch.arange(mdp.states * mdp.actions), mdp.edges.diff())
    total = mdp.probability.cumsum(0)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), total])[mdp.edges[pair]]
    ladder = pair + (total - before).clamp(max=1.0)
    last = mdp.edges[1:][mdp.edges.diff() > 0] - 1
    ladder[last] = (pair[last] + 1).double()  # whatever rounding left
    return ladder
