"""Bellman's equations on arrays."""

import math

import pytest
import torch

from tutelage.equations.dynamic_programming import (
    action_values,
    belief_update,
    best_value,
    greedy_policy,
    grid_action_values,
    grid_backup,
    occupancy,
    policy_backup,
    policy_transition,
    policy_value,
    select_rows,
    sparse_matrix,
)

INF = math.inf


def world(S=5, A=3, seed=0, lasting=0.9):
    """Rewards [S, A], a matrix [A S, S] whose rows sum to `lasting`, a policy [S, A] and a start [S]."""
    g = torch.Generator().manual_seed(seed)
    reward = torch.randn(S, A, generator=g, dtype=torch.float64)
    transition = lasting * torch.rand(A * S, S, generator=g, dtype=torch.float64).softmax(1)
    policy = torch.rand(S, A, generator=g, dtype=torch.float64).softmax(1)
    start = torch.rand(S, generator=g, dtype=torch.float64).softmax(0)
    return reward, transition, policy, start


def sparse(matrix):
    rows, columns = matrix.nonzero().unbind(1)
    edges = torch.searchsorted(rows, torch.arange(len(matrix) + 1))
    return sparse_matrix(edges, columns, matrix[rows, columns], matrix.shape[1])


def test_action_values_by_hand():
    # Two states; action 0 stays and pays 1, action 1 moves and pays 0; the move from state 1 ends the episode.
    reward = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    transition = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    q = action_values(reward, transition, torch.tensor([2.0, 10.0]), 0.5)
    assert q.tolist() == [[2.0, 5.0], [6.0, 0.0]]
    assert best_value(q).tolist() == [5.0, 6.0] and greedy_policy(q).tolist() == [1, 0]


@pytest.mark.parametrize("form", [lambda m: m, sparse])
def test_action_values_against_a_loop(form):
    reward, transition, policy, _ = world()
    value = torch.arange(5.0, dtype=torch.float64)
    out = torch.empty(15, dtype=torch.float64)
    q = action_values(reward, form(transition), value, 0.9, out)
    for s in range(5):
        for a in range(3):
            expected = reward[s, a] + 0.9 * sum(transition[a * 5 + s, t] * value[t] for t in range(5))
            assert q[s, a] == pytest.approx(float(expected), abs=1e-12)
    assert q.T.flatten().data_ptr() == out.data_ptr()
    torch.testing.assert_close(policy_backup(q, policy), (policy * q).sum(1))


def test_a_missing_action_is_never_picked_and_never_averaged():
    q = torch.tensor([[-INF, -5.0, -INF], [0.0, 0.0, -INF]])
    assert best_value(q).tolist() == [-5.0, 0.0]
    assert greedy_policy(q).tolist() == [1, 0]
    assert policy_backup(q, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])).tolist() == [-5.0, 0.0]


def test_the_greedy_policy_is_argmax():
    q = torch.randint(4, (200, 6), generator=torch.Generator().manual_seed(1)).double()
    assert greedy_policy(q).tolist() == [row.index(max(row)) for row in q.tolist()]


@pytest.mark.parametrize("form", [lambda m: m, sparse])
def test_the_linear_solve_is_the_limit_of_sweeps(form):
    reward, transition, policy, start = world(lasting=1.0)
    transition = form(transition)
    value, visits, here = torch.zeros(5).double(), torch.zeros(5).double(), start
    P = policy_transition(policy, transition)
    torch.testing.assert_close(P.sum(1), torch.ones(5).double())
    for _ in range(600):
        value = policy_backup(action_values(reward, transition, value, 0.95), policy)
        visits, here = visits + here, 0.95 * here @ P
    torch.testing.assert_close(policy_value(reward, transition, policy, 0.95), value, atol=1e-10, rtol=0)
    torch.testing.assert_close(occupancy(policy, transition, start, 0.95), visits, atol=1e-10, rtol=0)
    # The same return, counted by where it is earned.
    torch.testing.assert_close(visits @ policy_backup(reward, policy), start @ value, atol=1e-10, rtol=0)


def test_a_policy_that_never_ends_has_no_undiscounted_value():
    reward, transition, policy, start = world(lasting=1.0)
    for solve in (lambda: policy_value(reward, transition, policy, 1.0), lambda: occupancy(policy, transition, start, 1.0)):
        with pytest.raises(ValueError, match="can play on for ever"):
            solve()
    with_ends = world(lasting=0.9)
    assert torch.isfinite(policy_value(*with_ends[:3], 1.0)).all()


def test_the_gradient_of_a_value_is_what_differences_say():
    reward, transition, policy, _ = world(S=3, A=2)
    logits = policy.log().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_value(reward, transition, x.softmax(1), 0.9), (logits,))


def test_grid_backup_by_hand():
    # One free row of three between walls, the right one worth 1: to the right with 0.8, against the walls above and below with 0.2.
    field = torch.full((3, 5), -INF)
    field[1, 1:4] = torch.tensor([0.0, 0.0, 1.0])
    new = grid_backup(field, 0.2, 0.0, 0.9)
    # The cell beside it: 0.8 x 1 + 0.2 x 0, times 0.9. The last bumps into the border and stays at 1, or slips and stays at 1.
    torch.testing.assert_close(new, torch.tensor([[0.0, 0.72, 0.9]]))


def test_grid_backup_against_a_loop():
    g = torch.Generator().manual_seed(2)
    field = torch.randn(8, 9, generator=g, dtype=torch.float64)
    field[torch.rand(8, 9, generator=g) < 0.25] = -INF
    field[[0, -1]], field[:, [0, -1]] = -INF, -INF
    new, q = grid_backup(field, 0.3, -0.04, 0.9), grid_action_values(field, 0.3, -0.04, 0.9)
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    for i in range(6):
        for j in range(7):
            here = float(field[i + 1, j + 1])
            if here == -INF:
                continue  # a wall: nobody is there
            ends = [float(field[i + 1 + a, j + 1 + b]) for a, b in moves]
            ends = [here if end == -INF else end for end in ends]
            moved = [-0.04 + 0.9 * (0.7 * ends[d] + 0.15 * ends[d - 1] + 0.15 * ends[(d + 1) % 4]) for d in range(4)]
            assert q[:, i, j].tolist() == pytest.approx(moved, abs=1e-12)
            assert new[i, j] == pytest.approx(max(moved), abs=1e-12)


def test_rows_of_a_sparse_matrix():
    matrix = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 3.0]])
    rows = torch.tensor([2, 1, 2, 0])
    assert select_rows(sparse(matrix), rows).to_dense().tolist() == matrix[rows].tolist() == select_rows(matrix, rows).tolist()


def test_the_tiger_is_heard():
    # Kaelbling et al. 1998, section 5.1: listening is right with 0.85 and moves nothing.
    belief = torch.tensor([0.5, 0.5])
    for expected in (0.85, 0.85**2 / (0.85**2 + 0.15**2)):
        belief = belief_update(belief, torch.eye(2), torch.tensor([0.85, 0.15]))
        assert belief.tolist() == pytest.approx([expected, 1 - expected])
    with pytest.raises(ValueError, match="probability zero"):
        belief_update(torch.tensor([1.0, 0.0]), torch.eye(2), torch.tensor([0.0, 1.0]))
