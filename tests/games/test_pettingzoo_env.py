"""A Game as a PettingZoo environment: PettingZoo's own tests, what the dead and the masked are told, and the way there and back."""

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box as NativeBox
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

from tutelage.games import pettingzoo_env
from tutelage.games.gymnasium import convert_space
from tutelage.games.pettingzoo_env import native_space
from tutelage.games.spec import Box, DictSpace, Discrete, Game, GameError, Group, MultiBinary, MultiDiscrete, Players, Step, TupleSpace
from tutelage.games.streams import stream_keys, uniforms

parallel_env: Any = pettingzoo_env.parallel_env  # Any: a test knows which game it wrapped
aec_env: Any = pettingzoo_env.aec_env

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pettingzoo", "ignore::UserWarning:gymnasium")


def box(*shape):
    return Box(shape, np.full(shape, -1.0, np.float32), np.full(shape, 1.0, np.float32))


PILOT = Group((0, 2), box(3), Discrete(3))
TURRET = Group((1,), DictSpace((("angle", Discrete(8)), ("lamps", MultiBinary((2,))))), TupleSpace((box(2), MultiDiscrete((2, 3)))))


class Skies(Game):
    """Two pilots and, between them in the order, a turret that dies in step 3 of 6. Pilots may not repeat what they last did."""

    def __init__(self, copies=1, terminal=False):
        self.copies, self.terminal, self.received = copies, terminal, []
        self.players = Players(("north", "turret", "south"), (PILOT, TURRET), ((0, 2), (1,)))
        self.observation_space, self.action_space = self.players.observation_space, self.players.action_space
        self.drawn = torch.zeros(copies, dtype=torch.int64)

    def reset(self, seed=None, where=None):
        if seed is not None:
            self.keys, self.drawn = stream_keys(seed), torch.zeros(self.copies, dtype=torch.int64)
        self.time = 0
        self.last = torch.full((self.copies, 2), -1)
        return self.look()

    def look(self):
        wind = uniforms(self.keys, self.drawn).float()
        pilots = torch.stack([torch.tensor([self.time / 10, float(i), wind.item()]) for i in range(2)])
        turret = {"angle": torch.tensor([[self.time]]), "lamps": torch.ones(1, 1, 2, dtype=torch.int8)}
        return pilots[None].clamp(-1, 1), turret

    def step(self, actions: Any):
        self.received.append(actions)
        alive = self.time < 3
        self.time, self.drawn, self.last = self.time + 1, self.drawn + 1, actions[0]
        over = self.time == 6
        reward = torch.stack([actions[0][0, 0].float(), actions[1][0][0, 0].sum() if alive else torch.tensor(0.0), torch.tensor(-1.0)])
        terminated = torch.tensor([[over and self.terminal, self.time >= 3, over and self.terminal]])
        return Step(self.look(), reward[None], terminated, torch.tensor([over]), torch.tensor([[True, alive, True]]))

    def legal(self):
        pilots = torch.arange(3) != self.last[0, :, None]  # [2, 3]
        return torch.cat([pilots.flatten(), torch.ones(5, dtype=torch.bool)])[None]


def test_spaces_there_and_back():
    for space in (
        box(2),
        Box((1, 2), np.zeros((1, 2), np.uint8), np.full((1, 2), 255, np.uint8), "uint8"),
        PILOT.action_space,
        TURRET.observation_space,
        TURRET.action_space,
    ):
        assert convert_space(native_space(space), "x") == space


@pytest.mark.parametrize("terminal", [False, True])
def test_pettingzoo_s_own_tests(terminal):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(Live agent|was dead last turn|No agents present)")
        parallel_api_test(parallel_env(Skies(terminal=terminal)), num_cycles=30)
    api_test(aec_env(Skies(terminal=terminal)), num_cycles=30)
    parallel_seed_test(lambda: parallel_env(Skies(terminal=terminal)), num_cycles=30)
    seed_test(lambda: aec_env(Skies(terminal=terminal)), num_cycles=30)


@pytest.mark.parametrize("address", ["zoo:mpe2.simple_tag_v3", "particle:simple_spread", "grid:lecture", "gym:CartPole-v1"])
def test_pettingzoo_s_own_tests_on_games_by_address(address):
    parallel_api_test(parallel_env(address), num_cycles=60)
    api_test(aec_env(address), num_cycles=60)
    parallel_seed_test(lambda: parallel_env(address), num_cycles=60)
    seed_test(lambda: aec_env(address), num_cycles=60)


