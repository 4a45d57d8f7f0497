"""Equilibria of games in normal form."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.equations.equilibria import (
    action_payoffs,
    best_response,
    expected_payoffs,
    exploitability,
    nash_conv,
    nash_equilibria,
    pure_equilibria,
)


def table(*agents):
    return torch.tensor(agents, dtype=torch.float64)


STAG_HUNT = table([[2, 0], [1, 1]], [[2, 1], [0, 1]])
DILEMMA = table([[-1, -3], [0, -2]], [[-1, 0], [-3, -2]])
ROCK_PAPER_SCISSORS = table([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
MATCHING_PENNIES = table([[1, -1], [-1, 1]], [[-1, 1], [1, -1]])


def strategy(*weights):
    return torch.tensor(weights, dtype=torch.float64)


def random_profile(sizes, generator):
    return [torch.rand(n, generator=generator, dtype=torch.float64).log().neg().softmax(0) for n in sizes]


def plain(equilibria):
    """Rounded numbers: ((strategy, strategy), payoffs)."""
    return [([side.tolist() for side in e.profile], e.payoffs.tolist()) for e in equilibria]


def test_stag_hunt_has_two_pure_equilibria_and_a_mixed_one():
    # Mixed: a stag hunter's 2 q equals a rabbit hunter's 1 at q = 1/2, for both; each is paid 1.
    assert plain(nash_equilibria(STAG_HUNT)) == [
        ([[1, 0], [1, 0]], [2, 2]),
        ([[0, 1], [0, 1]], [1, 1]),
        ([pytest.approx([0.5, 0.5]), pytest.approx([0.5, 0.5])], pytest.approx([1, 1])),
    ]
    assert pure_equilibria(STAG_HUNT).tolist() == [[0, 0], [1, 1]]


def test_in_the_dilemma_both_testify():
    assert plain(nash_equilibria(DILEMMA)) == [([[0, 1], [0, 1]], [-2, -2])]
    assert pure_equilibria(DILEMMA).tolist() == [[1, 1]]


@pytest.mark.parametrize("game", [ROCK_PAPER_SCISSORS, MATCHING_PENNIES])
def test_zero_sum_circles_are_played_uniformly(game):
    uniform = [torch.full((n,), 1 / n, dtype=torch.float64) for n in game.shape[1:]]
    (only,) = nash_equilibria(game)
    for side, own in zip(only.profile, uniform, strict=True):
        torch.testing.assert_close(side, own)
    assert only.payoffs.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert float(nash_conv(game, uniform)) == pytest.approx(0, abs=1e-12) and len(pure_equilibria(game)) == 0
    assert all(bool(best_response(game, uniform, i)[1].all()) for i in range(2))


def test_exploitability_by_hand():
    rock = strategy(1, 0, 0)
    # Each answers rock with paper and gains 1.
    assert float(nash_conv(ROCK_PAPER_SCISSORS, [rock, rock])) == 2 and float(exploitability(ROCK_PAPER_SCISSORS, [rock, rock])) == 1
    value, best = best_response(ROCK_PAPER_SCISSORS, [rock, rock], 0)
    assert float(value) == 1 and best.tolist() == [False, True, False]
    # Stag against a mixture of a quarter stag: 0.5 for stag, 1 for rabbit.
    profile = [strategy(1, 0), strategy(0.25, 0.75)]
    assert action_payoffs(STAG_HUNT, profile, 0).tolist() == [0.5, 1]
    assert float(nash_conv(STAG_HUNT, profile)) == pytest.approx((1 - 0.5) + (2 - (0.25 * 2 + 0.75 * 1)))


def test_against_sums_over_joint_actions_for_three_agents():
    g = torch.Generator().manual_seed(0)
    sizes = (2, 3, 4)
    payoffs = torch.randn(3, *sizes, generator=g, dtype=torch.float64)
    profile = random_profile(sizes, g)
    expected = [0.0] * 3
    by_action = [[0.0] * n for n in sizes]
    for joint in product(*map(range, sizes)):
        for i in range(3):
            paid = float(payoffs[(i, *joint)])
            weight = [float(profile[j][joint[j]]) for j in range(3)]
            expected[i] += paid * weight[0] * weight[1] * weight[2]
            by_action[i][joint[i]] += paid * weight[(i + 1) % 3] * weight[(i + 2) % 3]
    assert expected_payoffs(payoffs, profile).tolist() == pytest.approx(expected)
    assert float(nash_conv(payoffs, profile)) == pytest.approx(sum(max(own) - mean for own, mean in zip(by_action, expected, strict=True)))
    for i in range(3):
        assert action_payoffs(payoffs, profile, i).tolist() == pytest.approx(by_action[i])
        value, best = best_response(payoffs, profile, i)
        assert float(value) == pytest.approx(max(by_action[i])) and best.tolist() == [x == max(by_action[i]) for x in by_action[i]]


def test_pure_equilibria_of_three_agents_by_departures():
    payoffs = torch.randint(0, 3, (3, 2, 3, 2), generator=torch.Generator().manual_seed(1)).double()

    def holds(joint):
        return all(
            payoffs[(i, *joint)] >= payoffs[(i, *joint[:i], a, *joint[i + 1 :])] for i in range(3) for a in range(payoffs.shape[i + 1])
        )

    expected = [list(joint) for joint in product(range(2), range(3), range(2)) if holds(joint)]
    assert pure_equilibria(payoffs).tolist() == expected != []


def vertices(constraints, bound, dimension):
    """All points {z >= 0, constraints z <= 1} where `dimension` of the inequalities are equalities, with the indices of these."""
    rows = np.vstack([-np.eye(dimension), constraints])
    limits = np.concatenate([np.zeros(dimension), bound])
    found = []
    for chosen in combinations(range(len(rows)), dimension):
        square = rows[list(chosen)]
        if abs(np.linalg.det(square)) > 1e-12:
            z = np.linalg.solve(square, limits[list(chosen)])
            if (rows @ z <= limits + 1e-9).all():
                found.append((z, set(chosen)))
    return found


def by_vertices(payoffs):
    """Equilibria as completely labeled pairs of vertices of the best-response polytopes (von Stengel 2007, proposition 3.7)."""
    first, second = (payoffs - payoffs.amin((1, 2), keepdim=True) + 1.0).numpy()
    rows, columns = first.shape
    found = []
    for x, x_tight in vertices(second.T, np.ones(columns), rows):  # labels: own actions unused, then the other's best responses
        for y, y_tight in vertices(first, np.ones(rows), columns):
            labels = x_tight | {(k - columns if k >= columns else k + rows) for k in y_tight}
            if len(labels) == rows + columns and x.sum() > 1e-9 and y.sum() > 1e-9:
                found.append(np.concatenate([x / x.sum(), y / y.sum()]))
    return np.array(sorted(found, key=lambda z: z.round(6).tolist()))


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3), (3, 3), (4, 3), (4, 4)])
def test_support_enumeration_finds_what_the_polytopes_have(sizes):
    counts = set()
    for seed in range(12):
        payoffs = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ours = nash_equilibria(payoffs)
        assert all(float(nash_conv(payoffs, e.profile)) < 1e-9 for e in ours)
        flat = np.array(sorted((torch.cat(e.profile).numpy() for e in ours), key=lambda z: z.round(6).tolist()))
        theirs = by_vertices(payoffs)
        assert flat.shape == theirs.shape and np.abs(flat - theirs).max() < 1e-8
        counts.add(len(ours))
    assert all(count % 2 == 1 for count in counts)  # Wilson 1971: almost every game has an odd number
    assert len(counts) > 1


def test_no_other_place_of_a_fine_grid_is_stable():
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    for seed in range(5):
        payoffs = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        known = torch.tensor([[float(e.profile[0][0]), float(e.profile[1][0])] for e in nash_equilibria(payoffs)])
        p, q = torch.meshgrid(grid, grid, indexing="ij")
        x, y = torch.stack([p, 1 - p]), torch.stack([q, 1 - q])
        first, second = torch.einsum("ab,bpq->apq", payoffs[0], y), torch.einsum("ab,apq->bpq", payoffs[1], x)
        gain = (first.amax(0) - (first * x).sum(0)) + (second.amax(0) - (second * y).sum(0))
        low = (gain < 1e-3).nonzero() / 100
        assert len(low) and float(torch.cdist(low.float(), known).amin(1).max()) < 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.floats(0.01, 1e4), st.floats(-1e3, 1e3, allow_subnormal=False))
def test_equilibria_do_not_depend_on_the_scale_and_are_stable(seed, rows, columns, scale, shift):
    payoffs = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain_ones, scaled = nash_equilibria(payoffs), nash_equilibria(payoffs * scale + shift)
    assert len(plain_ones) == len(scaled) > 0
    for ours, other in zip(plain_ones, scaled, strict=True):
        torch.testing.assert_close(torch.cat(ours.profile), torch.cat(other.profile), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other.payoffs, ours.payoffs * scale + shift, rtol=1e-5, atol=1e-5 * scale)


def test_degenerate_games_give_equilibria_only():
    # Whatever the second does, the first gets 1; every strategy of its own is a best response.
    payoffs = table([[1, 1], [1, 1]], [[1, 0], [0, 1]])
    found = nash_equilibria(payoffs)
    assert [e.profile[0].tolist() for e in found][:2] == [[1, 0], [0, 1]]
    assert all(float(nash_conv(payoffs, e.profile)) < 1e-9 for e in found)
    for seed in range(30):
        small = torch.randint(0, 3, (2, 3, 3), generator=torch.Generator().manual_seed(seed)).double()
        found = nash_equilibria(small)
        assert all(float(nash_conv(small, e.profile)) < 1e-9 for e in found)
        pure = {tuple(int(side.argmax()) for side in e.profile) for e in found if all(float(side.max()) == 1.0 for side in e.profile)}
        assert pure == {tuple(joint) for joint in pure_equilibria(small).tolist()}


def test_bad_input():
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2, 2\) were given; all equilibria are found for two agents"):
        nash_equilibria(torch.zeros(3, 2, 2, 2))
    with pytest.raises(ValueError, match=r"strategies over \(2, 3\) actions"):
        nash_conv(STAG_HUNT, [strategy(0.5, 0.5), strategy(1, 0, 0)])
