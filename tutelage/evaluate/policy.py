"""Frozen policies."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tutelage.games.nested import flatten_observation, from_leaves, leaf_shape, leaf_spaces, leaf_values
from tutelage.games.spec import GameError, Nested, Space


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
        """observation: as the game gives it, one or `[B, ...]`, arrays or tensors -> `[A]` or `[B, A]` in the game's units.

        Raises GameError when the observation does not fit the game that the policy learned in.
        """
        flat = self._flat(observation)
        lead, width = flat.shape[:-1], flat.shape[-1]
        batch = flat.reshape(1, math.prod(lead), width).expand(self.members, -1, -1)
        actions = self.learner.act(batch, deterministic)[self.member]
        return actions.reshape(*lead, actions.shape[-1])

    def _flat(self, observation: Any) -> Tensor:
        space = self.observation_space
        try:
            values = leaf_values(space, observation)
            tensors = [value if isinstance(value, Tensor) else torch.as_tensor(np.array(value, order="C")) for value in values]
        except (TypeError, LookupError, ValueError) as error:
            reason = f"it has no entry {error}" if isinstance(error, KeyError) else error
            raise GameError(f"the policy was given an observation that is none of this game: {reason}") from None
        shapes = [leaf_shape(leaf) for leaf in leaf_spaces(space)]
        leads = {tensor.shape[: max(tensor.dim() - len(shape), 0)] for tensor, shape in zip(tensors, shapes, strict=True)}
        if len(leads) > 1 or any(tensor.shape[tensor.dim() - len(s) :] != s for tensor, s in zip(tensors, shapes, strict=True)):
            given = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise GameError(f"the policy was given an observation of shape {given}; {', '.join(map(str, shapes))} was expected, or a batch")
        try:
            return flatten_observation(space, from_leaves(space, tensors))
        except RuntimeError as error:  # a number that a discrete space does not have
            raise GameError(f"the policy was given an observation that is none of this game: {error}") from None