def test_what_agents_are_told_until_they_leave():
    env = parallel_env(Skies())
    observations, infos = env.reset(seed=4)
    assert str(env) == "Skies" and list(observations) == env.agents == env.possible_agents == ["north", "turret", "south"]
    assert observations["north"].dtype == np.float32 and observations["north"].tolist()[:2] == [0, 0] and observations["south"][1] == 1
    assert observations["turret"]["angle"] == 0 and observations["turret"]["lamps"].tolist() == [1, 1]
    assert infos["south"]["action_mask"].tolist() == [1, 1, 1]
    assert infos["turret"] == {}, "masks are told of integers alone, not of those within a nested action"
    aim = (np.array([0.25, 0.5], np.float32), np.array([1, 2]))
    taken = []
    for t in range(6):
        given = {"south": 2 - t % 2, "north": t % 3, "turret": aim}
        taken.append(env.step({agent: given[agent] for agent in env.agents}))
    agents = [sorted(step[0]) for step in taken]
    assert agents == [["north", "south", "turret"]] * 3 + [["north", "south"]] * 3 and all(
        list(s[1]) == list(s[2]) == list(s[0]) for s in taken
    )
    assert [step[1]["north"] for step in taken] == [0, 1, 2, 0, 1, 2] and taken[0][1]["turret"] == 0.75
    assert [step[2].get("turret") for step in taken] == [False, False, True, None, None, None]
    assert taken[2][0]["turret"]["angle"] == 3, "its last observation is there"
    assert taken[5][3] == {"north": True, "south": True} and not any(taken[5][2].values()), "a time limit truncates"
    assert taken[0][4]["south"]["action_mask"].tolist() == [1, 1, 0] and env.agents == []
    first, last = env.game.received[0], env.game.received[5]
    assert first[0].tolist() == [[0, 2]] and first[1][0].tolist() == [[[0.25, 0.5]]] and first[1][1].tolist() == [[[1, 2]]]
    assert last[1][0].tolist() == [[[0, 0]]] and last[1][1].tolist() == [[[0, 0]]], "the dead do nothing"
    with pytest.raises(GameError, match="Skies was stepped outside an episode"):
        env.step({})


def test_masks_of_several_integers_are_a_tuple():
    class Dials(Skies):
        def __init__(self):
            super().__init__()
            self.players = Players(("a",), (Group((0,), box(1), MultiDiscrete((2, 3))),), ((0,),))

        def look(self):
            return (torch.zeros(1, 1, 1),)

        def legal(self):
            return torch.tensor([[True, False, False, True, True]])

    env = parallel_env(Dials())
    mask = env.reset(seed=0)[1]["a"]["action_mask"]
    assert [part.tolist() for part in mask] == [[1, 0], [0, 1, 1]] and env.action_space("a").sample(mask)[0] == 0


def test_seeds_and_streams():
    winds = lambda env, seeds: [env.reset(seed=seed)[0]["north"][2] for seed in seeds]
    assert winds(parallel_env(Skies()), [1, 2]) == winds(parallel_env(Skies()), [1, 2])
    env = parallel_env("gym:CartPole-v1")
    first, second, third = (env.reset(seed=seed)[0]["agent"].tolist() for seed in (3, None, 3))
    assert first == third != second, "without a seed, the stream goes on"
    assert not np.array_equal(*(parallel_env("gym:CartPole-v1").reset()[0]["agent"] for _ in range(2)))


def test_wrong_games_and_actions():
    with pytest.raises(GameError, match="Skies has 2 copies, and a PettingZoo environment is one"):
        parallel_env(Skies(copies=2))
    with pytest.raises(GameError, match="options belong to an address"):
        parallel_env(Skies(), terminal=True)
    env = parallel_env(Skies())
    env.reset(seed=0)
    aim = (np.zeros(2, np.float32), np.array([0, 0]))
    for actions, sentence in [
        ({"north": 0, "south": 0}, "Skies was given actions of north, south; turret is alive and needs one"),
        ({}, "Skies was given actions of nobody; north is alive"),
        ({"north": 0.5, "south": 0, "turret": aim}, r"an action of north of shape \(\) and type float64; it has Discrete\(n=3\)"),
        ({"north": [1], "south": 0, "turret": aim}, r"an action of north of shape \(1,\)"),
        ({"north": 0, "south": 0, "turret": 3}, "an action of turret that is not built like TupleSpace"),
    ]:
        with pytest.raises(GameError, match=sentence):
            env.step(actions)


