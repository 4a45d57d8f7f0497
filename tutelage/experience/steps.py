"""Steps of a window, with what was computed of them when it was full: what an on-policy learner takes gradient steps on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps to learn from, `[R, *n, ...]`: n is (N,), or (T, B) for nets with memory, which read whole recordings."""

    observation: Tensor
    """[R, *n, *O], normalized."""
    action: Float[Tensor, "R *n A"]
    parameters: Float[Tensor, "R *n W"]
    """Of the distribution that the action was drawn from."""
    logp: Float[Tensor, "R *n"]
    """Of the action, when it was drawn."""
    value: Float[Tensor, "R *n"]
    """As it was when the window was full."""
    advantage: Float[Tensor, "R *n"]
    target: Float[Tensor, "R *n"]
    """Of the value."""
    mask: Float[Tensor, "R *n"] | None
    """1 for a real step, else 0. None: all are real."""
    legal: Bool[Tensor, "R *n K"] | None
    starts: Bool[Tensor, "R T B"] | None
    """With memory: the observation is the first of an episode."""
    carry: Tensor | None
    """With memory: that of both nets before the first step, its copies on the last axis but one."""

    def as_rows(self) -> "Steps":
        """`[R, T, B, ...]` as `[R, T B, ...]`, for nets without memory."""
        rows = {name: None if x is None else x.flatten(1, 2) for name, x in self._tensors() if name not in ("starts", "carry")}
        return replace(self, **rows, starts=None, carry=None)

    def shuffled(self, generators: Sequence[Generator], batch_size: int) -> Iterator["Steps"]:
        """Once through all steps, each seed in a random order of its own, batch_size at a time.

        With memory whole recordings are kept: once through all copies, as many at a time as the batch holds, but at least one.
        """
        axis = 1 if self.starts is None else 2
        count, length = self.value.shape[axis], self.value[0].numel() // self.value.shape[axis]
        order = torch.stack([torch.randperm(count, generator=g) for g in generators]).to(self.value.device)
        seeds, size = torch.arange(len(order), device=order.device)[:, None], max(batch_size // length, 1)

        def pieces(name: str, x: Tensor | None) -> Iterator[Tensor | None]:
            if x is None:
                return repeat(None)
            own = x.dim() - 2 if name == "carry" else axis
            return iter(torch.split(x.movedim(own, 1)[seeds, order].movedim(1, own), size, own))

        names, tensors = zip(*self._tensors(), strict=True)
        for batch in zip(*map(pieces, names, tensors), strict=False):  # None is repeated for ever
            yield replace(self, **dict(zip(names, batch, strict=True)))

    def _tensors(self) -> list[tuple[str, Tensor | None]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]
