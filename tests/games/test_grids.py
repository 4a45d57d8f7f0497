"""Gridworlds."""

import itertools

import pytest
import torch

from tutelage.games.grids import MOVES, GridWorld, grid_from_text, lecture_grid, random_grid
from tutelage.games.spec import GameError


def test_the_lecture_grid_by_hand():
    grid = lecture_grid(slip=0.2)
    assert grid.states == 11
    P, r = grid.mdp.transition().to_dense().view(4, 11, 11), grid.mdp.expected_reward()
    at = grid.state
    # From (3, 3) to the right: the exit, or up into the border, or down; design section 9: the bump stays at (3, 3).
    row = P[1, at(3, 3)]
    assert {s: round(float(row[s]), 6) for s in row.nonzero().flatten().tolist()} == {at(4, 3): 0.8, at(3, 3): 0.1, at(3, 2): 0.1}
    # From (1, 2) to the right into the wall: 0.8 stays, the sides are real.
    row = P[1, at(1, 2)]
    assert {s: round(float(row[s]), 6) for s in row.nonzero().flatten().tolist()} == {at(1, 2): 0.8, at(1, 3): 0.1, at(1, 1): 0.1}
    assert r[at(4, 3)].tolist() == [1.0] * 4 and r[at(4, 2)].tolist() == [-1.0] * 4
    assert int((r != 0).any(1).sum()) == 2 and grid.mdp.final.sum() == 2
    assert P[:, at(4, 3)].abs().sum() == 0  # nothing follows an exit
    assert int(grid.mdp.start.argmax()) == at(1, 1)
    with pytest.raises(GameError, match=r"no free cell \(2, 2\) on a map of 4 x 3"):
        at(2, 2)


@pytest.mark.parametrize("slip", [0.0, 0.3, 1.0])
def test_arrays_against_moving_by_hand(slip):
    grid = random_grid(7, 5, walls=0.25, pits=2, slip=slip, step_reward=-0.04, seed=3)
    P, r = grid.mdp.transition().to_dense().view(4, grid.states, grid.states), grid.mdp.expected_reward()
    cells = [divmod(int(place), 7) for place in grid.place]
    number = {cell: s for s, cell in enumerate(cells)}
    for (s, (i, j)), a in itertools.product(enumerate(cells), range(4)):
        expected = torch.zeros(grid.states, dtype=torch.float64)
        if bool(grid.exit[i, j]):
            assert r[s, a] == grid.payoff[i, j]
        else:
            assert r[s, a] == pytest.approx(-0.04, abs=1e-12)
            for turn, p in ((0, 1 - slip), (-1, slip / 2), (1, slip / 2)):
                down, right = MOVES[(a + turn) % 4]
                expected[number.get((i + down, j + right), s)] += p
        torch.testing.assert_close(P[a, s], expected)


def test_the_field_is_the_map_with_walls_around():
    grid = lecture_grid()
    field = grid.field(torch.arange(11.0))
    assert field.shape == (5, 6)
    assert field[1, 1:-1].tolist() == [0.0, 1.0, 2.0, 3.0] and field[2, 2] == -torch.inf
    assert int(torch.isfinite(field).sum()) == 11


def test_maps_from_text():
    grid = grid_from_text("S.G\n###", payoffs={"G": 5.0})
    assert grid.payoff[0, 2] == 5.0 and grid.states == 3
    everywhere = grid_from_text("..+")
    assert everywhere.begin.tolist() == [[True, True, False]]
    for text, sentence in (("..\n.", r"\[2, 1\] characters"), ("S?", r"character '\?'"), ("#+", "no free cell to start in")):
        with pytest.raises(GameError, match=sentence):
            grid_from_text(text)
    with pytest.raises(GameError, match="slip=1.5"):
        lecture_grid(slip=1.5)


def test_random_grids_can_be_won():
    for seed in range(20):
        grid: GridWorld = random_grid(9, 6, walls=0.4, pits=3, seed=seed)
        assert int(grid.exit.sum()) == 4 and sorted(grid.payoff[grid.exit].tolist()) == [-1.0, -1.0, -1.0, 1.0]
        # Reach from the start, by the transition matrix, without passing a pit.
        P = grid.mdp.transition().to_dense().view(4, grid.states, grid.states).sum(0) > 0
        met = grid.mdp.start > 0
        for _ in range(grid.states):
            met = met | (P[met].any(0))
        goal = int((grid.mdp.expected_reward().amax(1) == 1.0).nonzero())
        assert bool(met[goal])
    with pytest.raises(GameError, match="too few"):
        random_grid(2, 1)
