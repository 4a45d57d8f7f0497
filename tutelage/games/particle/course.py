"""MultiCollect and SingleCollect of the course NPFL139 (Charles University): agents with inertia hold places until these move away.

No contact and no friction: an action changes the velocity by 1/8 along one axis, and then the position by the velocity.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.games.particle.physics import Bodies, State, length, offsets, reaches
from tutelage.games.particle.world import Beginning, Rows, World, scattered
from tutelage.games.spec import GameError

PUSHES = ((0.0, 1.0, -1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, -1.0))
"""Directions (x; y) of the five actions: none, right, left, up, down. Not the order of the other worlds."""
HALF = 10.0
"""Everything begins in [-HALF, HALF]^2."""
SPEEDS = 4
"""A velocity is one of -4 .. 4 eighths per axis."""


@dataclass(frozen=True)
class Config:
    agents: int = 2
    """And as many places."""
    max_steps: int = 250
    touch_radius: float = 1.0
    near_reward: float = 1.0
    """Of the agent that is nearest to a place, while it is within the touch radius."""
    distance_weight: float = 0.1
    """What that reward loses per unit of distance beyond the radius."""
    collect_reward: float = 50.0
    """Of the nearest agent when a place moves."""
    dwell: int = 10
    """Steps in a row at which somebody must be near, for the place to move."""
    collision_penalty: float = 1.0
    """Of an agent with another one within `collision_distance`."""
    collision_distance: float = 1.0
    device: str = "cpu"


class Course(World):
    """All observe the same: places, positions, velocities. `memory` counts, for each place, the steps in a row with somebody near.

    The course's own environment pays the mean over agents to one learner of a joint action; here each gets its share.
    """

    extent, ahead = HALF + 1.0, 4.0

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        """Raises GameError without agents and for a dwell below one."""
        N = config.agents
        if N < 1 or config.dwell < 1:
            raise GameError(f"{name} was asked for with agents={N} and dwell={config.dwell}; at least one of each is needed")
        rows = Rows(N, N)
        places = [rows.extra(axis * N + k) for k in range(N) for axis in range(2)]
        everyone = [row for read in (rows.position, rows.velocity) for i in range(N) for row in read(i)]
        names = [f"agent_{i}" for i in range(N)]
        super().__init__(name, names, [places + everyone] * N, (tuple(range(N)),), "discrete", config.max_steps, config.device, dtype)
        self.config, self.draws, self.area = config, 6 * N, config.touch_radius
        self.agent_sizes, self.landmark_sizes = [config.collision_distance / 2.0] * N, [0.2] * N
        self._reach = reaches(self.agent_sizes, [], [True] * N, obstacles=False, device=self.device, dtype=dtype)
        self.bodies = Bodies(torch.full((N, 1), 0.125, dtype=dtype, device=self.device), None, None)
        self._pushes = torch.tensor(PUSHES, dtype=dtype, device=self.device)

    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """Everything anywhere, velocities of any of the nine sizes; then one step without action, which may count as near."""
        N = self.config.agents
        position, place = (scattered(part, -HALF, HALF) for part in (draws[: 2 * N], draws[2 * N : 4 * N]))
        velocity = (scattered(draws[4 * N :], 0.0, 2 * SPEEDS + 1.0).floor() - SPEEDS) * 0.125
        position = position + velocity
        near = length(offsets(position, place)[:, :, N:]).amin(0) < self.config.touch_radius
        return Beginning(position, velocity, place, near.long())

    def act(self, state: State, actions: tuple[Int64[Tensor, "B N"], ...]) -> State:
        """As World.act."""
        push = self._pushes.index_select(1, actions[0].t().reshape(-1)).view(2, self.config.agents, -1)
        velocity = (state.velocity + self.bodies.acceleration * push).clamp(-0.125 * SPEEDS, 0.125 * SPEEDS)
        return state._replace(position=state.position + velocity, velocity=velocity, steps=state.steps + 1)

    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """Each place pays its nearest agent; agents too near to one another lose; places held long enough move."""
        config, N = self.config, self.config.agents
        distance = length(offsets(state.position, state.place))
        closest, who = distance[:, N:].min(0)
        near = closest < config.touch_radius
        held = torch.where(near, state.memory + 1, 0)
        moved = held >= config.dwell
        paid = config.near_reward - config.distance_weight * (closest - config.touch_radius).clamp(min=0.0) + config.collect_reward * moved
        share = torch.where(who == torch.arange(N, device=self.device)[:, None, None], paid, 0.0).sum(1)
        reward = share - config.collision_penalty * (distance[:, :N] < self._reach).any(1)
        fresh = scattered(self.draw(state.key, state.drawn, 2 * N), -HALF, HALF)
        place = torch.where(moved, fresh, state.place)
        return state._replace(place=place, memory=torch.where(moved, 0, held), drawn=state.drawn + 2 * N), reward

    def extra_rows(self, state: State) -> Float[Tensor, "X B"]:
        """The places: x of each, then y."""
        return state.place.flatten(0, 1)
