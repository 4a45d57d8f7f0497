"""Transitions and trajectories as tensors with three separate flags."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of every copy: R seeds, B copies each."""

    observation: Float[Tensor, "R B D"]
    action: Float[Tensor, "R B A"]
    """In the units of the game."""
    reward: Float[Tensor, "R B"]
    """The game's own."""
    successor: Float[Tensor, "R B D"]
    """The true successor, also at an episode's end."""
    next_observation: Float[Tensor, "R B D"]
    """Where play goes on: the successor, or the first observation of the next episode."""
    terminated: Bool[Tensor, "R B"]
    boundary: Bool[Tensor, "R B"]
    mask: Bool[Tensor, "R B"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions drawn for learning, N of each seed."""

    observation: Float[Tensor, "R N D"]
    action: Float[Tensor, "R N A"]
    reward: Float[Tensor, "R N"]
    """As last relabelled."""
    next_observation: Float[Tensor, "R N D"]
    """The true successor."""
    terminated: Bool[Tensor, "R N"]
    mask: Float[Tensor, "R N"]
    """1 for a real step, else 0."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Clips of H steps that lie within one episode each; `*n` are any leading axes."""

    observation: Float[Tensor, "*n H D"]
    action: Float[Tensor, "*n H A"]
    reward: Float[Tensor, "*n H"]
    """The game's own, which only a teacher may look at."""
    start: Tensor
    """[*n], the slot of the first step (time x B + copy) in the replay it was cut from."""

    def __getitem__(self, index: Tensor | int | slice) -> "Segments":
        return Segments(self.observation[index], self.action[index], self.reward[index], self.start[index])


def stack_segments(segments: list[Segments]) -> Segments:
    """Segments of equal shape along a new first axis."""
    return Segments(*(torch.stack([getattr(s, name) for s in segments]) for name in ("observation", "action", "reward", "start")))