def test_pictures():
    env = parallel_env("zoo:mpe2.simple_spread_v3")
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3) and env.render_mode == "rgb_array"
    env.close()
    with pytest.raises(GameError, match="Skies has no picture"):
        parallel_env(Skies()).render()


@pytest.mark.parametrize("continuous", [False, True])
def test_mpe2_there_and_back(continuous):
    """Twenty random episodes of simple_spread through the Game and back are those of mpe2 itself."""
    ours = parallel_env("zoo:mpe2.simple_spread_v3", continuous_actions=continuous)
    theirs = importlib.import_module("mpe2.simple_spread_v3").parallel_env(continuous_actions=continuous)
    assert ours.possible_agents == theirs.possible_agents
    for agent in ours.possible_agents:
        assert ours.observation_space(agent) == theirs.observation_space(agent) and ours.action_space(agent) == theirs.action_space(agent)
    random = np.random.default_rng(0)
    for episode in range(20):
        seen, expected = ours.reset(seed=episode)[0], theirs.reset(seed=episode)[0]
        while theirs.agents:
            assert list(seen) == list(expected) == ours.agents == theirs.agents
            assert all(np.array_equal(seen[agent], expected[agent]) for agent in seen)
            draw = (lambda: random.random(5, np.float32)) if continuous else (lambda: int(random.integers(5)))
            actions = {agent: draw() for agent in theirs.agents}
            seen, *told = ours.step(actions)
            expected, *answer = theirs.step(actions)
            assert {agent: np.float32(reward) for agent, reward in answer[0].items()} == told[0]
            assert told[1:3] == answer[1:3]
        assert all(np.array_equal(seen[agent], expected[agent]) for agent in seen) and not ours.agents


def test_turns_there_and_back():
    """Tic-tac-toe through the Game: who waits may only submit its first action, and the winner's move pays both."""
    env = parallel_env("zoo:pettingzoo.classic.tictactoe_v3")
    _, infos = env.reset(seed=0)
    for move in (0, 3, 1, 4, 2):  # the first player's row
        mover = max(env.agents, key=lambda agent: infos[agent]["action_mask"].sum())
        assert infos[mover]["action_mask"][move] == 1
        _, rewards, terminated, _, infos = env.step({agent: move if agent == mover else 0 for agent in env.agents})
    assert rewards == {"player_1": 1.0, "player_2": -1.0} and all(terminated.values()) and not env.agents


def test_an_agent_that_is_truncated_alone_leaves_one_step_later():
    class Early(Skies):
        def step(self, actions):
            step = super().step(actions)
            terminated = step.terminated.clone()
            terminated[0, 1] = False  # the turret is gone after step 3, and yet not at an end
            return Step(step.observation, step.reward, terminated, step.boundary, step.mask)

    env = parallel_env(Early())
    env.reset(seed=0)
    aim = (np.zeros(2, np.float32), np.array([0, 0]))
    taken = [env.step({agent: aim if agent == "turret" else 0 for agent in env.agents}) for _ in range(4)]
    assert taken[2][3]["turret"] is False and taken[3][3]["turret"] is True and taken[3][1]["turret"] == 0 and "turret" not in env.agents


def test_bounds_that_exclude_zero():
    class Heavy(Skies):
        def __init__(self):
            super().__init__()
            high = Box((2,), np.full(2, 0.5, np.float32), np.ones(2, np.float32))
            heavy = Group((1,), TURRET.observation_space, TupleSpace((high, MultiDiscrete((2, 3)))))
            self.players = Players(("a", "b", "c"), (PILOT, heavy), ((0, 1, 2),))

    env = parallel_env(Heavy())
    env.reset(seed=0)
    assert isinstance(env.action_space("b")[0], NativeBox)
    for _ in range(4):
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    assert env.game.received[3][1][0].tolist() == [[[0.5, 0.5]]], "what a dead agent is made to do lies in its space"
