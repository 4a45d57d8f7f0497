"""Toy-text games as arrays, against the games themselves."""

import pytest
import torch

from tutelage.games.finite_game import FiniteGame
from tutelage.games.make import make
from tutelage.games.spec import GameError
from tutelage.games.toy_text import blackjack_mdp, toy_text_mdp
from tutelage.games.worlds import make_world


def test_frozen_lake_by_hand():
    lake = toy_text_mdp("FrozenLake-v1")
    assert (lake.states, lake.actions) == (16, 4) and lake.layout is not None and lake.layout.columns == 4
    P, r = lake.transition().to_dense().view(4, 16, 16), lake.expected_reward()
    # From 14, to the right of it the goal: right, up and down with a third each; up is 10, down stays.
    assert [float(P[2, 14, s]) for s in (10, 14, 15)] == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert float(r[14, 2]) == pytest.approx(1 / 3) and int(lake.start.argmax()) == 0
    assert lake.final.nonzero().flatten().tolist() == [5, 7, 11, 12, 15]
    assert toy_text_mdp("FrozenLake-v1", is_slippery=False).probability.unique().tolist() == [1.0]


@pytest.mark.parametrize("identifier", ["FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4"])
def test_a_table_explains_what_its_game_does(identifier):
    mdp, game = toy_text_mdp(identifier), make(f"gym:{identifier}", copies=1)
    g = torch.Generator().manual_seed(0)
    state = int(game.reset(seed=[0])[0])  # type: ignore[index]
    assert mdp.start[state] > 0
    P, r = mdp.transition(), mdp.edges
    assert P.shape == (mdp.actions * mdp.states, mdp.states)
    for _ in range(300):
        action = int(torch.randint(mdp.actions, (1,), generator=g))
        step = game.step(torch.tensor([action]))
        after = int(step.observation[0])  # type: ignore[index]
        pair = action * mdp.states + state
        own = slice(int(r[pair]), int(r[pair + 1]))
        outcomes = zip(mdp.next_state[own].tolist(), mdp.reward[own].tolist(), mdp.terminated[own].tolist(), strict=True)
        assert (after, float(step.reward[0]), bool(step.terminated[0])) in list(outcomes)
        state = int(game.reset(where=step.boundary)[0]) if step.boundary.any() else after  # type: ignore[index]


def test_blackjack_counts_its_cards():
    mdp = blackjack_mdp()
    assert mdp.states == 291 and float(mdp.start.sum()) == pytest.approx(1.0)
    # A natural in two cards: ace and ten either way, 2 x 1/13 x 4/13.
    natural = mdp.start[280:290].sum()
    assert float(natural) == pytest.approx(8 / 169)


@pytest.mark.parametrize(("options", "stick"), [({"sab": True}, 17), ({"sab": False, "natural": True}, 19)])
def test_blackjack_pays_what_its_game_pays(options, stick):
    import gymnasium

    from tutelage.equations.dynamic_programming import policy_value
    from tutelage.games.toy_text import _add

    mdp = blackjack_mdp(natural=bool(options.get("natural")), sab=bool(options.get("sab")))
    totals = torch.tensor([(*range(4, 22), *range(12, 22), 21)[i // 10] for i in range(290)] + [22])
    policy = torch.stack([totals >= stick, totals < stick], 1).double()
    exact = float(mdp.start @ policy_value(mdp.expected_reward(), mdp.transition(), policy, 1.0))
    env = gymnasium.make("Blackjack-v1", **options)
    paid, games = 0.0, 20_000
    for episode in range(games):
        observation, _ = env.reset(seed=episode)
        end = False
        while not end:
            observation, reward, end, _, _ = env.step(int(observation[0] < stick))
        paid += float(reward)
    assert paid / games == pytest.approx(exact, abs=3 * 0.95 / games**0.5)
    assert _add((11, True), 10) == (21, True) and _add((16, True), 10) == (16, False)


def test_games_without_a_table_are_refused():
    with pytest.raises(GameError, match="CartPole-v1 carries no table"):
        make_world("gym:CartPole-v1")
    with pytest.raises(GameError, match="no-such-game cannot be made"):
        make_world("gym:no-such-game")
    with pytest.raises(GameError, match="known are grid:lecture, .* did you mean grid:lecture?"):
        make_world("grid:lectures")
    assert make_world("grid:lecture?slip=0.5").name == "grid:lecture"
    assert FiniteGame(toy_text_mdp("Taxi-v4"), 2).reset(seed=[0, 1]).shape == (2,)
