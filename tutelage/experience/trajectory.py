"""Transitions and trajectories as tensors with three separate flags."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of every copy: R seeds, B copies each. Observations are vectors `[D]` or images `[C, H, W]` of bytes.

    In a game of many, what is paid, ended and masked has an axis of agents `[..., n]`; observations and actions are joint vectors.
    """

    observation: Shaped[Tensor, "R B *O"]
    action: Float[Tensor, "R B A"]
    """In the units of the game, as `nested.flatten_action` lays them out."""
    reward: Float[Tensor, "R B *n"]
    """The game's own."""
    successor: Shaped[Tensor, "R B *O"]
    """The true successor, also at an episode's end."""
    next_observation: Shaped[Tensor, "R B *O"]
    """Where play goes on: the successor, or the first observation of the next episode."""
    terminated: Bool[Tensor, "R B *n"]
    boundary: Bool[Tensor, "R B"]
    mask: Bool[Tensor, "R B *n"]
    legal: Bool[Tensor, "R B K"] | None = None
    """Which discrete actions could be taken here. None: all."""
    next_legal: Bool[Tensor, "R B K"] | None = None
    """The same at the true successor."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions drawn for learning, N of each seed. Observations are vectors `[D]` or images `[C, H, W]` of bytes.

    In a game of many, what is paid, ended and masked has an axis of agents `[..., n]`; observations and actions are joint vectors.
    """

    observation: Shaped[Tensor, "R N *O"]
    action: Float[Tensor, "R N A"]
    reward: Float[Tensor, "R N *n"]
    """As last relabelled; over several steps, their discounted sum."""
    next_observation: Shaped[Tensor, "R N *O"]
    """The true successor."""
    terminated: Bool[Tensor, "R N *n"]
    mask: Float[Tensor, "R N *n"]
    """1 for a real step, else 0."""
    legal: Bool[Tensor, "R N K"] | None = None
    """Which discrete actions could be taken. None: all."""
    next_legal: Bool[Tensor, "R N K"] | None = None
    """The same at the true successor; where the game is over there may be none."""
    discount: Float[Tensor, "R N"] | None = None
    """Of the successor's value after several steps. None: after one, the learner's own."""

    def __getitem__(self, seeds: slice) -> "Batch":
        """The same of some seeds."""
        given = (name for name in Batch.__slots__ if getattr(self, name) is not None)
        return replace(self, **{name: getattr(self, name)[seeds] for name in given})


@dataclass(frozen=True, slots=True)
class Segments:
    """Clips of H steps that lie within one episode each; `*n` are any leading axes."""

    observation: Tensor
    """`[*n, H, D]`, or images `[*n, H, channels, height, width]`."""
    action: Float[Tensor, "*n H A"]
    reward: Float[Tensor, "*n H"]
    """The game's own, which only a teacher may look at."""
    start: Tensor
    """[*n], the slot of the first step (time x B + copy) in the replay it was cut from."""

    def __getitem__(self, index: Tensor | int | slice) -> "Segments":
        return Segments(self.observation[index], self.action[index], self.reward[index], self.start[index])

    def inner(self, margin: int) -> "Segments":
        """Without so many steps at either end; `start` stays that of the whole clips."""
        steps = (*[slice(None)] * self.start.dim(), slice(margin, self.reward.shape[-1] - margin))
        return Segments(self.observation[steps], self.action[steps], self.reward[steps], self.start) if margin else self


def stack_segments(segments: list[Segments]) -> Segments:
    """Segments of equal shape along a new first axis."""
    return Segments(*(torch.stack([getattr(s, name) for s in segments]) for name in ("observation", "action", "reward", "start")))
