"""Predators and prey: slow adversaries are paid for touching fast agents among solid obstacles. mpe2's simple_tag_v3."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.games.particle.physics import Bodies, State, length, offsets, reaches
from tutelage.games.particle.world import Actions, Beginning, Rows, World, at_rest, scattered
from tutelage.games.spec import GameError


@dataclass(frozen=True)
class Config:
    agents: int = 1
    """Prey."""
    adversaries: int = 3
    obstacles: int = 2
    actions: Actions = "discrete"
    max_steps: int = 25
    catch_reward: float = 10.0
    """Of every adversary, for each pair of adversary and prey that touch."""
    caught_penalty: float = 10.0
    """Of the prey, for each adversary that touches it."""
    border_weight: float = 1.0
    """Of the prey's penalty for leaving the picture."""
    agent_size: float = 0.05
    adversary_size: float = 0.075
    landmark_size: float = 0.2
    agent_acceleration: float = 4.0
    adversary_acceleration: float = 3.0
    agent_top_speed: float = 1.3
    adversary_top_speed: float = 1.0
    frozen: Literal["nobody", "predators", "prey"] = "nobody"
    """Who is no agent of the game but a part of its world, played by a script."""
    device: str = "cpu"


class Tag(World):
    """Each observes its velocity and position, obstacles and others from where it is, and the velocities of (other) prey.

    The adversaries, who come first in the order, are the first team.
    """

    def __init__(self, name: str, config: Config, dtype: torch.dtype = torch.float32) -> None:
        """Raises GameError without prey, without adversaries and for fewer than no obstacles."""
        K, N, L = config.adversaries, config.adversaries + config.agents, config.obstacles
        if config.agents < 1 or K < 1 or L < 0:
            raise GameError(
                f"{name} was asked for with agents={config.agents}, adversaries={K} and obstacles={L}; at least 1, 1, 0 are needed"
            )
        rows = Rows(N, L)
        prey = range(K, N)
        sees = [
            [*rows.velocity(i), *rows.position(i), *rows.landmarks(i), *rows.others(i)]
            + [row for other in prey if other != i for row in rows.velocity(other)]
            for i in range(N)
        ]
        names = [*(f"adversary_{i}" for i in range(K)), *(f"agent_{i}" for i in range(config.agents))]
        super().__init__(name, names, sees, (tuple(range(K)), tuple(prey)), config.actions, config.max_steps, config.device, dtype)
        self.config, self.draws = config, 2 * (N + L)
        self.agent_sizes = [config.adversary_size] * K + [config.agent_size] * config.agents
        self.landmark_sizes = [config.landmark_size] * L
        self._reach = reaches(self.agent_sizes, self.landmark_sizes, [True] * N, obstacles=True, device=self.device, dtype=dtype)

        def each(adversary: float, agent: float) -> Tensor:
            return torch.tensor([adversary] * K + [agent] * config.agents, dtype=dtype, device=self.device)[:, None]

        acceleration = each(config.adversary_acceleration, config.agent_acceleration)
        self.bodies = Bodies(acceleration, self._reach, each(config.adversary_top_speed, config.agent_top_speed))

    def begin(self, draws: Float[Tensor, "D B"]) -> Beginning:
        """Agents anywhere in [-1, 1]^2, obstacles in [-0.9, 0.9]^2."""
        N = self.config.adversaries + self.config.agents
        agents, obstacles = scattered(draws[: 2 * N], -1.0, 1.0), scattered(draws[2 * N :], -0.9, 0.9)
        return at_rest(torch.cat([agents, obstacles], dim=1), N)

    def pay(self, state: State) -> tuple[State, Float[Tensor, "N B"]]:
        """Adversaries, all the same: a reward per touch; prey: a penalty per touch and one that grows beyond 0.9 from the center."""
        config, K = self.config, self.config.adversaries
        N = K + config.agents
        distance = length(offsets(state.position, state.place)[:, :K, K:N])
        touching = distance < self._reach[:K, K:N]
        beyond = state.position[:, K:].abs()
        border = torch.where(beyond < 1.0, (10.0 * (beyond - 0.9)).clamp(min=0.0), (2.0 * beyond - 2.0).exp().clamp(max=10.0)).sum(0)
        adversaries = (config.catch_reward * touching.sum((0, 1))).expand(K, -1)
        return state, torch.cat([adversaries, -config.caught_penalty * touching.sum(0) - config.border_weight * border])
