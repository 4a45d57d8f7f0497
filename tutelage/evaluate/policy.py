"""Frozen policies."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tutelage.games.nested import flatten_observation, map_leaves
from tutelage.games.spec import Nested, Space


@runtime_checkable
class Acting(Protocol):
    """What a learner of vectors gives to be judged by."""

    def act(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """`[R, B, D]` -> `[R, B, A]`."""
        ...


class StackedPolicy:
    """R learners as one policy for the evaluation: nested observations of R x B copies, member-major."""

    def __init__(self, learner: Acting, members: int, observation_space: Space) -> None:
        self.learner, self.members, self.observation_space = learner, members, observation_space

    def act(self, observation: Nested, deterministic: bool = True) -> Tensor:
        """observation: `[R * B, ...]` -> actions `[R * B, A]` in the game's units."""
        flat = flatten_observation(self.observation_space, observation)
        actions = self.learner.act(flat.view(self.members, -1, flat.shape[-1]), deterministic)
        return actions.reshape(-1, actions.shape[-1])


class MemberPolicy:
    """One of R learners, for one observation or a batch of them."""

    def __init__(self, learner: Acting, members: int, member: int, observation_space: Space) -> None:
        self.learner, self.members, self.member, self.observation_space = learner, members, member, observation_space

    def act(self, observation: Any, deterministic: bool = True) -> Tensor:
        """observation: as the game gives it, `[...]` or `[B, ...]`, arrays or tensors -> `[A]` or `[B, A]` in the game's units."""
        tensors = map_leaves(torch.as_tensor, observation)
        flat = flatten_observation(self.observation_space, tensors)
        batch = flat.reshape(1, -1, flat.shape[-1]).expand(self.members, -1, -1)
        actions = self.learner.act(batch, deterministic)[self.member]
        return actions.view(*flat.shape[:-1], -1)
