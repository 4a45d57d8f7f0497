"""Physical deception: N good agents know which of N landmarks is the goal, an adversary does not. mpe2's simple_adversary_v3.

With 100 steps it is Simple Confuse of the Charles University thesis (dspace 127431).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.games.particle.physics import Bodies, State, length
from tutelage.games.particle.world import Actions, Beginning, Rows, World, at_rest, scattered
from tutelage.games.spec import GameError


@dataclass(frozen=True)
class Config:
    agents: int = 2
    """Good ones, besides the one adversary; and as many landmarks."""
    actions: Actions = "discrete"
    max_steps: int = 25
    cover_weight: float = 1.0
    """Good: minus this times the distance of the nearest of them to the goal."""
    deceive_weight: float = 1.0
    """Good: plus this times the adversary's distance to the goal."""
    adversary_weight: float = 1.0
    """Adversary: minus this times its distance to the goal."""
    agent_size: float = 0.15
    landmark_size: float = 0.08
    """Both of the picture: nobody collides."""
    acceleration: float = 5.0
    device: str = "cpu"


class Adversary(World):
    """`memory` is the number of the goal. The good see goal, landmarks and others from where they are; the adversary all but the goal.

    The good agents are the first team, though the adversary is agent 0.
    """

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        """Raises GameError without good agents."""
        good = config.agents
        if good < 1:
            raise GameError(f"{name} was asked for with agents={good}; at least one is needed")
        N = good + 1
        rows = Rows(N, good)
        sees = [[*rows.landmarks(i), *rows.others(i)] for i in range(N)]
        for i in range(1, N):
            sees[i] = [rows.extra(i), rows.extra(N + i), *sees[i]]
        names = ["adversary_0", *(f"agent_{i}" for i in range(good))]
        teams = (tuple(range(1, N)), (0,))
        super().__init__(name, names, sees, teams, config.actions, config.max_steps, config.device, dtype)
        self.config, self.draws = config, 1 + 2 * (N + good)
        self.agent_sizes, self.landmark_sizes = [config.agent_size] * N, [config.landmark_size] * good
        self.bodies = Bodies(torch.full((N, 1), config.acceleration, dtype=dtype, device=self.device), None, None)

    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """One landmark is the goal, everything is anywhere in [-1, 1]^2."""
        return at_rest(scattered(draws[1:], -1.0, 1.0), self.config.agents + 1, (draws[:1] * self.config.agents).long())

    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """Good, all the same: |x_adversary - g| - min over the good of |x_i - g|; adversary: -|x_adversary - g|."""
        config = self.config
        distance = length(self._to_goal(state))
        good = config.deceive_weight * distance[:1] - config.cover_weight * distance[1:].amin(0, keepdim=True)
        return state, torch.cat([-config.adversary_weight * distance[:1], good.expand(config.agents, -1)])

    def extra_rows(self, state: State) -> Float[Tensor, "X B"]:
        """To the goal: x of every agent, then y."""
        return self._to_goal(state).flatten(0, 1)

    def goal(self, state: State, copy: int) -> int:
        """As World.goal."""
        return int(state.memory[0, copy])

    def _to_goal(self, state: State) -> Float[Tensor, "2 N B"]:
        return state.place.gather(1, state.memory[None].expand(2, -1, -1)) - state.position
