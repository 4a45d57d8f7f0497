"""Reward sources that need no learning."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


class RewardError(ValueError):
    """A written reward that gave what is none; one sentence."""


class RewardSource(ABC):
    """Numbers for transitions."""

    @abstractmethod
    def reward(
        self, observation: Float[Tensor, "*batch D"], action: Float[Tensor, "*batch A"], game_reward: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """One number per transition; actions in the game's units."""


class GameReward(RewardSource):
    """What the game itself pays."""

    def reward(self, observation: Tensor, action: Tensor, game_reward: Tensor) -> Tensor:
        """The game's reward, unchanged."""
        return game_reward


class SignReward(RewardSource):
    """The sign of what the game pays, so that games with large and small points are learned at one scale; scores stay the game's.

    Mnih et al. 2015 (Nature 518), methods.
    """

    def reward(self, observation: Tensor, action: Tensor, game_reward: Tensor) -> Tensor:
        """-1, 0 or 1."""
        return game_reward.sign()


@dataclass(frozen=True)
class WrittenReward(RewardSource):
    """A reward that a person wrote down as a function of observation and action."""

    function: Callable[[Tensor, Tensor], Tensor]
    """(observation `[..., D]`, action `[..., A]`) -> `[...]`."""

    def reward(self, observation: Tensor, action: Tensor, game_reward: Tensor) -> Tensor:
        """The written reward. Raises RewardError when the function answers with another shape or with NaN."""
        value = self.function(observation, action)
        if not isinstance(value, Tensor):
            raise RewardError(f"the written reward gave a {type(value).__name__}; a tensor was expected")
        if value.shape != game_reward.shape:
            raise RewardError(f"the written reward gave shape {tuple(value.shape)} for observations {tuple(observation.shape)}")
        if not torch.isfinite(value).all():
            raise RewardError("the written reward gave a value that is not finite")
        return value
