"""What a particle world is: who is in it, where they begin, what they see, what they are paid. Pure functions of a state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from tutelage.games.particle.physics import THRUST, Bodies, State, move, offsets
from tutelage.games.spec import Box, Discrete, GameError, Group, Players, Space
from tutelage.games.streams import uniforms

Actions = Literal["discrete", "continuous", "box5"]
"""Five choices; thrust in [-1, 1]^2; mpe2's [0, 1]^5, of which the first number does nothing."""


class Outcome(NamedTuple):
    """What one step answers."""

    observation: tuple[Float[Tensor, "B n D"], ...]
    reward: Float[Tensor, "B N"]
    boundary: Bool[Tensor, "B"]


class Beginning(NamedTuple):
    """What an episode's draws decide: the first fields of a State."""

    position: Float[Tensor, "2 N B"]
    velocity: Float[Tensor, "2 N B"]
    place: Float[Tensor, "2 L B"]
    memory: Int64[Tensor, "M B"]


class Rows:
    """Numbers of the rows that `World.look` reads from: velocities, positions and offsets, by agent and entity."""

    def __init__(self, agents: int, landmarks: int) -> None:
        self.agents, self.entities = agents, agents + landmarks

    def velocity(self, agent: int) -> list[int]:
        """x and y."""
        return [agent, self.agents + agent]

    def position(self, agent: int) -> list[int]:
        """x and y."""
        return [2 * self.agents + row for row in self.velocity(agent)]

    def offset(self, agent: int, entity: int) -> list[int]:
        """From the agent to the entity, x and y; from the agent to itself it is zero, always."""
        return [4 * self.agents + (axis * self.agents + agent) * self.entities + entity for axis in range(2)]

    def others(self, agent: int) -> list[int]:
        """Offsets to the other agents, in order."""
        return [row for other in range(self.agents) if other != agent for row in self.offset(agent, other)]

    def landmarks(self, agent: int) -> list[int]:
        """Offsets to the landmarks, in order."""
        return [row for entity in range(self.agents, self.entities) for row in self.offset(agent, entity)]

    def extra(self, row: int) -> int:
        """A row that the world adds behind these."""
        return 4 * self.agents + 2 * self.agents * self.entities + row


