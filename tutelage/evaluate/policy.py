"""Frozen policies."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tutelage.games.nested import encode_observation, from_leaves, leaf_shape, leaf_spaces, leaf_values, observation_shape, unflatten_action
from tutelage.games.spec import GameError, Nested, Space
from tutelage.learn.learner import Acting
from tutelage.nets.recurrent import Carry


class StackedPolicy:
    """R learners as one policy for the evaluation: nested observations of R x B copies, member-major."""

    def __init__(self, learner: Acting, members: int, observation_space: Space, action_space: Space) -> None:
        self.learner, self.members, self.observation_space, self.action_space = learner, members, observation_space, action_space
        self.carry: Carry | None = None

    def act(self, observation: Nested, deterministic: bool = True, legal: Tensor | None = None) -> Any:
        """observation: `[R * B, ...]`, legal: `[R * B, K]` -> actions `[R * B, ...]` as the game takes them."""
        vectors = encode_observation(self.observation_space, observation)
        vectors = vectors.view(self.members, -1, *vectors.shape[1:])
        legal = None if legal is None else legal.view(self.members, -1, legal.shape[-1])
        if self.carry is None or self.carry.state.shape[1] != vectors.shape[1]:
            self.carry = self.learner.carry(vectors.shape[1])
        actions = self.learner.act(vectors, deterministic, legal, self.carry)
        return unflatten_action(self.action_space, actions.reshape(-1, actions.shape[-1]))

    def restart(self, where: Bool[Tensor, "copies"] | None = None) -> None:
        """New episodes begin in the marked of the R * B copies (None: all)."""
        if self.carry is not None and where is not None:
            self.carry.restart(where.view(self.members, -1))
        else:
            self.carry = None


class MemberPolicy:
    """One of R learners, for one observation or a batch of them."""

    def __init__(self, learner: Acting, members: int, member: int, observation_space: Space, action_space: Space) -> None:
        self.learner, self.members, self.member = learner, members, member
        self.observation_space, self.action_space = observation_space, action_space
        self.carry: Carry | None = None

    def act(self, observation: Any, deterministic: bool = True, legal: Tensor | None = None) -> Any:
        """observation: as the game gives it, one or `[B, ...]`, arrays or tensors -> one action or `[B, ...]`, as the game takes them.

        legal: `[K]` or `[B, K]`, which discrete actions may be taken (None: all). A policy with memory goes on with the episodes
        of the last call; `restart` begins anew. Raises GameError when the observation does not fit the game that the policy
        learned in.
        """
        vectors = self._vectors(observation)
        shape = observation_shape(self.observation_space)
        lead = vectors.shape[: vectors.dim() - len(shape)]
        copies = math.prod(lead)
        if self.carry is None or self.carry.state.shape[1] != copies:
            self.carry = self.learner.carry(copies)
        batch = vectors.reshape(1, copies, *shape).expand(self.members, *[-1] * (1 + len(shape)))
        masks = None if legal is None else legal.reshape(1, copies, -1).expand(self.members, -1, -1)
        actions = self.learner.act(batch, deterministic, masks, self.carry)[self.member]
        return unflatten_action(self.action_space, actions.reshape(*lead, actions.shape[-1]))

    def restart(self, where: Bool[Tensor, "copies"] | None = None) -> None:
        """New episodes begin in the marked copies of the last batch (None: all)."""
        if self.carry is not None and where is not None:
            self.carry.restart(where.expand(self.members, -1))
        else:
            self.carry = None

    def _vectors(self, observation: Any) -> Tensor:
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
            return encode_observation(space, from_leaves(space, tensors))
        except RuntimeError as error:  # a number that a discrete space does not have
            raise GameError(f"the policy was given an observation that is none of this game: {error}") from None
