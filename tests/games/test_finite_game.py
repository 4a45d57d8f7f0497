"""Finite worlds played."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.games.finite import FinitePOMDP, mdp_from_outcomes, random_mdp
from tutelage.games.finite_game import AGENT, FREE, GOAL, PIT, WALL, FiniteGame
from tutelage.games.grids import lecture_grid
from tutelage.games.make import make
from tutelage.games.spec import CannotSnapshot, Discrete, GameError

RIGHT = torch.tensor([1])


def play(game, steps, actions=None):
    """Everything that a fixed sequence of actions brings."""
    seen = []
    for t in range(steps):
        step = game.step(torch.tensor([(t * 7 + b) % 2 for b in range(game.copies)]))
        seen.append((step.observation.tolist(), step.reward.tolist(), step.terminated.tolist(), step.boundary.tolist()))
        if step.boundary.any():
            seen.append(game.reset(where=step.boundary).tolist())
    return seen


def test_a_walk_to_the_exit():
    grid = lecture_grid(slip=0.0)
    game: Any = FiniteGame(grid.mdp, 1)
    assert game.observation_space == Discrete(11) and game.action_space == Discrete(4)
    assert game.reset(seed=[0]).tolist() == [grid.state(1, 1)]
    for action, cell in ((0, (1, 2)), (1, (1, 2)), (0, (1, 3)), (1, (2, 3)), (1, (3, 3)), (1, (4, 3))):
        step = game.step(torch.tensor([action]))
        assert step.observation.tolist() == [grid.state(*cell)] and step.reward.tolist() == [0.0] and not step.boundary.any()
    step = game.step(torch.tensor([2]))
    assert (step.reward.tolist(), step.terminated.tolist(), step.boundary.tolist()) == ([1.0], [True], [True])
    assert step.observation.tolist() == [grid.state(4, 3)]
    with pytest.raises(GameError, match="copy 0 of grid:lecture was stepped outside an episode"):
        game.step(RIGHT)


def test_frequencies_are_the_probabilities():
    mdp = random_mdp(6, 2, 3, torch.Generator().manual_seed(0), ending=0.2)
    B = 40_000
    game: Any = FiniteGame(mdp, B)
    first = game.reset(seed=range(B))
    assert torch.bincount(first, minlength=6) / B == pytest.approx(np.full(6, 1 / 6), abs=0.01)
    step = game.step(torch.ones(B, dtype=torch.int64))
    P = mdp.transition().to_dense()
    for s in range(6):
        here = first == s
        going = here & ~step.terminated
        share = torch.bincount(step.observation[going], minlength=6) / here.sum()
        assert share == pytest.approx(P[6 + s].numpy(), abs=0.025)
        assert step.reward[here].unique().numel() == 1
        assert float(step.reward[here][0]) == pytest.approx(float(mdp.expected_reward()[s, 1]), abs=1e-6)
    assert float(step.terminated.float().mean()) == pytest.approx(0.2, abs=0.01)


def test_streams_are_uniform_and_do_not_know_one_another():
    game: Any = FiniteGame(lecture_grid().mdp, 2000)
    game.reset(seed=range(2000))
    draws = torch.stack([game._draw(torch.ones(2000, dtype=torch.bool)) for _ in range(50)])
    assert float(draws.min()) >= 0.0 and float(draws.max()) < 1.0
    assert torch.histc(draws.float(), 10, 0, 1) / draws.numel() == pytest.approx(np.full(10, 0.1), abs=0.005)
    centered = draws - 0.5
    for pair in (centered[:, :-1] * centered[:, 1:], centered[:-1] * centered[1:]):  # neighboring seeds; neighboring draws
        assert float(pair.mean()) == pytest.approx(0.0, abs=5 / 12 / math.sqrt(pair.numel()))


def test_batched_copies_are_single_games():
    mdp = random_mdp(6, 2, 3, torch.Generator().manual_seed(0), ending=0.2)
    batched = FiniteGame(mdp, 4)
    batched.reset(seed=[5, 6, 7, 8])
    singles = [FiniteGame(mdp, 1) for _ in range(4)]
    for game, seed in zip(singles, (5, 6, 7, 8), strict=True):
        game.reset(seed=[seed])
    g = torch.Generator().manual_seed(1)
    for _ in range(50):
        actions = torch.randint(2, (4,), generator=g)
        step = batched.step(actions)
        own = [game.step(actions[b : b + 1]) for b, game in enumerate(singles)]
        for name in ("observation", "reward", "terminated", "boundary"):
            assert torch.equal(getattr(step, name), torch.cat([getattr(o, name) for o in own]))
        if step.boundary.any():
            after = batched.reset(where=step.boundary)
            for b in step.boundary.nonzero().flatten().tolist():
                assert after[b] == singles[b].reset()[0]


def test_a_time_limit_is_a_boundary_and_no_end():
    game = FiniteGame(lecture_grid(slip=0.0).mdp, 1, max_steps=2)
    game.reset(seed=[0])
    assert not game.step(RIGHT).boundary.any()
    step = game.step(RIGHT)
    assert step.boundary.all() and not step.terminated.any()
    game.reset(where=step.boundary)
    assert not game.step(RIGHT).boundary.any()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_snapshot_continues_to_the_same_bits(hidden):
    mdp = random_mdp(6, 2, 3, torch.Generator().manual_seed(0), ending=0.2)
    likelihood = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(4)).double().softmax(-1)
    world = FinitePOMDP(mdp, likelihood, likelihood[0]) if hidden else mdp
    game = FiniteGame(world, 2)
    game.reset(seed=[3, 4])
    play(game, 9)
    kept, now = [game.snapshot(b) for b in range(2)], play(game, 0)
    expected = play(game, 30)
    fresh = FiniteGame(world, 2)
    seen = torch.stack([fresh.restore(b, kept[b]) for b in range(2)])
    assert now == [] and play(fresh, 30) == expected
    assert seen.shape == (2,)
    with pytest.raises(CannotSnapshot, match="a snapshot of .* was given to grid:lecture"):
        FiniteGame(lecture_grid().mdp, 1).restore(0, kept[0])


def test_a_hidden_state_is_seen_through_its_likelihood():
    # The tiger (Kaelbling et al. 1998): listening (action 0) moves nothing and is right with 0.85.
    def outcomes(state: int, action: int):
        if action == 0:
            return [(1.0, state, -1.0, False)]
        return [(1.0, state, 10.0 if action - 1 != state else -100.0, True)]

    mdp = mdp_from_outcomes(2, 3, outcomes, torch.tensor([0.5, 0.5], dtype=torch.float64))
    hears = torch.tensor([[0.85, 0.15], [0.15, 0.85]], dtype=torch.float64)
    blind = torch.full((2, 2), 0.5, dtype=torch.float64)
    tiger = FinitePOMDP(mdp, torch.stack([hears, blind, blind]), blind)
    game: Any = FiniteGame(tiger, 20_000)
    game.reset(seed=range(20_000))
    assert game.observation_space == Discrete(2)
    step = game.step(torch.zeros(20_000, dtype=torch.int64))
    assert float((step.observation == game._state).float().mean()) == pytest.approx(0.85, abs=0.01)
    opened = game.step(torch.ones(20_000, dtype=torch.int64))
    assert opened.terminated.all() and set(opened.reward.unique().tolist()) == {-100.0, 10.0}


def test_missing_actions():
    def outcomes(state: int, action: int):
        return [(1.0, 1 - state, 1.0, False)] if action == state else []

    game = FiniteGame(mdp_from_outcomes(2, 2, outcomes, torch.tensor([1.0, 0.0], dtype=torch.float64)), 2)
    game.reset(seed=[0, 1])
    legal = game.legal()
    assert legal is not None and legal.tolist() == [[True, False], [True, False]]
    game.step(torch.tensor([0, 0]))
    legal = game.legal()
    assert legal is not None and legal.tolist() == [[False, True], [False, True]]
    with pytest.raises(GameError, match="was given action 0 in state 1, which does not have it"):
        game.step(torch.tensor([1, 0]))
    assert FiniteGame(lecture_grid().mdp, 1).legal() is None


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        (torch.tensor([4]), "given action 4, which is outside"),
        (torch.tensor([-1]), "given action -1"),
        (torch.tensor([1, 1]), r"shape \(2,\); 1 copies need one integer each"),
        (torch.tensor([0.5]), "torch.float32"),
    ],
)
def test_what_is_no_action_is_refused(actions, sentence):
    game = FiniteGame(lecture_grid().mdp, 1)
    with pytest.raises(GameError, match="reset without a seed"):
        game.reset()
    game.reset(seed=[0])
    with pytest.raises(GameError, match=sentence):
        game.step(actions)


def test_pictures():
    game = FiniteGame(lecture_grid().mdp, 1)
    with pytest.raises(GameError, match="nothing to draw yet"):
        game.render(0)
    game.reset(seed=[0])
    picture = game.render(0, 200, 150)
    assert picture.shape == (150, 200, 3)

    def center(x: int, y: int):
        return tuple(picture[150 - 50 * y + 25, 50 * x - 25].tolist())

    assert [center(1, 1), center(2, 1), center(2, 2), center(4, 3), center(4, 2)] == [AGENT, FREE, WALL, GOAL, PIT]
    plain = FiniteGame(random_mdp(5, 2, 2, torch.Generator().manual_seed(0)), 1)
    plain.reset(seed=[0])
    assert plain.render(0, 90, 90).shape == (90, 90, 3)


def test_addresses():
    game: Any = make("grid:lecture?slip=0.3&max_steps=50", copies=3)
    assert (game.copies, game.max_steps, game.name) == (3, 50, "grid:lecture?slip=0.3&max_steps=50")
    assert float(game.mdp.probability.min()) == pytest.approx(0.15)
    assert make("grid:random?width=5&height=4&walls=0&pits=0", copies=1).observation_space == Discrete(20)
    assert make("mdp:random?states=12&actions=2", copies=1).action_space == Discrete(2)
    assert make("mdp:random", copies=1, states=4).observation_space == Discrete(4)
    for address, sentence in (
        ("grid:lectur", "there is no game grid:lectur; did you mean grid:lecture?"),
        ("grid:lecture?slop=1", "has no option slop; did you mean slip?"),
        ("grid:lecture?slip=often", "slip=often was given; a number was expected"),
        ("grid:random?width=2.5", "width=2.5 was given; a whole number was expected"),
        ("grid:lecture?slip", "'slip' is no option"),
    ):
        with pytest.raises(GameError, match=sentence.replace("?", r"\?")):
            make(address, copies=1)
