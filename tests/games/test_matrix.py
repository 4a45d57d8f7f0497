"""Games in normal form, played."""

from itertools import product
from typing import Any

import pytest
import torch

from tutelage.games.make import known_games, make
from tutelage.games.matrix import MATRICES, MatrixGame, make_payoffs, matrix_posg
from tutelage.games.posg import POSGGame
from tutelage.games.spec import CannotSnapshot, GameError, MultiDiscrete, TupleSpace


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("stag_hunt", [["2/2", "0/1"], ["1/0", "1/1"]]),  # as the lecture prints them: A/B
        ("prisoners_dilemma", [["-1/-1", "-3/0"], ["0/-3", "-2/-2"]]),
        ("matching_pennies", [["1/-1", "-1/1"], ["-1/1", "1/-1"]]),
        ("rock_paper_scissors", [["0/0", "-1/1", "1/-1"], ["1/-1", "0/0", "-1/1"], ["-1/1", "1/-1", "0/0"]]),
    ],
)
def test_what_is_paid(name, cells):
    game: Any = make(f"matrix:{name}", len(cells) ** 2)
    (nothing,) = game.reset(seed=range(game.copies))
    assert nothing.tolist() == [[0, 0]] * game.copies
    joint = torch.tensor(list(product(range(len(cells)), repeat=2)))
    step = game.step((joint,))
    expected = [[float(x) for x in cells[a][b].split("/")] for a, b in joint.tolist()]
    assert step.reward.tolist() == expected and step.reward.dtype == torch.float32
    assert step.terminated.all() and step.boundary.all() and step.mask.all() and step.mask.shape == (game.copies, 2)
    with pytest.raises(GameError, match="copy 0 of matrix:.* was stepped outside an episode"):
        game.step((joint,))


def test_rounds_show_the_last_joint_action_and_end_together():
    game: Any = make("matrix:random?actions=2&agents=3&seed=1&rounds=2", 2)
    assert game.observation_space == TupleSpace((MultiDiscrete((9, 9, 9)),)) and game.players.teams == ((0, 1, 2),)
    game.reset()
    step = game.step((torch.tensor([[1, 0, 1], [0, 0, 0]]),))
    assert step.observation[0].tolist() == [[6] * 3, [1] * 3]  # 1 + 4 + 1, the last agent's action fastest
    assert not step.terminated.any() and not step.boundary.any()
    payoffs = make_payoffs("matrix:random?actions=2&agents=3&seed=1")
    torch.testing.assert_close(step.reward, torch.stack([payoffs[:, 1, 0, 1], payoffs[:, 0, 0, 0]]).float())
    kept = [game.snapshot(b) for b in range(2)]
    step = game.step((torch.tensor([[1, 1, 1], [0, 0, 1]]),))
    assert step.terminated.all() and step.boundary.all()
    assert game.reset(where=torch.tensor([True, False]))[0].tolist() == [[0] * 3, [2] * 3]
    other: Any = make("matrix:random?actions=2&agents=3&seed=1&rounds=2", 2)
    assert [other.restore(b, kept[b])[0].tolist() for b in range(2)] == [[6] * 3, [1] * 3]
    assert other.step((torch.tensor([[1, 1, 1], [0, 0, 1]]),)).terminated.all()
    with pytest.raises(CannotSnapshot, match="was given to matrix:stag_hunt"):
        make("matrix:stag_hunt", 1).restore(0, kept[0])


def test_unequal_numbers_of_actions_make_groups():
    payoffs = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    game: Any = MatrixGame(payoffs, 1)
    assert [group.agents for group in game.players.groups] == [(0,), (1,)]
    game.reset()
    step = game.step((torch.tensor([[1]]), torch.tensor([[2]])))
    torch.testing.assert_close(step.reward[0], payoffs[:, 1, 2].float())


@pytest.mark.parametrize("address", MATRICES)
def test_the_posg_of_a_table_pays_the_same(address):
    payoffs = make_payoffs(address)
    posg = matrix_posg(payoffs)
    forever: Any = POSGGame(posg, 4, max_steps=3)
    forever.reset(seed=range(4))
    joint = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    for last in (False, False, True):
        step = forever.step((joint,))
        torch.testing.assert_close(step.reward, payoffs[:, joint[:, 0], joint[:, 1]].T.float())
        assert not step.terminated.any() and bool(step.boundary.all()) is last


def test_addresses():
    assert set(MATRICES) <= set(known_games())
    random: Any = make("matrix:random?actions=4&seed=7", 2)
    assert random.payoffs.shape == (2, 4, 4) and torch.equal(random.payoffs, make_payoffs("matrix:random?actions=4&seed=7"))
    assert not torch.equal(random.payoffs, make_payoffs("matrix:random?actions=4&seed=8"))
    named: Any = make("matrix:stag_hunt", 1, rounds=5)
    assert named.rounds == 5
    for address, sentence in (
        ("matrix:stag_hunting", "there is no game matrix:stag_hunting; did you mean matrix:stag_hunt?"),
        ("matrix:random?action=2", "matrix:random has no option action; did you mean actions?"),
        ("matrix:stag_hunt?round=2", "did you mean rounds?"),
        ("matrix:stag_hunt?rounds=many", "rounds=many was given; a whole number was expected"),
        ("matrix:random?agents=0", "agents=0; at least one of each is needed"),
        ("matrix:stag_hunt?rounds=0", "rounds=0; at least one of each is needed"),
    ):
        with pytest.raises(GameError, match=sentence.replace("?", r"\?")):
            make(address, 1)
    with pytest.raises(GameError, match=r"payoffs of shape \(2, 2\) were given; finite ones of \[N, A_1, ..., A_N\]"):
        MatrixGame(torch.zeros(2, 2, dtype=torch.float64), 1)
