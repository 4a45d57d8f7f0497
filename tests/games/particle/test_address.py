"""Addresses of particle worlds and their options."""

from typing import Any

import pytest

from tutelage.games.make import known_games, make
from tutelage.games.particle.address import WORLDS, make_world
from tutelage.games.spec import Box, Discrete, GameError


def test_all_are_listed_and_can_be_made():
    assert {f"particle:{name}" for name in WORLDS} <= set(known_games())
    for name in WORLDS:
        assert make(f"particle:{name}", 2).copies == 2


def test_options_by_query_and_by_keyword():
    query: Any = make("particle:simple_target?agents=2&actions=continuous&max_steps=30&touch_reward=2.5&nearest=any", 1)
    keyword: Any = make("particle:simple_target", 1, agents=2, actions="continuous", max_steps=30, touch_reward=2.5, nearest="any")
    assert query.world.config == keyword.world.config
    assert (query.world.config.agents, query.world.config.touch_reward, query.world.max_steps) == (2, 2.5, 30)
    assert query.players.groups[0].action_space.shape == (2,)


def test_action_spaces():
    spaces: list[Any] = [
        make_world(f"particle:simple_tag?actions={kind}").players.groups[0].action_space for kind in ("discrete", "continuous", "box5")
    ]
    assert spaces[0] == Discrete(5) and all(isinstance(space, Box) for space in spaces[1:])
    assert [(space.shape, float(space.low.min()), float(space.high.max())) for space in spaces[1:]] == [((2,), -1.0, 1.0), ((5,), 0.0, 1.0)]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("particle:simple_spred", "there is no game particle:simple_spred; did you mean particle:simple_spread?"),
        ("particle:simple_spread?agent=2", "particle:simple_spread has no option agent; did you mean agents?"),
        ("particle:simple_target?touch_radios=2", "has no option touch_radios; did you mean touch_radius?"),
        ("particle:simple_spread?agents=two", "agents=two was given; a whole number was expected"),
        ("particle:simple_spread?agents=0", "particle:simple_spread was asked for with agents=0; at least one is needed"),
        ("particle:simple_spread?actions=continous", "discrete or continuous or box5 was expected; did you mean continuous?"),
        ("particle:simple_spread?local_ratio=nan", "local_ratio=nan was given; a finite number was expected"),
        ("particle:simple_spread?max_steps=0", "particle:simple_spread was asked for with max_steps=0; at least one is needed"),
        ("particle:simple_spread?device=gpu", "particle:simple_spread was asked for on device=gpu, which torch cannot use"),
        ("particle:simple_spread?agents", "'agents' is no option; name=value, joined by &, was expected"),
        ("particle:simple_tag?adversaries=0", "adversaries=0 and obstacles=2; at least 1, 1, 0 are needed"),
        ("particle:simple_collect?dwell=-1", "agents=3 and dwell=-1; at least 1 and 0 are needed"),
        ("particle:multi_collect?dwell=0", "agents=2 and dwell=0; at least one of each is needed"),
    ],
)
def test_wrong_ones(address, sentence):
    with pytest.raises(GameError) as error:
        make(address, 1)
    assert sentence in str(error.value) and "\n" not in str(error.value)
