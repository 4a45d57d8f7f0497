"""Configurations: out to JSON and back, and one sentence for whatever makes no sense."""

import dataclasses
import json
import random
from typing import Any

import pytest

from tutelage.experiment.config import COUNTS, ConfigError, RunConfig, from_json, nearest, to_json
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.rewards import learned

CONFIGS = [
    RunConfig(sac.Config(hidden=(64, 32), target_entropy=-1.5, replay_capacity=None), "gym:Pendulum-v1", 100, seeds=3),
    RunConfig(pebble.Config(reward_model=learned.Config(max_steps=30)), "dm:walker-walk", 100, rater="store", store="sqlite:///a.sqlite"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_comes_back_from_json(config: RunConfig):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert to_json(config)["name"] == config.name == ("sac" if isinstance(config.algorithm, sac.Config) else "pebble")


def test_a_field_that_is_left_out_has_its_default():
    values = to_json(CONFIGS[0])
    del values["copies"], values["algorithm"]["discount"]
    assert from_json(values) == CONFIGS[0]


def test_a_whole_number_may_stand_for_a_real_one():
    values = to_json(CONFIGS[0])
    values["algorithm"]["discount"] = 1
    assert from_json(values).algorithm == dataclasses.replace(CONFIGS[0].algorithm, discount=1.0)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (["name"], "sacc", "unknown algorithm 'sacc'; did you mean sac?"),
        (["name"], "peble", "unknown algorithm 'peble'; did you mean pebble?"),
        (["name"], None, "unknown algorithm None; did you mean"),
        (["name"], ["sac"], r"unknown algorithm \['sac'\]; did you mean"),
        (["sedes"], 3, "the configuration has an unknown field 'sedes'; the nearest known one is 'seeds'"),
        (["algorithm", "learning_rat"], 0.1, "algorithm has an unknown field 'learning_rat'; the nearest known one is 'learning_rate'"),
        (["algorithm"], 7, "algorithm is 7; an object with the fields of Config was expected"),
        (["algorithm", "hidden"], 64, "algorithm.hidden is 64; a list was expected"),
        (["algorithm", "hidden"], [64, "wide"], r"algorithm.hidden\[1\] is 'wide'; a whole number was expected"),
        (["algorithm", "discount"], "high", "algorithm.discount is 'high'; a number was expected"),
        (["algorithm", "batch_size"], 2.5, "algorithm.batch_size is 2.5; a whole number was expected"),
        (["algorithm", "replay_capacity"], "all", "algorithm.replay_capacity is 'all'; a whole number was expected"),
        (["algorithm", "replay_capacity"], True, "algorithm.replay_capacity is True; a whole number was expected"),
        (["seeds"], True, "the configuration.seeds is True; a whole number was expected"),
        (["game"], None, "the configuration.game is None; a text was expected"),
        (["store"], 5, "the configuration.store is 5; a text was expected"),
        (["rater"], "somebody", "the configuration.rater is 'somebody'; one of oracle, store, human was expected"),
        (["steps"], 0, "steps=0 was given; a run needs at least 1"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(place: list[str], value: object, sentence: str):
    values = to_json(CONFIGS[0])
    where: dict[str, Any] = values
    for name in place[:-1]:
        where = where[name]
    where[place[-1]] = value
    with pytest.raises(ConfigError, match=sentence) as error:
        from_json(values)
    assert "\n" not in str(error.value)


def test_a_field_deep_inside_is_named_by_its_path():
    values = to_json(CONFIGS[1])
    values["algorithm"]["sac"]["hidden"] = [1, None]
    with pytest.raises(ConfigError, match=r"algorithm.sac.hidden\[1\] is None; a whole number was expected"):
        from_json(values)


def test_what_is_missing_is_named():
    values = to_json(CONFIGS[0])
    del values["game"]
    with pytest.raises(ConfigError, match="the configuration is incomplete: .*'game'"):
        from_json(values)


@pytest.mark.parametrize("values", [None, [], "sac", 3])
def test_a_configuration_is_an_object(values: object):
    with pytest.raises(ConfigError, match="an object was expected"):
        from_json(values)


@pytest.mark.parametrize("name", COUNTS)
def test_a_run_counts_from_one(name: str):
    with pytest.raises(ConfigError, match=f"^{name}=0 was given; a run needs at least 1$"):
        dataclasses.replace(CONFIGS[0], **{name: 0})


def test_the_nearest_name_is_the_most_similar():
    assert nearest("sak", ["pebble", "sac"]) == "sac" and nearest("zzz", ["pebble"]) == "pebble"


def test_any_json_gives_a_configuration_or_a_config_error():
    chance, refused = random.Random(2), 0
    for _ in range(500):
        values = json.loads(json.dumps(to_json(chance.choice(CONFIGS))))
        for _ in range(chance.randrange(1, 3)):
            where: Any = values
            while True:
                key = chance.choice(list(where))
                if not isinstance(where[key], dict) or chance.random() < 0.2:
                    break
                where = where[key]
            where[key] = chance.choice([None, -1, 0, 1, 2.5, "", "x", [], [[]], [1], {}, {"a": 1}, True, 10**400])
        try:
            from_json(values)
        except ConfigError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 500
