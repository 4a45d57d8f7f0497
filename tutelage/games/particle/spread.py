"""Cooperative navigation: N agents cover N landmarks and do not bump into one another. mpe2's simple_spread_v3."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.games.particle.physics import Bodies, State, length, offsets, reaches
from tutelage.games.particle.world import Actions, Beginning, Rows, World, at_rest, scattered
from tutelage.games.spec import GameError


@dataclass(frozen=True)
class Config:
    agents: int = 3
    """And as many landmarks."""
    actions: Actions = "discrete"
    max_steps: int = 25
    local_ratio: float = 0.5
    """Weight of an agent's own collisions; the rest is the common reward's."""
    distance_weight: float = 1.0
    """Common: times the distance of the nearest agent, for each landmark."""
    collision_penalty: float = 1.0
    """Own: for each agent that is touched."""
    agent_size: float = 0.15
    landmark_size: float = 0.05
    """Of the picture; landmarks can be walked over."""
    acceleration: float = 5.0
    device: str = "cpu"


class Spread(World):
    """Each observes its velocity and position, the landmarks and the others from where it is, and the others' silence: 6N numbers."""

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        """Raises GameError without agents."""
        N = config.agents
        if N < 1:
            raise GameError(f"{name} was asked for with agents={N}; at least one is needed")
        names = [f"agent_{i}" for i in range(N)]
        super().__init__(name, names, navigator_sees(N), (tuple(range(N)),), config.actions, config.max_steps, config.device, dtype)
        self.config, self.draws = config, 4 * N
        self.agent_sizes, self.landmark_sizes = [config.agent_size] * N, [config.landmark_size] * N
        reach = reaches(self.agent_sizes, [], [True] * N, obstacles=False, device=self.device, dtype=dtype)
        self.bodies = Bodies(torch.full((N, 1), config.acceleration, dtype=dtype, device=self.device), reach, None)

    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """Everything anywhere in [-1, 1]^2."""
        return at_rest(scattered(draws, -1.0, 1.0), self.config.agents)

    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """(1 - rho) * -(sum over landmarks of the nearest agent's distance) + rho * -(agents touched), rho = local_ratio."""
        config, N = self.config, self.config.agents
        distance = length(offsets(state.position, state.place))
        uncovered = distance[:, N:].amin(0).sum(0)
        assert self.bodies.reach is not None
        touched = (distance[:, :N] < self.bodies.reach).sum(1)
        common = (1.0 - config.local_ratio) * config.distance_weight * uncovered
        return state, -(config.local_ratio * config.collision_penalty) * touched - common


def navigator_sees(agents: int) -> list[list[int]]:
    """Own velocity and position, landmarks, others, and two numbers per other that would be heard if anybody spoke."""
    rows = Rows(agents, agents)
    heard = rows.offset(0, 0) * (agents - 1)
    return [[*rows.velocity(i), *rows.position(i), *rows.landmarks(i), *rows.others(i), *heard] for i in range(agents)]
