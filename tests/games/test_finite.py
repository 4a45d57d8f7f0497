"""Finite worlds as arrays."""

import math

import pytest
import torch

from tutelage.games.finite import FiniteMDP, mdp_from_dense, mdp_from_outcomes, random_mdp, tabulate
from tutelage.games.finite_game import FiniteGame
from tutelage.games.grids import random_grid
from tutelage.games.make import make
from tutelage.games.spec import GameError

START = torch.tensor([1.0, 0.0], dtype=torch.float64)


def coin(state: int, action: int):
    """Action 0 pays 1 and ends from state 0 with 0.25, else leads to state 1; state 1 has action 1 only, and it ends."""
    if state == 0:
        return [(0.25, 0, 1.0, True), (0.75, 1, 1.0, False)] if action == 0 else [(1.0, 0, -0.5, False)]
    return [(1.0, 1, 4.0, True)] if action == 1 else []


def test_arrays_by_hand():
    mdp = mdp_from_outcomes(2, 2, coin, START)
    assert mdp.edges.tolist() == [0, 2, 2, 3, 4]  # pairs (a0, s0), (a0, s1), (a1, s0), (a1, s1)
    assert mdp.expected_reward().tolist() == [[1.0, -0.5], [-math.inf, 4.0]]
    assert mdp.transition().to_dense().tolist() == [[0.0, 0.75], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert mdp.legal is not None and mdp.legal.tolist() == [[True, True], [False, True]]
    assert mdp.final.tolist() == [False, True]
    assert mdp.transition(torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("outcomes", "start", "sentence"),
    [
        (lambda s, a: [(0.5, 0, 0.0, False)], START, "probabilities of action 0 in state 0 sum to 0.5; 1 was expected"),
        (lambda s, a: [(1.5, 0, 0.0, False), (-0.5, 0, 0.0, False)], START, "of none that is negative"),
        (lambda s, a: [(1.0, 2, 0.0, False)], START, "a next state lies outside 0 to 1"),
        (lambda s, a: [(1.0, 0, math.nan, False)], START, "a reward is NaN or infinite"),
        (lambda s, a: [(1.0, 0, 0.0, False)] if s == 0 else [], START, "state 1 has no action at all"),
        (lambda s, a: [(1.0, 0, 0.0, False)], START / 2, "needs 2 probabilities that sum to 1"),
    ],
)
def test_what_is_no_world_is_refused(outcomes, start, sentence):
    with pytest.raises(GameError, match=sentence):
        mdp_from_outcomes(2, 2, outcomes, start)


def test_dense_and_listed_worlds_are_the_same():
    g = torch.Generator().manual_seed(0)
    transition = torch.rand(4, 2, 4, generator=g, dtype=torch.float64)
    transition = transition / transition.sum(2, keepdim=True)
    reward = torch.randn(4, 2, 4, generator=g, dtype=torch.float64)
    final = torch.tensor([False, False, False, True])
    mdp = mdp_from_dense(transition, reward, torch.full((4,), 0.25), final)
    going_on = torch.where(final, 0.0, transition)
    going_on[3] = 0.0
    torch.testing.assert_close(mdp.transition().to_dense().view(2, 4, 4).permute(1, 0, 2), going_on)
    paid = (transition * reward).sum(2)
    paid[3] = 0.0
    torch.testing.assert_close(mdp.expected_reward(), paid)


def test_a_random_world_is_a_garnet():
    mdp = random_mdp(20, 3, 4, torch.Generator().manual_seed(1), ending=0.1)
    again = random_mdp(20, 3, 4, torch.Generator().manual_seed(1), ending=0.1)
    other = random_mdp(20, 3, 4, torch.Generator().manual_seed(2), ending=0.1)
    assert torch.equal(mdp.probability, again.probability) and not torch.equal(mdp.probability, other.probability)
    P = mdp.transition().to_dense()
    assert ((P > 0).sum(1) == 4).all()
    torch.testing.assert_close(P.sum(1), torch.full((60,), 0.9).double())
    endless = random_mdp(20, 3, 20, torch.Generator().manual_seed(1))
    assert not endless.terminated.any() and (endless.transition().to_dense() > 0).all()
    with pytest.raises(GameError, match="branching=21 .* were given"):
        random_mdp(20, 3, 21, torch.Generator())


def test_a_game_without_chance_becomes_its_arrays():
    grid = random_grid(6, 5, walls=0.2, slip=0.0, step_reward=-0.25, seed=1)
    mdp, observations = tabulate(FiniteGame(grid.mdp, 1))
    number = [int(observation) for observation in observations]
    # Only what can be reached without passing an exit was found, each state once.
    assert len(set(number)) == mdp.states <= grid.states and number[0] == int(grid.mdp.start.argmax())
    torch.testing.assert_close(mdp.expected_reward(), grid.mdp.expected_reward()[number])
    P = grid.mdp.transition().to_dense().view(4, grid.states, grid.states)
    torch.testing.assert_close(mdp.transition().to_dense().view(4, mdp.states, -1), P[:, number][:, :, number])
    assert torch.equal(mdp.final, grid.mdp.final[number])


def test_games_that_have_no_arrays():
    with pytest.raises(GameError, match="answers differently in states that look the same"):
        tabulate(FiniteGame(random_mdp(4, 2, 4, torch.Generator().manual_seed(0)), 1))
    with pytest.raises(GameError, match="arrays need one copy and one discrete action"):
        tabulate(make("gym:Pendulum-v1", 1))
    with pytest.raises(GameError, match="more than 5 states"):
        tabulate(make("grid:lecture?slip=0", 1), max_states=5)
    with pytest.raises(GameError, match="time limit"):
        tabulate(make("grid:lecture?slip=0&max_steps=2", 1))


def test_missing_actions_survive_tabulation():
    def ladder(state: int, action: int):
        if action == 1 and state == 0:
            return []
        return [(1.0, min(state + 1, 2) if action == 0 else state - 1, float(action), state == 2)]

    mdp = mdp_from_outcomes(3, 2, ladder, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    again, _ = tabulate(FiniteGame(mdp, 1))
    assert again.legal is not None and mdp.legal is not None
    assert torch.equal(again.legal, mdp.legal) and torch.equal(again.expected_reward(), mdp.expected_reward())
    assert torch.equal(again.transition().to_dense(), mdp.transition().to_dense())


def test_a_million_states_fit():
    world: FiniteMDP = random_grid(1000, 1000, walls=0.0).mdp
    held = sum(x.numel() * x.element_size() for x in (world.edges, world.next_state, world.probability, world.reward, world.terminated))
    assert world.states == 1_000_000 and held < 0.35e9
