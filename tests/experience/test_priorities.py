"""The sum tree against plain lists of numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from tutelage.experience.priorities import Priorities


def generators(count: int, seed: int = 0) -> list[Generator]:
    return [Generator().manual_seed(seed + i) for i in range(count)]


def columns_of(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def test_drawn_in_proportion_to_the_power_of_the_priority():
    tree = Priorities(2, 5, exponent=2.0)
    tree.set(columns_of([0, 1, 4], [1, 2, 3]), torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 4.0]]))
    drawn = tree.draw(18 * 1000, generators(2))
    # One number from each of 18,000 equal shares of the sum: the counts differ from 1 : 4 : 9 and 1 : 1 : 16 by the shares at the edges.
    for seed, expected in enumerate(([1, 4, 0, 0, 9], [0, 1, 1, 16, 0])):
        counts = torch.bincount(drawn[seed], minlength=5)
        for count, share in zip(counts.tolist(), expected, strict=True):
            assert count == pytest.approx(18_000 * share / sum(expected), abs=2.0)
            assert count > 0 or share == 0


def test_importance_weights_by_hand():
    tree = Priorities(1, 4, exponent=1.0)
    tree.set(columns_of([0, 1, 2]), torch.tensor([[1.0, 2.0, 5.0]]))
    # P = 1/8, 2/8, 5/8; (3 P)^-0.5 = (8/3)^.5, (4/3)^.5, (8/15)^.5; the largest of the batch becomes 1.
    weights = tree.weights(columns_of([2, 1, 1]), count=3, exponent=0.5)
    assert weights[0].tolist() == pytest.approx([math.sqrt(8 / 15) / math.sqrt(4 / 3), 1.0, 1.0])
    assert tree.weights(columns_of([0, 1, 2]), 3, 0.0)[0].tolist() == [1.0, 1.0, 1.0]
    assert tree.weights(columns_of([0, 2, 2]), 3, 1.0)[0].tolist() == pytest.approx([1.0, 0.2, 0.2])


def test_the_weighted_draw_is_unbiased_at_exponent_one():
    """sum_i P(i) w_i x_i is the plain mean, up to the factor that makes the largest weight 1."""
    tree, x = Priorities(1, 7, exponent=0.7), torch.arange(1.0, 8.0)
    tree.set(torch.arange(7)[None], torch.rand(1, 7, generator=Generator().manual_seed(3)) + 0.1)
    share = (tree.leaves.view(-1)[:7] / tree.sums.sum()).float()
    weights = tree.weights(torch.arange(7)[None], 7, 1.0)[0]
    expectation = (share * weights * x).sum() / (share * weights).sum()
    assert expectation.item() == pytest.approx(x.mean().item(), rel=1e-6)


writes = st.lists(st.tuples(st.integers(0, 40), st.floats(1e-6, 1e6)), min_size=1, max_size=30)


@given(columns=st.integers(1, 41), script=writes, seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_sums_never_drift_and_only_what_has_a_priority_is_drawn(columns: int, script: list[tuple[int, float]], seed: int):
    tree, plain = Priorities(1, columns, exponent=0.6), [0.0] * columns
    for column, priority in script:
        tree.set(columns_of([column % columns]), torch.tensor([[priority]], dtype=torch.float64))
        plain[column % columns] = priority**0.6
    leaves = tree.leaves.view(-1)[:columns]
    assert leaves.tolist() == pytest.approx(plain, rel=1e-12)
    assert tree.sums.sum().item() == pytest.approx(math.fsum(plain), rel=1e-12)
    drawn = tree.draw(64, generators(1, seed))[0].tolist()
    assert all(0 <= column < columns and plain[column] > 0.0 for column in drawn)
    assert drawn == sorted(drawn)  # one from each share of the sum, in its order


def test_a_point_at_the_very_end_of_the_sum_falls_on_an_entry_with_a_priority(monkeypatch: pytest.MonkeyPatch):
    tree = Priorities(1, 9, exponent=1.0)
    tree.set(columns_of([0, 4]), torch.tensor([[0.1, 0.2]]))  # the last block is empty
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.ones(size, dtype=torch.float64))  # which rounding can give
    assert tree.draw(1, generators(1)).tolist() == [[4]]


def test_what_enters_has_the_largest_priority_so_far_and_masked_steps_none():
    tree = Priorities(2, 6, exponent=0.5)
    tree.enter(columns_of([0, 1], [0, 1]), torch.tensor([[True, True], [True, False]]))
    assert tree.leaves.view(2, -1)[:, :2].tolist() == [[1.0, 1.0], [1.0, 0.0]]
    tree.set(columns_of([0], [0]), torch.tensor([[9.0], [0.25]]))
    tree.enter(columns_of([2], [2]), torch.ones(2, 1, dtype=torch.bool))
    assert tree.leaves.view(2, -1)[:, 2].tolist() == [3.0, 1.0]


def test_an_error_that_is_not_finite_counts_as_the_largest():
    tree = Priorities(2, 4, exponent=1.0)
    tree.set(columns_of([0, 1], [0, 1]), torch.tensor([[4.0, math.nan], [2.0, math.inf]]))
    tree.set(columns_of([2], [2]), torch.tensor([[math.nan], [1.0]]))
    assert tree.leaves.view(2, -1)[0, :3].tolist() == [4.0, 1.0, 4.0]
    assert tree.leaves.isfinite().all() and tree.sums.isfinite().all()


def test_each_seed_draws_with_its_own_generator_from_its_own_priorities():
    both = Priorities(2, 30, exponent=0.6)
    priority = torch.rand(2, 30, generator=Generator().manual_seed(1)) + 0.01
    both.set(torch.arange(30).expand(2, -1), priority)
    for seed in range(2):
        alone = Priorities(1, 30, exponent=0.6)
        alone.set(torch.arange(30)[None], priority[seed : seed + 1])
        assert torch.equal(alone.draw(50, [generators(2)[seed]])[0], both.draw(50, generators(2))[seed])
        columns = torch.arange(7, 12)[None]
        assert torch.equal(alone.weights(columns, 30, 0.4)[0], both.weights(columns.expand(2, -1), 30, 0.4)[seed])


def test_nothing_to_draw_says_so():
    tree = Priorities(2, 4, exponent=1.0)
    tree.set(columns_of([1]).expand(2, -1)[:, :1], torch.ones(2, 1))
    tree.enter(columns_of([1], [2]), torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(IndexError, match="no real step with a priority"):
        tree.draw(3, generators(2))
