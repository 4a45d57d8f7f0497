"""Bellman's equations on arrays: a finite world as its expected rewards and one transition matrix.

S states, A actions. The matrix is action-major: row a S + s holds P(.|s, a), so that a maximum over actions runs along memory. It is
dense or sparse (CSR). A row may sum to less than one: what is missing is the probability that the episode ends, and the value after
an end is zero. An action that a state does not have has reward -inf there and an empty row: no maximum picks it.
"""

import warnings
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor


def sparse_matrix(
    edges: Int[Tensor, "rows_and_1"], columns: Int[Tensor, "E"], entries: Float[Tensor, "E"], width: int
) -> Shaped[Tensor, "rows_and_1-1 {width}"]:
    """Compressed sparse rows: row i holds entries edges[i] to edges[i + 1] - 1, in columns below `width`; repeated columns add up.

    The indices are kept in 32 bits, as the products of MKL want them; with 64 it would convert them at every product.
    """
    size = (len(edges) - 1, width)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return cast(Any, torch).sparse_csr_tensor(edges.int(), columns.int(), entries, size, check_invariants=False)


def action_values(
    reward: Float[Tensor, "S A"], transition: Float[Tensor, "A*S S"], value: Float[Tensor, "S"], discount: float, out: Tensor | None = None
) -> Float[Tensor, "S A"]:
    """One step ahead of V.

    Q(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V(s').

    Bellman 1957, Dynamic Programming, ch. XI; Sutton & Barto 2018, eq. 4.6. With V = V_k the right side of value iteration, with
    V = V^pi the action values of pi. out: [A S], memory to reuse from sweep to sweep; the result is a view of it.
    """
    S, A = reward.shape
    ahead = torch.mv(transition, value) if out is None else torch.mv(transition, value, out=out)
    if discount != 1.0:  # a sweep over a million states has the discount in its matrix, and saves a pass
        ahead.mul_(discount)
    return ahead.view(A, S).add_(reward.T).T


def best_value(q: Float[Tensor, "S A"], out: Tensor | None = None) -> Float[Tensor, "S"]:
    """V(s) = max_a Q(s, a), the left side of Bellman's optimality equation (Sutton & Barto 2018, eq. 3.18); out: [S]."""
    return torch.amax(q, 1) if out is None else torch.amax(q, 1, out=out)


def greedy_policy(q: Float[Tensor, "S A"]) -> Int64[Tensor, "S"]:
    """pi(s) = argmax_a Q(s, a), the first of equals (Sutton & Barto 2018, eq. 4.9).

    One comparison per action: torch.argmax over four columns takes sixty times as long.
    """
    best, policy = q[:, 0], torch.zeros(len(q), dtype=torch.int64, device=q.device)
    for a in range(1, q.shape[1]):
        policy.masked_fill_(q[:, a] > best, a)
        best = torch.maximum(best, q[:, a])
    return policy


def policy_backup(q: Float[Tensor, "S A"], policy: Float[Tensor, "S A"]) -> Float[Tensor, "S"]:
    """V(s) = sum_a pi(a|s) Q(s, a), over the actions with pi > 0: a missing one has Q = -inf (Sutton & Barto 2018, eq. 4.4)."""
    return torch.where(policy > 0.0, policy * q, 0.0).sum(1)


def policy_transition(policy: Float[Tensor, "S A"], transition: Float[Tensor, "A*S S"]) -> Float[Tensor, "S S"]:
    """P_pi(s'|s) = sum_a pi(a|s) P(s'|s, a) (Puterman 1994, eq. 5.6.1, there P_d); dense."""
    S, A = policy.shape
    if transition.layout == torch.strided:
        return torch.einsum("sa,ast->st", policy, transition.view(A, S, S))
    s, a = policy.nonzero().unbind(1)
    edges = torch.searchsorted(s, torch.arange(S + 1, device=s.device))
    choice = sparse_matrix(edges, a * S + s, policy[s, a], A * S)  # [S, A S]: mixes the rows of P
    return (choice @ transition).to_dense()


def policy_value(
    reward: Float[Tensor, "S A"], transition: Float[Tensor, "A*S S"], policy: Float[Tensor, "S A"], discount: float
) -> Float[Tensor, "S"]:
    """The value of a policy by one linear solve.

    V^pi = (I - gamma P_pi)^-1 r_pi.

    Puterman 1994, theorem 6.1.1. Raises ValueError where the policy can play on for ever at discount 1.
    """
    r = policy_backup(reward, policy)
    steps = torch.ones_like(r)
    solution = _resolvent(policy_transition(policy, transition), torch.stack((r, steps), 1), discount)
    return solution[:, 0]


