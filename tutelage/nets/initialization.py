"""First weights of stacked nets: seed r draws from its own generator, so that stacking changes nothing."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool
from torch import Generator, Tensor


def fill_uniform(weight: Tensor, fan_in: int, generators: Sequence[Generator], chosen: Bool[Tensor, "R"] | None = None) -> None:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), in place; weight `[R, ...]`, chosen: the seeds to fill (None: all).

    LeCun et al. 1998, sec. 4.6 (up to a constant); the bound that PyTorch's layers have.
    """
    for seed, (member, generator) in enumerate(zip(weight, generators, strict=True)):
        if chosen is None or chosen[seed]:
            draw = torch.rand(member.shape, generator=generator)
            member.copy_((2.0 * draw - 1.0) / fan_in**0.5)


def fill_orthogonal(
    weight: Tensor, inner: int, gain: float, generators: Sequence[Generator], chosen: Bool[Tensor, "R"] | None = None
) -> None:
    """Random orthogonal matrices times `gain`, in place; chosen: the seeds to fill (None: all).

    weight `[R, *members, *matrix]`, the last `inner` axes a matrix whose first axis is one side and whose others are the other side.
    Rows or columns, whichever are fewer, are orthonormal. Saxe et al. 2014 (arXiv 1312.6120), section 3.
    """
    rows, columns = weight.shape[-inner], prod(weight.shape[weight.dim() - inner + 1 :])
    for seed, (member, generator) in enumerate(zip(weight, generators, strict=True)):
        if chosen is None or chosen[seed]:
            lead = member.shape[: member.dim() - inner]
            draw = torch.randn(*lead, max(rows, columns), min(rows, columns), generator=generator)
            q, r = torch.linalg.qr(draw)
            q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # without it, the law of Householder's signs and not Haar's
            member.copy_(gain * (q if rows >= columns else q.mT).reshape(member.shape))
