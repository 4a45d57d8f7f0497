"""Addresses: what is there, what is nearest to what is not, and what is missing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.games import make as addresses
from tutelage.games.make import known_games
from tutelage.games.spec import GameError

make: Any = addresses.make  # Any: a test knows which world it made


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("gym:Pendulm-v1", "gym:Pendulum-v1"),
        ("gym:Pendulum", "gym:Pendulum-v1"),
        ("gym:HalfCheeta-v5", "gym:HalfCheetah-v5"),
        ("dm:walker-wlak", "dm:walker-walk"),
        ("dm:walker_walk", "dm:walker-walk"),
        ("Pendulum-v1", "gym:Pendulum-v1"),
        ("walker-walk", "dm:walker-walk"),
        ("gmy:CartPole-v1", "gym:CartPole-v1"),
        ("cristiano:hopper", "christiano:hopper"),
        ("hammer-v3", "metaworld:hammer-v3"),
    ],
)
def test_the_nearest_game_is_named(wrong, right):
    with pytest.raises(GameError, match=rf"{wrong}.*; did you mean {right}\?$"):
        make(wrong, copies=1)


def test_nothing_near():
    with pytest.raises(GameError, match="there is no game gym:zzzzqqqq; `tutelage list` shows all"):
        make("gym:zzzzqqqq", copies=1)


def test_wrong_options_and_counts():
    with pytest.raises(GameError, match="gym:Pendulum-v1 cannot be made with the options .*'mass'"):
        make("gym:Pendulum-v1", copies=1, mass=3)
    with pytest.raises(GameError, match="gym:Pendulum-v1 was asked for in 0 copies"):
        make("gym:Pendulum-v1", copies=0)
    with pytest.raises(GameError, match="gym:HalfCheetah-v2 cannot be made"):
        make("gym:HalfCheetah-v2", copies=1)


def test_options_reach_the_world():
    game: Any = make("gym:Pendulum-v1", copies=2, g=3.5)
    assert [env.unwrapped.g for env in game._envs] == [3.5, 3.5]


def test_ids_that_a_module_registers(tmp_path, monkeypatch):
    (tmp_path / "registers_a_game.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert make("gym:registers_a_game:Mine-v0", copies=1).action_space.shape == (1,)
    with pytest.raises(GameError, match="the module no_such_module cannot be imported"):
        make("gym:no_such_module:Mine-v0", copies=1)


def test_known_games_are_the_newest_and_can_be_made():
    games = known_games()
    assert {"gym:Pendulum-v1", "gym:HalfCheetah-v5", "dm:walker-walk", "dm:ball_in_cup-catch"} <= set(games)
    assert "gym:HalfCheetah-v4" not in games and len(set(games)) == len(games)
    assert not any("phys2d" in game or "GymV" in game for game in games)


def test_without_simulators_the_core_imports_and_one_sentence_names_the_extra():
    script = """
import sys
for package in ("gymnasium", "mujoco", "dm_control", "dm_env", "metaworld", "pygame", "ale_py", "cv2"):
    sys.modules[package] = None
from tutelage.games import make, nested, program, snapshots, spec
for address in ("gym:Pendulum-v1", "dm:walker-walk", "christiano:hopper", "metaworld:hammer-v3", "atari:Pong"):
    try:
        make.make(address, copies=1)
    except spec.GameError as error:
        print(error)
"""
    path = {**os.environ, "PYTHONPATH": str(Path(tutelage.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all("is not installed, and this game needs it; run: pip install 'tutelage[control]'" in line for line in lines[:4])
    assert "this game needs both; run: pip install 'tutelage[atari]'" in lines[4]
