"""First weights: their law, and seeds that draw from their own generators."""

import pytest
import torch
from torch import Generator, Tensor

from tutelage.nets.initialization import fill_orthogonal, fill_uniform


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def orthogonal(weight: Tensor, generators: list[Generator]) -> None:
    fill_orthogonal(weight, 2, 1.5, generators)


def uniform(weight: Tensor, generators: list[Generator]) -> None:
    fill_uniform(weight, 16, generators)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 8), (8, 3), (1, 5)])
def test_the_shorter_side_is_orthonormal_times_the_gain(rows: int, columns: int):
    weight = torch.zeros(2, 3, rows, columns)
    fill_orthogonal(weight, 2, 1.5, generators(1, 2))
    gram = weight @ weight.mT if rows <= columns else weight.mT @ weight
    torch.testing.assert_close(gram, 2.25 * torch.eye(min(rows, columns)).expand_as(gram), atol=1e-5, rtol=0.0)
    assert len(weight.flatten(0, 1).unique(dim=0)) == 6  # every member another matrix


def test_a_kernel_is_one_matrix_of_outputs_by_everything_else():
    kernel = torch.zeros(2, 8, 3, 4, 4)
    fill_orthogonal(kernel, 4, 1.0, generators(1, 2))
    matrix = kernel.flatten(2)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(8).expand(2, 8, 8), atol=1e-5, rtol=0.0)


def test_orthogonal_matrices_have_no_preferred_sign():
    """Of Haar's law: every entry has mean 0 and mean square 1/n. Without the signs of R, the diagonal leans to one side."""
    weight = torch.zeros(1, 4000, 3, 3)
    fill_orthogonal(weight, 2, 1.0, generators(1))
    assert weight[0].mean(0).abs().max() < 4.5 * (1 / 3 / 4000) ** 0.5
    torch.testing.assert_close(weight[0].square().mean(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0.0)


def test_the_uniform_law():
    weight = torch.zeros(2, 100, 100)
    fill_uniform(weight, 16, generators(1, 2))
    assert 0.249 < float(weight.abs().max()) <= 0.25
    assert abs(float(weight.mean())) < 0.005 and float(weight.std()) == pytest.approx(0.25 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("fill", [uniform, orthogonal])
def test_a_seed_in_a_stack_starts_as_it_would_alone(fill):
    stacked = torch.zeros(3, 2, 5, 7)
    fill(stacked, generators(1, 2, 3))
    for r in range(3):
        alone = torch.zeros(1, 2, 5, 7)
        fill(alone, generators(r + 1))
        assert torch.equal(stacked[r], alone[0])


def test_only_the_chosen_seeds_are_filled_and_only_their_generators_move():
    for fill in (lambda w, g, c: fill_uniform(w, 4, g, c), lambda w, g, c: fill_orthogonal(w, 2, 1.0, g, c)):
        weight, own = torch.zeros(3, 4, 4), generators(1, 2, 3)
        states = [g.get_state() for g in own]
        fill(weight, own, torch.tensor([False, True, False]))
        assert weight.flatten(1).any(-1).tolist() == [False, True, False]
        assert [torch.equal(g.get_state(), state) for g, state in zip(own, states, strict=True)] == [True, False, True]


def test_a_view_of_a_weight_is_filled_in_place():
    weight = torch.zeros(2, 4, 12)
    for gate in weight.split(4, -1):
        fill_orthogonal(gate, 2, 1.0, generators(1, 2))
    torch.testing.assert_close(weight @ weight.mT, 3.0 * torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0.0)
