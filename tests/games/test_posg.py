"""Finite games of many agents, as arrays and played."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.games.matrix import make_payoffs, matrix_posg
from tutelage.games.posg import POSGGame, is_fully_cooperative, is_zero_sum, one_team, pick, random_posg, thresholds
from tutelage.games.spec import CannotSnapshot, Discrete, GameError, MultiDiscrete, Step, TupleSpace

DOUBLE = torch.float64


def world(seed=0, **options):
    """Three states; agents 1 and 3 are alike, agent 2 has other numbers of actions and observations."""
    return random_posg(3, (2, 3, 2), (2, 4, 2), torch.Generator().manual_seed(seed), **options)


def play(game: Any, steps: int, seed: int = 0):
    """All that a fixed sequence of random actions brings."""
    g = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        actions = tuple(torch.randint(group.action_space.n, (game.copies, len(group.agents)), generator=g) for group in game.players.groups)
        step: Any = game.step(actions)
        seen.append([*(x.tolist() for x in step.observation), *(getattr(step, name).tolist() for name in ("reward", "boundary"))])
        if step.boundary.any():
            seen.append([x.tolist() for x in game.reset(where=step.boundary)])
    return seen


def test_frequencies_are_the_probabilities():
    posg, B = world(), 60_000
    game: Any = POSGGame(posg, B)
    alike, other = game.reset(seed=range(B))
    state = game._state
    assert torch.bincount(state, minlength=3) / B == pytest.approx(posg.start, abs=0.01)
    own = [alike[:, 0], other[:, 0], alike[:, 1]]
    for i in range(3):
        for s in range(3):
            share = torch.bincount(own[i][state == s], minlength=posg.observations[i]) / (state == s).sum()
            assert share == pytest.approx(posg.first_likelihood[i][s], abs=0.03)
    before = state.clone()
    step: Step = game.step((torch.tensor([[1, 0]]).expand(B, -1), torch.full((B, 1), 2)))  # joint action (1, 2, 0)
    after = game._state
    for s in range(3):
        share = torch.bincount(after[before == s], minlength=3) / (before == s).sum()
        assert share == pytest.approx(posg.transition[s, 1, 2, 0], abs=0.03)
    torch.testing.assert_close(step.reward, posg.reward[:, before, 1, 2, 0, after].T.float())
    assert not step.terminated.any() and not step.boundary.any() and step.mask.all()
    observation: Any = step.observation
    for i, (seen, action) in enumerate([(observation[0][:, 0], 1), (observation[1][:, 0], 2), (observation[0][:, 1], 0)]):
        for s in range(3):
            share = torch.bincount(seen[after == s], minlength=posg.observations[i]) / (after == s).sum()
            assert share == pytest.approx(posg.likelihood[i][s, action], abs=0.03)


def test_agents_observe_independently_given_the_state():
    posg, B = world(), 60_000
    game: Any = POSGGame(posg, B)
    alike, other = game.reset(seed=range(B))
    here = game._state == 0
    joint = torch.bincount(alike[here, 0] * 8 + other[here, 0] * 2 + alike[here, 1], minlength=16) / here.sum()
    first, second, third = (table[0] for table in posg.first_likelihood)
    assert joint == pytest.approx(torch.einsum("a,b,c->abc", first, second, third).flatten(), abs=0.02)


def test_groups_and_spaces():
    game = POSGGame(world(), 2)
    assert game.players is not None and [group.agents for group in game.players.groups] == [(0, 2), (1,)]
    assert game.players.teams == ((0, 1, 2),) and game.players.names == ("agent_1", "agent_2", "agent_3")
    assert game.action_space == TupleSpace((MultiDiscrete((2, 2)), MultiDiscrete((3,))))
    assert game.observation_space == TupleSpace((MultiDiscrete((2, 2)), MultiDiscrete((4,))))
    alike = one_team("ab", [Discrete(2)] * 2, [Discrete(3)] * 2)
    assert [group.agents for group in alike.groups] == [(0, 1)]


def test_final_states_end_the_episode_and_time_limits_do_not_terminate():
    posg = world(ending=0.3)
    assert posg.final.tolist() == [False, False, False, True] and not world().final.any()
    game: Any = POSGGame(posg, 5_000, max_steps=3)
    game.reset(seed=range(5_000))
    actions = (torch.zeros(5_000, 2, dtype=torch.int64), torch.zeros(5_000, 1, dtype=torch.int64))
    step = game.step(actions)
    assert torch.equal(step.terminated[:, 0], step.boundary) and torch.equal(step.terminated, (game._state == 3)[:, None].expand(-1, 3))
    assert float(step.boundary.float().mean()) == pytest.approx(0.3, abs=0.03)
    with pytest.raises(GameError, match="was stepped outside an episode"):
        game.step(actions)
    game.reset()
    stepped: Any = None
    limited: Any = POSGGame(world(), 1, max_steps=2)
    limited.reset(seed=[0])
    for expected in (False, True):
        stepped = limited.step((torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)))
        assert bool(stepped.boundary) is expected and not stepped.terminated.any()


def test_what_pays_or_moves_is_not_final():
    posg = world(ending=0.3)
    paying = posg.reward.clone()
    paying[1, 3, 0, 1, 0, 3] = 1e-3
    assert not replace(posg, reward=paying).final.any()
    moving = posg.transition.clone()
    moving[3, 1, 0, 1] = torch.tensor([0, 0, 1, 0], dtype=DOUBLE)
    assert not replace(posg, transition=moving).final.any()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_batched_copies_are_single_games_and_snapshots_continue_to_the_same_bits(seed, copies):
    posg = world(seed % 7, ending=0.2)
    batched = POSGGame(posg, copies, max_steps=6)
    batched.reset(seed=[seed + b for b in range(copies)])
    play(batched, 5)
    kept = [batched.snapshot(b) for b in range(copies)]
    expected = play(batched, 9, seed=1)
    fresh: Any = POSGGame(posg, copies, max_steps=6)
    singles: list[Any] = [POSGGame(posg, 1, max_steps=6) for _ in range(copies)]
    for b in range(copies):
        seen = fresh.restore(b, kept[b])
        assert [x.shape for x in seen] == [(2,), (1,)]
        assert [x.tolist() for x in singles[b].restore(0, kept[b])] == [x.tolist() for x in seen]
    assert play(fresh, 9, seed=1) == expected
    g = torch.Generator().manual_seed(2)
    for b in range(copies):
        fresh.restore(b, kept[b])
        singles[b].restore(0, kept[b])
    for _ in range(6):
        actions = (torch.randint(2, (copies, 2), generator=g), torch.randint(3, (copies, 1), generator=g))
        step = fresh.step(actions)
        for b, single in enumerate(singles):
            own = single.step((actions[0][b : b + 1], actions[1][b : b + 1]))
            assert torch.equal(own.reward[0], step.reward[b]) and torch.equal(own.boundary[0], step.boundary[b])
            if own.boundary.any():
                single.reset()
        if step.boundary.any():
            fresh.reset(where=step.boundary)


def test_draws_never_fall_on_the_impossible():
    law = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]], dtype=DOUBLE)
    limits = thresholds(law)
    for draw in (0.0, 0.25, 0.5, 0.999999999999, 1 - 2**-53):
        chosen = pick(limits, torch.full((3,), draw, dtype=DOUBLE))
        assert (law.gather(1, chosen[:, None]) > 0).all()


def test_fully_cooperative_and_zero_sum():
    posg = world(branching=2)
    assert not is_fully_cooperative(posg) and not is_zero_sum(posg)
    shared = replace(posg, reward=posg.reward[:1].expand(3, -1, -1, -1, -1, -1))
    assert is_fully_cooperative(shared) and not is_zero_sum(shared)
    balanced = replace(posg, reward=posg.reward - posg.reward.mean(0))
    assert is_zero_sum(balanced) and not is_fully_cooperative(balanced)
    nothing = replace(posg, reward=torch.zeros_like(posg.reward))
    assert is_zero_sum(nothing) and is_fully_cooperative(nothing)
    # What is paid for what cannot happen is nobody's.
    never = torch.where(posg.transition == 0.0, posg.reward, posg.reward[:1])
    assert is_fully_cooperative(replace(posg, reward=never))
    known = {name: matrix_posg(make_payoffs(f"matrix:{name}")) for name in ("stag_hunt", "rock_paper_scissors", "matching_pennies")}
    assert {name: (is_fully_cooperative(game), is_zero_sum(game)) for name, game in known.items()} == {
        "stag_hunt": (False, False),
        "rock_paper_scissors": (False, True),
        "matching_pennies": (False, True),
    }


@pytest.mark.parametrize(
    ("field", "change", "sentence"),
    [
        ("transition", lambda x: x * 0.5, r"the transition at \[0 0 0 0\] sums to 0.5; 1 was expected"),
        ("likelihood", lambda x: x[:2], r"transitions of shape \(3, 2, 3, 2, 3\) were given for 2 agents"),
        ("reward", lambda x: x[:2], r"the reward has shape \(2, 3, 2, 3, 2, 3\); \(3, 3, 2, 3, 2, 3\) was expected"),
        ("reward", lambda x: x / 0.0, "a reward is NaN or infinite"),
        ("start", lambda x: torch.tensor([2.0, -1.0, 0.0], dtype=DOUBLE), "sums to 1; 1 was expected, of none that is negative"),
        ("likelihood", lambda x: (x[1], *x[1:]), r"likelihood of agent 1 has shape \(3, 3, 4\); \(3, 2, 4\) was expected"),
        ("first_likelihood", lambda x: x[:2], r"first likelihood of agent 3 has shape \(0,\)"),
        ("first_likelihood", lambda x: (x[0] * torch.nan, *x[1:]), "first likelihood of agent 1 .* sums to nan"),
        ("discount", lambda x: 1.5, "the discount 1.5 was given; a number from 0 to 1 was expected"),
    ],
)
def test_what_is_no_game_is_refused(field, change, sentence):
    posg = world()
    with pytest.raises(GameError, match=sentence):
        replace(posg, **{field: change(getattr(posg, field))})


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        (torch.zeros(1, 3, dtype=torch.int64), "a tuple over 2 groups was expected"),
        ((torch.zeros(1, 2, dtype=torch.int64),), "actions for 1 groups"),
        ((torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)), r"shape \(1, 2\); integers of shape \(1, 1\)"),
        ((torch.zeros(1, 2), torch.zeros(1, 1)), "torch.float32"),
        ((torch.tensor([[0, 2]]), torch.tensor([[0]])), "action 2 for agent_3, which is outside"),
        ((torch.tensor([[0, 1]]), torch.tensor([[-1]])), "action -1 for agent_2"),
    ],
)
def test_what_is_no_joint_action_is_refused(actions, sentence):
    game = POSGGame(world(), 1)
    with pytest.raises(GameError, match="reset without a seed"):
        game.reset()
    with pytest.raises(GameError, match="2 seeds for 1 copies"):
        game.reset(seed=[0, 1])
    with pytest.raises(GameError, match="has no state yet"):
        game.snapshot(0)
    game.reset(seed=[0])
    with pytest.raises(GameError, match=sentence):
        game.step(actions)
    with pytest.raises(CannotSnapshot, match="a snapshot of a matrix game was given to a random POSG"):
        game.restore(0, {"game": "a matrix game"})


def test_what_makes_no_game():
    g = torch.Generator().manual_seed(0)
    asked: Any = (
        (0, (2,), (2,), {}),
        (3, (2, 2), (2,), {}),
        (3, (2,), (2,), {"branching": 4}),
        (3, (2,), (0,), {}),
        (3, (2,), (2,), {"ending": 1.5}),
    )
    for states, actions, observations, options in asked:
        with pytest.raises(GameError, match="a random POSG was asked for with"):
            random_posg(states, actions, observations, g, **options)
    with pytest.raises(GameError, match="copies=0 and max_steps=None; at least one of each"):
        POSGGame(world(), 0)
