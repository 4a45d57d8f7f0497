"""Games of one's own by py:module:Class."""

import sys
from typing import Any

import pytest
import torch

from tutelage.games import make as addresses
from tutelage.games.spec import GameError

make: Any = addresses.make  # Any: a test knows which world it made

SOURCE = '''
import gymnasium.envs.classic_control
import numpy as np
import torch

from tutelage.games.spec import Box, Discrete, Game, Step


class Bandit(Game):
    """Pays the number of the arm, after `delay` steps for ever."""

    def __init__(self, copies, arms=3, fair=False):
        self.copies, self.fair = copies, fair
        self.observation_space = Box((1,), np.zeros(1), np.ones(1))
        self.action_space = Discrete(arms)

    def reset(self, seed=None, where=None):
        return torch.zeros(self.copies, 1)

    def step(self, actions):
        end = torch.ones(self.copies, dtype=torch.bool)
        return Step(torch.zeros(self.copies, 1), actions.float(), end, end, end)


class Half(Game):
    def reset(self, seed=None, where=None): ...


class Silent(Bandit):
    def __init__(self, copies):
        pass


class Stubborn(Bandit):
    def __init__(self, copies):
        super().__init__(1)


class Heavy(gymnasium.envs.classic_control.PendulumEnv):
    def __init__(self, weight=1.0):
        super().__init__()
        self.m = weight


class Neither:
    pass
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with one module, which is found although it is not on Python's path."""
    name = f"own_games_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"needy_{name}.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    return name


def test_a_game_of_ones_own(here):
    game = make(f"py:{here}:Bandit", copies=2, arms=5)
    assert game.copies == 2 and game.action_space.n == 5
    assert game.step(torch.tensor([1, 4])).reward.tolist() == [1.0, 4.0]


def test_options_in_an_address_are_read_as_what_their_defaults_are(here):
    game = make(f"py:{here}:Bandit?arms=5&fair=1", copies=2)
    assert game.action_space.n == 5 and game.fair is True
    assert make(f"py:{here}:Bandit?arms=5&fair=0", copies=1, arms=4).action_space.n == 4  # what a program gives counts
    assert make(f"py:{here}:Heavy?weight=2.5", copies=1)._envs[0].unwrapped.m == 2.5


def test_a_gymnasium_environment_of_ones_own(here):
    game = make(f"py:{here}:Heavy", copies=2, weight=2.5)
    assert game.reset(seed=[1, 2]).shape == (2, 3) and game._envs[1].unwrapped.m == 2.5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("HERE", r"does not name a class; py:module:Class is expected"),
        ("HERE:", r"does not name a class; py:module:Class is expected"),
        ("HERE:Bandt", r"has no class Bandt; did you mean py:.*:Bandit\?"),
        ("HERE:SOURCE", "has no class SOURCE"),
        ("no_module_at_all:Game", "there is no module no_module_at_all on Python's path or in"),
        ("needy_HERE:Game", "needs a_package_nobody_has, which is not installed"),
        ("HERE:Neither", "is neither a tutelage.games.spec.Game nor a gymnasium.Env"),
        ("HERE:Half", "cannot be played: it does not define step"),
        ("HERE:Silent", "has no observation_space after its construction"),
        ("HERE:Stubborn", "was asked for 2 copies and made 1"),
        ("HERE:Bandit?legs=3", "Bandit has no option legs; it has arms, fair"),
        ("HERE:Stubborn?copies=3", "Stubborn has no option copies; it has none"),
        ("HERE:Bandit?arms=few", "arms=few was given; a whole number was expected"),
        ("HERE:Bandit?arms", "'arms' is no option; name=value, joined by &, was expected"),
    ],
)
def test_what_is_wrong_is_said(here, path, message):
    with pytest.raises(GameError, match=message):
        make(f"py:{path.replace('HERE', here)}", copies=2)


def test_wrong_options(here):
    for kind in ("Bandit", "Heavy"):
        with pytest.raises(GameError, match=rf"py:{here}:{kind} cannot be made with the options {{'color': 'red'}}"):
            make(f"py:{here}:{kind}", copies=1, color="red")