def occupancy(
    policy: Float[Tensor, "S A"], transition: Float[Tensor, "A*S S"], start: Float[Tensor, "S"], discount: float
) -> Float[Tensor, "S"]:
    """How often a policy is where, discounted and not normalized.

    d^pi(s) = sum_t gamma^t Pr(s_t = s) = [(I - gamma P_pi^T)^-1 start](s).

    Puterman 1994, section 6.9.2; Schulman et al. 2015 (arXiv 1502.05477), section 2, rho_pi. Raises as `policy_value`.
    """
    return _resolvent(policy_transition(policy, transition).T, torch.stack((start, torch.ones_like(start)), 1), discount)[:, 0]


def _resolvent(P: Float[Tensor, "S S"], right: Float[Tensor, "S 2"], discount: float) -> Float[Tensor, "S 2"]:
    """(I - gamma P)^-1 right; the second column is ones, and what it becomes counts steps."""
    identity = torch.eye(len(P), dtype=P.dtype, device=P.device)
    solution, failed = cast(tuple[Tensor, Tensor], cast(Any, torch.linalg).solve_ex(identity - discount * P, right))
    # A policy that never ends makes the matrix singular, which rounding can hide; but then it counts no steps, or absurdly many.
    steps = solution[:, 1]
    if bool(failed) or not bool(((steps > 0.5) & (steps < 0.01 / torch.finfo(P.dtype).eps)).all()):
        raise ValueError(f"the policy can play on for ever, and its value at discount {discount} is not defined by a linear solve")
    return solution


def select_rows(matrix: Float[Tensor, "N M"], rows: Int64[Tensor, "K"]) -> Shaped[Tensor, "K M"]:
    """These rows of a sparse (CSR) or dense matrix: with rows pi(s) S + s of P, the transitions of a deterministic policy."""
    if matrix.layout == torch.strided:
        return matrix[rows]
    edges = matrix.crow_indices().long()
    count = edges.diff()[rows]
    new = torch.cat([torch.zeros_like(count[:1]), count.cumsum(0)])
    entry = torch.repeat_interleave(edges[rows] - new[:-1], count) + torch.arange(int(new[-1]), device=rows.device)
    return sparse_matrix(new, matrix.col_indices()[entry], matrix.values()[entry], matrix.shape[1])


def grid_action_values(value: Float[Tensor, "M N"], slip: float, step_reward: float, discount: float) -> Float[Tensor, "4 M-2 N-2"]:
    """Q of the moves up, right, down, left on a grid on which a move goes astray to either side.

    Q(s, d) = r + gamma [(1 - slip) V(s + d) + slip/2 V(s + left of d) + slip/2 V(s + right of d)],   V(s + d) = V(s) at walls.

    Russell & Norvig 2010, section 17.1, whose grid has slip 0.2. Cells of -inf are walls; the border of the field must be walls, and
    is not returned. What stands in walls and exits means nothing.
    """
    ends = torch.stack(_neighbors(value))
    sides = ends.roll(1, 0) + ends.roll(-1, 0)
    return step_reward + discount * ((1.0 - slip) * ends + 0.5 * slip * sides)


def grid_backup(value: Float[Tensor, "M N"], slip: float, step_reward: float, discount: float) -> Float[Tensor, "M-2 N-2"]:
    """One sweep of value iteration on a grid: max_d Q(s, d) of `grid_action_values`.

    Opposite moves share their side steps: the maximum over four moves takes two sums. Walls and exits are the caller's to put back.
    """
    up, right, down, left = _neighbors(value)
    vertical = (1.0 - slip) * torch.maximum(up, down) + 0.5 * slip * (left + right)
    horizontal = (1.0 - slip) * torch.maximum(left, right) + 0.5 * slip * (up + down)
    return step_reward + discount * torch.maximum(vertical, horizontal)


def _neighbors(value: Float[Tensor, "M N"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V(s + d) for up, right, down, left, `[M-2, N-2]` each: the value of s itself where a wall is in the way."""
    wall, here = value == -torch.inf, value[1:-1, 1:-1]
    inner, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    places = ((before, inner), (inner, after), (after, inner), (inner, before))
    up, right, down, left = (torch.where(wall[place], here, value[place]) for place in places)
    return up, right, down, left


def belief_update(
    belief: Float[Tensor, "*batch S"], transition: Float[Tensor, "S S"], likelihood: Float[Tensor, "S"]
) -> Float[Tensor, "*batch S"]:
    """What is believed of the state after one action and one observation.

    b'(s') = O(o|a, s') sum_s P(s'|s, a) b(s) / P(o|b, a).

    Kaelbling, Littman & Cassandra 1998 (Artificial Intelligence 101), section 3.3. transition: of the action taken; likelihood:
    O(o|a, .) of what was seen. Raises ValueError for an observation that the belief rules out.
    """
    joint = likelihood * (belief @ transition)
    evidence = joint.sum(-1, keepdim=True)
    if not bool((evidence > 0.0).all()):
        raise ValueError("the observation has probability zero under the belief before it")
    return joint / evidence
