"""Intrinsic reward for reaching states unlike those seen before."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.equations.exploration import knn_distance, state_entropy_reward
from tutelage.rewards.source import RewardSource


class StateEntropy(RewardSource):
    """Distance to the k-th nearest of the states held at the last refresh, over the deviation of such distances.

    PEBBLE (Lee et al. 2021, arXiv 2106.05091), section 4.1. The deviation is that of all states at the last refresh, where
    the authors' code keeps a running one over minibatches.
    """

    def __init__(self, neighbors: int) -> None:
        """neighbors: k (PEBBLE: 5)."""
        self.neighbors = neighbors
        self.states: Float[Tensor, "R M D"] | None = None
        self.std = torch.ones(1, 1)

    @torch.no_grad()
    def refresh(self, states: Float[Tensor, "R M D"]) -> None:
        """Measure from these states from now on."""
        self.states = states.clone()
        self.std = knn_distance(states, states, self.neighbors).std(-1, keepdim=True)

    @torch.no_grad()
    def reward(self, observation: Float[Tensor, "R N D"], action: Tensor, game_reward: Tensor) -> Float[Tensor, "R N"]:
        """Zero before the first refresh: nothing is known yet that a state could differ from."""
        if self.states is None:
            return torch.zeros(observation.shape[:-1], device=observation.device)
        return state_entropy_reward(knn_distance(observation, self.states, self.neighbors), self.std)

    def state(self) -> dict[str, Any]:
        """The reference states and the deviation."""
        return {"states": self.states, "std": self.std}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.states, self.std = state["states"], state["std"]
