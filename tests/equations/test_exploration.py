"""k-nearest-neighbor distances against a slow loop, on clouds that are far away, duplicated or too large for one product."""

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.equations.exploration import knn_distance, state_entropy_reward


def cloud(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow(query: Tensor, states: Tensor, k: int) -> Tensor:
    """The (k+1)-th smallest of all distances, one pair at a time, in float64."""
    rows = [sorted(math.dist(q, s) for s in states.double().tolist()) for q in query.double().tolist()]
    return torch.tensor([row[k] for row in rows], dtype=query.dtype)


def test_by_hand():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert knn_distance(line, line, k=1).tolist() == [1.0, 1.0, 2.0, 4.0]
    assert knn_distance(line, line, k=2).tolist() == [3.0, 2.0, 3.0, 6.0]
    assert knn_distance(line, line, k=3).tolist() == [7.0, 6.0, 4.0, 7.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("states", "k"), [(2, 1), (7, 6), (50, 5), (97, 1), (128, 30)])
@pytest.mark.parametrize("width", [1, 3, 24])
def test_against_a_slow_loop(dtype: torch.dtype, states: int, k: int, width: int):
    s = cloud(states, width, dtype=dtype)
    torch.testing.assert_close(knn_distance(s, s, k, chunk=16), slow(s, s, k))


def test_queries_may_be_some_of_the_states():
    s = cloud(60, 3)
    torch.testing.assert_close(knn_distance(s[10:20], s, 5), slow(s[10:20], s, 5))


def test_more_copies_than_k_are_at_exactly_zero_and_fewer_never_are():
    s = cloud(200, 4) + 30.0  # at a radius of 60, |q|^2 - 2 q.s + |s|^2 is wrong by 1e-4: a distance of 0.01 for a copy
    s[100:106] = s[100]  # six copies: each has five others
    s[150:155] = s[150]  # five copies: each has four others
    distance = knn_distance(s, s, 5, chunk=32)
    assert (distance[100:106] == 0.0).all()
    assert (distance[150:155] > 0.1).all()
    torch.testing.assert_close(distance, slow(s, s, 5))


def test_a_cloud_of_copies_is_at_zero():
    s = cloud(1, 3).expand(40, 3).contiguous()
    assert (knn_distance(s, s, 5) == 0.0).all()


def test_a_cloud_far_from_the_origin_loses_no_digits():
    s = (100 * cloud(300, 3)).round() / 1024  # on a grid, so that moving it far away is exact
    torch.testing.assert_close(knn_distance(s + 4096.0, s + 4096.0, 5), knn_distance(s, s, 5), rtol=1e-6, atol=0.0)


def test_clusters_far_apart_are_wrong_by_no_more_than_the_docstring_says():
    s = cloud(200, 3) * 0.01
    s[::2] += 100.0  # radius about 87, so squared distances below 1e-2 may be confused, and no others
    error = (knn_distance(s, s, 5).square() - slow(s, s, 5).square()).abs().max()
    assert error < 8 * torch.finfo(torch.float32).eps * 87**2


def test_members_never_mix():
    s = cloud(2, 3, 50, 4) * torch.arange(1.0, 7.0).reshape(2, 3, 1, 1)
    together = knn_distance(s[..., :20, :], s, 5, chunk=7)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], slow(s[i, j, :20], s[i, j], 5))
    s[0, 0] = 1e6
    assert torch.equal(knn_distance(s[..., :20, :], s, 5, chunk=7)[1, 2], together[1, 2])


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_the_chunk_changes_nothing(chunk: int):
    s = cloud(2, 50, 3)
    torch.testing.assert_close(knn_distance(s, s, 5, chunk=chunk), knn_distance(s, s, 5, chunk=13), rtol=1e-6, atol=0.0)


def test_scaling_the_cloud_scales_the_distances():
    s = cloud(80, 3)
    assert torch.equal(knn_distance(4 * s, 4 * s, 5), 4 * knn_distance(s, s, 5))


class Largest(TorchDispatchMode):
    """Remembers the largest storage, in numbers, that any operation gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return result


def test_no_tensor_is_larger_than_one_chunk_of_scores():
    s = cloud(3, 1000, 3)
    with Largest() as largest:
        knn_distance(s, s, 5, chunk=50)
    assert 3 * 50 * 1000 <= largest.numbers <= 1.15 * 3 * 50 * 1000


def test_it_is_fast():
    """About 9 ms on one quiet thread; the bound leaves room for a busy machine, and none for a loop over pairs."""
    s = cloud(3, 1000, 3)
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        knn_distance(s, s, 5)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.06


def test_no_gradient_flows():
    s = cloud(20, 3).requires_grad_()
    assert not knn_distance(s, s, 5).requires_grad


@pytest.mark.parametrize(("k", "chunk"), [(0, 10), (20, 10), (5, 0)])
def test_impossible_arguments_are_refused(k: int, chunk: int):
    with pytest.raises(
        ValueError, match=f"k={k}, chunk={chunk} and 20 states were given; knn_distance needs 1 <= k < states and chunk >= 1"
    ):
        knn_distance(cloud(20, 3), cloud(20, 3), k, chunk)


def test_state_entropy_reward():
    distance = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    reward = state_entropy_reward(distance, torch.tensor([[2.0], [0.0]]))
    assert reward.tolist() == [[0.5, 1.5], [0.0, 0.0]]
