"""Noise for stacked members: each seed draws from its own generator, so that stacking changes nothing."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def normal(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal `[R, *shape]`, row r by generators[r]."""
    out = torch.empty(len(generators), *shape)
    for row, generator in zip(out, generators, strict=True):
        row.normal_(generator=generator)
    return out


def uniform(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Uniform in [0, 1) `[R, *shape]`, row r by generators[r]."""
    out = torch.empty(len(generators), *shape)
    for row, generator in zip(out, generators, strict=True):
        row.uniform_(generator=generator)
    return out


def exponential(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Exponential with mean 1 `[R, *shape]`, row r by generators[r]."""
    out = torch.empty(len(generators), *shape)
    for row, generator in zip(out, generators, strict=True):
        row.exponential_(generator=generator)
    return out
