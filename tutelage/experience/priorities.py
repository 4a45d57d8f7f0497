"""Priorities of stored transitions: drawing in proportion to them, and weights that undo the bias."""

from collections.abc import Sequence
from math import isqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor


class Priorities:
    """A sum tree of two levels for each of R seeds: P(i) = p_i^exponent / sum_k p_k^exponent.

    Schaul et al. 2016 (arXiv 1511.05952), eq. 1 and appendix B.2.1. Two wide levels instead of the paper's log2(n) narrow ones: a
    block's sum is taken anew whenever an entry of it changes, which costs sqrt(n) additions in one call and never drifts.
    """

    def __init__(self, members: int, columns: int, exponent: float, device: torch.device | str = "cpu") -> None:
        """columns: how many entries each seed has; all start at zero, which is never drawn. exponent: 0 draws uniformly (alpha)."""
        self.members, self.columns, self.exponent = members, columns, exponent
        self.width = isqrt(columns - 1) + 1
        blocks = -(-columns // self.width)
        self.leaves = torch.zeros(members, blocks, self.width, dtype=torch.float64, device=device)
        """p_i^exponent, in rows of one block each."""
        self.sums = torch.zeros(members, blocks, dtype=torch.float64, device=device)
        self.maximum = torch.ones(members, dtype=torch.float64, device=device)
        """The largest priority ever set: what a transition gets that nobody has learned from yet."""
        self._seed = torch.arange(members, device=device)[:, None]

    def set(self, columns: Int[Tensor, "R N"], priority: Float[Tensor, "R N"]) -> None:
        """New priorities, positive; of a column that occurs twice, one of them. One that is not finite counts as the largest so far."""
        priority = priority.to(self.leaves)
        priority = torch.where(priority.isfinite(), priority, self.maximum[:, None])
        self.maximum = torch.maximum(self.maximum, priority.amax(1))
        self._write(columns.to(self.leaves.device), priority**self.exponent)

    def enter(self, columns: Int[Tensor, "R N"], mask: Bool[Tensor, "R N"]) -> None:
        """The largest priority so far, where `mask` is true: everything is learned from at least once. Elsewhere none."""
        mask = mask.to(self.leaves.device)
        self._write(columns.to(mask.device), torch.where(mask, self.maximum[:, None] ** self.exponent, 0.0))

    def _write(self, columns: Tensor, leaves: Tensor) -> None:
        self.leaves.view(self.members, -1).scatter_(1, columns, leaves)
        block = columns // self.width
        self.sums.scatter_(1, block, self.leaves[self._seed, block].cumsum(-1)[..., -1])

    def add_up(self) -> None:
        """All sums anew, after the leaves were written from outside."""
        self.sums.copy_(self.leaves.cumsum(-1)[..., -1])

    def draw(self, batch_size: int, generators: Sequence[Generator]) -> Int[Tensor, "R N"]:
        """Columns in proportion to their priority, one from each of batch_size equal shares of the sum, seed r by generators[r].

        Raises IndexError when a seed has nothing to draw.
        """
        above = self.sums.cumsum(-1)
        if not (above[:, -1] > 0.0).all():
            raise IndexError("a seed has no real step with a priority: nothing can be drawn from it")
        device = self.leaves.device
        points = torch.stack([torch.rand(batch_size, generator=g, dtype=torch.float64) for g in generators]).to(device)
        points = (torch.arange(batch_size, device=device) + points) / batch_size * above[:, -1:]
        block = _first_above(above, points)
        before = torch.where(block > 0, above.gather(1, (block - 1).clamp(min=0)), 0.0)
        within = self.leaves[self._seed, block].cumsum(-1)
        return block * self.width + _first_above(within, (points - before)[..., None]).squeeze(-1)

    def weights(self, columns: Int[Tensor, "R N"], count: int, exponent: float) -> Float[Tensor, "R N"]:
        """Importance weights w_i = (count P(i))^-exponent over the largest of each seed's batch (section 3.4; the exponent is its beta).

        count: transitions that could have been drawn.
        """
        leaves = self.leaves.view(self.members, -1).gather(1, columns.to(self.leaves.device))
        weights = (count * leaves / self.sums.sum(-1, keepdim=True)) ** -exponent
        return (weights / weights.amax(1, keepdim=True)).float()


def _first_above(cumulative: Tensor, points: Tensor) -> Tensor:
    """The first entry whose cumulative sum exceeds the point. A point that rounding brought to the end counts as just before it."""
    last = torch.nextafter(cumulative[..., -1:], torch.zeros_like(cumulative[..., -1:]))
    return torch.searchsorted(cumulative.contiguous(), torch.minimum(points, last), right=True)
