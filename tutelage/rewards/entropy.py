"""Intrinsic reward for reaching states unlike those seen before."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.equations.exploration import knn_distance, state_entropy_reward
from tutelage.rewards.source import RewardSource


class StateEntropy(RewardSource):
    """Distance to the k-th nearest of the other states, over the deviation of such distances.

    PEBBLE (Lee et al. 2021, arXiv 2106.05091), section 4.1. Deviation and states are those of the last refresh, where the
    authors' code keeps a running deviation over minibatches. A state that has come since is measured as if it had been among
    them: it joins them, because the nearest of the others is the first neighbor that counts.
    """

    def __init__(self, neighbors: int) -> None:
        """neighbors: k (PEBBLE: 5)."""
        self.neighbors = neighbors
        self.states: Float[Tensor, "R M D"] | None = None
        self.std = torch.ones(1, 1)

    @torch.no_grad()
    def refresh(self, states: Float[Tensor, "R M D"]) -> Float[Tensor, "R M"]:
        """Measure from these states from now on; returns the reward of each of them."""
        self.states = states.clone()
        distance = knn_distance(states, states, self.neighbors)
        self.std = distance.std(-1, keepdim=True)
        return state_entropy_reward(distance, self.std)

    @torch.no_grad()
    def reward(self, observation: Float[Tensor, "R N D"], action: Tensor, game_reward: Tensor) -> Float[Tensor, "R N"]:
        """Of states that have come since. Zero before the first refresh: nothing is known yet that a state could differ from."""
        if self.states is None:
            return torch.zeros(observation.shape[:-1], device=observation.device)
        observation = observation.to(self.states.device)
        joined = torch.cat([self.states, observation], 1)
        return state_entropy_reward(knn_distance(observation, joined, self.neighbors), self.std)

    def state(self) -> dict[str, Any]:
        """The reference states and the deviation."""
        return {"states": self.states, "std": self.std}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.states, self.std = state["states"], state["std"]
