"""Simple Target and Simple Collect of the Charles University thesis (dspace 127431): being at a landmark pays.

The thesis' text is not public; the definition is ours, made to satisfy what its figures and the lecture NPFL139 say. Beginning and
observation are those of simple_spread. With x_i the agents, l_k the landmarks and F the agents at no landmark (all, if nobody is free):

    r_i = sum over k of ( touch_reward where somebody is at k, else -distance_weight * min over F of |x_j - l_k| )
          - collision_penalty * (agents that i touches).

Drawing the minimum over all agents instead (nearest = any) is the harder form: whoever is at a landmark is also told to leave it.
In Simple Collect a landmark at which somebody was for `dwell` steps in a row moves to a new random place.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.games.particle.physics import Bodies, State, length, offsets, reaches
from tutelage.games.particle.spread import navigator_sees
from tutelage.games.particle.world import Actions, Beginning, World, at_rest, scattered
from tutelage.games.spec import GameError


@dataclass(frozen=True)
class Config:
    agents: int = 3
    """And as many landmarks."""
    actions: Actions = "discrete"
    max_steps: int = 100
    nearest: Literal["free", "any"] = "free"
    """Whose distance to a landmark without an agent counts: of agents that are at no other, or of all."""
    touch_reward: float = 1.0
    distance_weight: float = 1.0
    collision_penalty: float = 1.0
    touch_radius: float = 0.15
    """An agent closer than this to a landmark is at it: by default, when it covers the center."""
    dwell: int = 0
    """Steps after which a landmark moves (the course's MultiCollect: 10). 0: never."""
    agent_size: float = 0.15
    landmark_size: float = 0.05
    """Of the picture; landmarks can be walked over."""
    acceleration: float = 5.0
    device: str = "cpu"


class Target(World):
    """`memory` counts, for each landmark, the steps in a row at which somebody was there."""

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        """Raises GameError without agents and for a negative dwell."""
        N = config.agents
        if N < 1 or config.dwell < 0:
            raise GameError(f"{name} was asked for with agents={N} and dwell={config.dwell}; at least 1 and 0 are needed")
        names = [f"agent_{i}" for i in range(N)]
        super().__init__(name, names, navigator_sees(N), (tuple(range(N)),), config.actions, config.max_steps, config.device, dtype)
        self.config, self.draws, self.area = config, 4 * N, config.touch_radius
        self.agent_sizes, self.landmark_sizes = [config.agent_size] * N, [config.landmark_size] * N
        self._reach = reaches(self.agent_sizes, [], [True] * N, obstacles=False, device=self.device, dtype=dtype)
        self.bodies = Bodies(torch.full((N, 1), config.acceleration, dtype=dtype, device=self.device), self._reach, None)

    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """As in simple_spread."""
        counters = self.config.agents if self.config.dwell else 0
        return at_rest(
            scattered(draws, -1.0, 1.0), self.config.agents, torch.zeros(counters, draws.shape[1], dtype=torch.int64, device=self.device)
        )

    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """The reward as above, then landmarks that were held long enough move."""
        config, N = self.config, self.config.agents
        distance = length(offsets(state.position, state.place))
        there = distance[:, N:] < config.touch_radius
        occupied = there.any(0)
        counted = distance[:, N:]
        if config.nearest == "free":
            busy = there.any(1)
            counted = torch.where((busy & ~busy.all(0))[:, None], torch.inf, counted)
        common = torch.where(occupied, config.touch_reward, -config.distance_weight * counted.amin(0)).sum(0)
        reward = common - config.collision_penalty * (distance[:, :N] < self._reach).sum(1)
        return (self._collected(state, occupied) if config.dwell else state), reward

    def _collected(self, state: State, occupied: Bool[Tensor, "L B"]) -> State:
        held = torch.where(occupied, state.memory + 1, 0)
        gone = held >= self.config.dwell
        fresh = scattered(self.draw(state.key, state.drawn, 2 * self.config.agents), -1.0, 1.0)
        # Every step takes numbers, used or not: then the count does not depend on what happened.
        return state._replace(
            place=torch.where(gone, fresh, state.place), memory=torch.where(gone, 0, held), drawn=state.drawn + 2 * self.config.agents
        )
