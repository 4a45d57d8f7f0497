"""Minibatches: each seed's steps once, in an order of its own, whole recordings where there is memory."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.steps import Steps

R, T, B = 2, 3, 5


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def steps(memory: bool = False, masked: bool = True, both: bool = True) -> Steps:
    """Every tensor holds the number of the step, (seed, time, copy)."""
    number = torch.arange(R * T * B).float().view(R, T, B)
    deep = lambda width: number[..., None].expand(-1, -1, -1, width)
    carry = torch.arange(R * B).float().view(R, B, 1)
    made = Steps(
        deep(4), deep(1), deep(2), number, number, number, number, number if masked else None, None, number > 7.0,
        carry[:, None].expand(-1, 2, -1, -1) if both else carry,
    )  # fmt: skip
    return made if memory else made.as_rows()


def numbers_of(batch: Steps) -> Tensor:
    """[R, *n], after checking that all tensors of the batch speak of the same steps."""
    for name in ("observation", "action", "parameters"):
        assert (getattr(batch, name) == batch.value[..., None]).all(), name
    for name in ("logp", "advantage", "target"):
        assert torch.equal(getattr(batch, name), batch.value), name
    assert batch.mask is None or torch.equal(batch.mask, batch.value)
    return batch.value


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4, 4, 3]), (15, [15]), (100, [15]), (1, [1] * 15)])
@pytest.mark.parametrize("masked", [True, False])
def test_each_step_once_in_an_order_of_its_seed(batch_size: int, sizes: list[int], masked: bool):
    batches = list(steps(masked=masked).shuffled(generators(1, 2), batch_size))
    assert [b.value.shape for b in batches] == [(R, size) for size in sizes]
    seen = torch.cat([numbers_of(b) for b in batches], 1)
    assert torch.equal(seen.sort(1).values, torch.arange(R * T * B).float().view(R, -1))
    assert not torch.equal(seen[0] + T * B, seen[1]) and not torch.equal(seen[0], seen[0].sort().values)
    assert all(b.legal is None and b.starts is None and b.carry is None and (b.mask is not None) == masked for b in batches)


def test_another_seed_changes_no_order():
    orders = [torch.cat([b.value for b in steps().shuffled(generators(1, other), 4)], 1) for other in (2, 3)]
    assert torch.equal(orders[0][0], orders[1][0]) and not torch.equal(orders[0][1], orders[1][1])


@pytest.mark.parametrize(("batch_size", "copies"), [(1, [1] * 5), (3, [1] * 5), (6, [2, 2, 1]), (8, [2, 2, 1]), (15, [5])])
@pytest.mark.parametrize("both", [True, False])
def test_recordings_stay_whole(batch_size: int, copies: list[int], both: bool):
    batches = list(steps(memory=True, both=both).shuffled(generators(1, 2), batch_size))
    assert [b.value.shape for b in batches] == [(R, T, count) for count in copies]
    for batch in batches:
        numbers = numbers_of(batch)
        copy = numbers[:, 0] - torch.arange(R)[:, None] * T * B
        assert torch.equal(numbers, numbers[:, :1] + torch.arange(T)[:, None] * B)  # one copy from its first step to its last
        carry: Any = batch.carry
        assert torch.equal(carry[..., 0], (copy + torch.arange(R)[:, None] * B)[:, None].expand(-1, 2, -1) if both else
                           copy + torch.arange(R)[:, None] * B)  # fmt: skip
        assert batch.starts is not None and torch.equal(batch.starts, numbers > 7.0)
    seen = torch.cat([b.value for b in batches], 2)
    assert torch.equal(seen.sort(2).values, steps(memory=True).value) and not torch.equal(seen[0] + T * B, seen[1])