class World(ABC):
    """A world of N agents and L landmarks. Its methods change nothing: they can be compiled, and whole rollouts of them."""

    draws: int
    """Random numbers that the beginning of an episode takes."""
    bodies: Bodies
    agent_sizes: list[float]
    landmark_sizes: list[float]
    extent: float = 1.1
    """What a picture shows at least, to each side of the origin."""
    area: float | None = None
    """Radius around each landmark within which being there pays; None: nearness pays, of whatever distance."""
    ahead: float = 0.25
    """Seconds of motion that the velocity line of a picture shows."""

    def __init__(
        self,
        name: str,
        agents: Sequence[str],
        sees: Sequence[Sequence[int]],
        teams: tuple[tuple[int, ...], ...],
        actions: Actions,
        max_steps: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        """sees: for each agent the rows that it observes; neighbors that see equally many are a group.

        Raises GameError for a time limit below one and for a device that torch does not have.
        """
        if max_steps < 1:
            raise GameError(f"{name} was asked for with max_steps={max_steps}; at least one is needed")
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise GameError(f"{name} was asked for on device={device}, which torch cannot use: {str(error).splitlines()[0]}") from None
        self.name, self.max_steps, self.dtype, self.actions = name, max_steps, dtype, actions
        groups: list[list[int]] = []
        for agent, rows in enumerate(sees):
            if groups and len(sees[groups[-1][0]]) == len(rows):
                groups[-1].append(agent)
            else:
                groups.append([agent])
        space: Space = Discrete(5)
        if actions != "discrete":
            size, low = (2, -1.0) if actions == "continuous" else (5, 0.0)
            space = Box((size,), np.full(size, low, np.float32), np.ones(size, np.float32))
        self.players = Players(tuple(agents), tuple(Group(tuple(group), _unbounded(len(sees[group[0]])), space) for group in groups), teams)
        self._sees = [[row for agent in group for row in sees[agent]] for group in groups]
        self._rows = [torch.tensor(seen, device=self.device) for seen in self._sees]
        self._thrust = torch.tensor(THRUST, dtype=dtype, device=self.device)

    @abstractmethod
    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """How episodes start, from numbers in [0, 1)."""

    @abstractmethod
    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """What the agents get in a state that they have just come into, and the state that the world makes of it."""

    def extra_rows(self, state: State) -> Float[Tensor, "X B"] | None:
        """What can be observed besides velocities, positions and offsets."""
        return None

    def goal(self, state: State, copy: int) -> int | None:
        """The landmark that matters in this copy; None: all do."""
        return None

    def start(self, key: Int64[Tensor, "B"], drawn: Int64[Tensor, "B"]) -> State:
        """Fresh episodes, from the next numbers of each copy's stream."""
        beginning = self.begin(self.draw(key, drawn, self.draws))
        return State(*beginning, torch.zeros_like(drawn), key, drawn + self.draws)

    def restart(self, state: State, where: Bool[Tensor, "B"]) -> State:
        """Fresh episodes in the marked copies."""
        fresh = self.start(state.key, state.drawn)
        return State(*(torch.where(where, new, old) for new, old in zip(fresh, state, strict=True)))

    def draw(self, key: Int64[Tensor, "B"], drawn: Int64[Tensor, "B"], count: int) -> Float[Tensor, "D B"]:
        """The next `count` numbers of each stream, in [0, 1)."""
        numbers: Float64[Tensor, "D B"] = uniforms(key.expand(count, -1), drawn + torch.arange(count, device=self.device)[:, None])
        return numbers.to(self.dtype).clamp(max=1.0 - 2**-24)  # rounding to fewer digits may reach 1

    def advance(self, state: State, actions: tuple[Tensor, ...]) -> tuple[State, Outcome]:
        """One step of every copy. actions: per group [B, n] choices or [B, n, A] numbers."""
        state, reward = self.pay(self.act(state, actions))
        return state, Outcome(self.look(state), reward.t().contiguous(), state.steps >= self.max_steps)

    def act(self, state: State, actions: tuple[Tensor, ...]) -> State:
        """Motion alone. Numbers outside the action space are clipped to it."""
        joint = actions[0] if len(actions) == 1 else torch.cat(actions, dim=1)
        if self.actions == "discrete":
            thrust = self._thrust.index_select(1, joint.t().reshape(-1)).view(2, joint.shape[1], -1)
        elif self.actions == "continuous":
            thrust = joint.to(self.dtype).permute(2, 1, 0).contiguous().clamp(-1.0, 1.0)
        else:
            push = joint.to(self.dtype).permute(2, 1, 0).contiguous().clamp(0.0, 1.0)
            thrust = torch.stack([push[2] - push[1], push[4] - push[3]])
        return move(state, thrust, self.bodies)

    def look(self, state: State) -> tuple[Float[Tensor, "B n D"], ...]:
        """What each group observes."""
        parts = [state.velocity.flatten(0, 1), state.position.flatten(0, 1), offsets(state.position, state.place).flatten(0, 2)]
        extra = self.extra_rows(state)
        parts = parts if extra is None else [*parts, extra]
        counts = [len(group.agents) for group in self.players.groups]
        if torch.compiler.is_compiling() and state.steps.shape[0] >= 512:
            # As expressions that the compiler can fuse: a gather would make it write the rows first, which takes 2 to 4 times as long at
            # 8,192 copies. For few copies a microsecond of preparation for each of the rows would be most of the time.
            rows = [row for part in parts for row in part.unbind(0)]
            return tuple(
                torch.stack([rows[row] for row in seen], dim=1).view(-1, count, len(seen) // count)
                for seen, count in zip(self._sees, counts, strict=True)
            )
        table = torch.cat(parts)
        return tuple(
            table.index_select(0, rows).t().contiguous().view(table.shape[1], count, -1)
            for rows, count in zip(self._rows, counts, strict=True)
        )


def scattered(draws: Float[Tensor, "D B"], low: float, high: float) -> Float[Tensor, "2 E B"]:
    """Points uniform in a square, from two numbers each."""
    return low + (high - low) * draws.view(-1, 2, draws.shape[1]).transpose(0, 1).contiguous()


def at_rest(points: Float[Tensor, "2 E B"], agents: int, memory: Int64[Tensor, "M B"] | None = None) -> Beginning:
    """The first points are agents, the rest landmarks. memory: None for a world that keeps nothing."""
    nothing = torch.zeros(0, points.shape[2], dtype=torch.int64, device=points.device)
    position = points[:, :agents].contiguous()
    return Beginning(position, torch.zeros_like(position), points[:, agents:].contiguous(), nothing if memory is None else memory)


def _unbounded(width: int) -> Box:
    return Box((width,), np.full(width, -np.inf, np.float32), np.full(width, np.inf, np.float32))
