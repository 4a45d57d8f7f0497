"""Gymnasium as a Game: one set of trajectories in every autoreset mode, true successors, types, and clear errors."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from tutelage.games import gymnasium as adapter
from tutelage.games import make as addresses
from tutelage.games import nested, spec
from tutelage.games.gymnasium import convert_space

# Any: a test knows which world it made.
GymnasiumGame: Any = adapter.GymnasiumGame
VectorGame: Any = adapter.VectorGame
make: Any = addresses.make

SHORT = 15  # a time limit that random CartPole play both reaches and falls short of


def cartpole():
    return gymnasium.make("CartPole-v1", max_episode_steps=SHORT)


class Senses(gymnasium.Env):
    """Every kind of space at once; the observation says which step of which episode it belongs to."""

    observation_space = Dict(
        {
            "camera": Box(0, 255, (6, 8, 3), np.uint8),
            "clock": Tuple((Discrete(4, start=-1), Box(-9, 9, (2,), np.float64))),
            "gears": MultiDiscrete([3, 2], start=[1, 0]),
            "lights": MultiBinary(3),
        }
    )
    action_space = Dict({"go": Box(-1, 1, (2,), np.float32), "which": Discrete(3, start=5)})

    def __init__(self):
        self.episode, self.actions = -1, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self.look(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append(action)
        self.time += 1
        return self.look(), float(self.time), self.time == 3, False, {}

    def look(self):
        return {
            "camera": np.full((6, 8, 3), 10 * self.time + self.episode, np.uint8),
            "clock": (self.time - 1, np.array([self.time, self.np_random.random()])),
            "gears": np.array([1 + self.time % 3, self.episode % 2]),
            "lights": np.array([1, 0, self.time % 2], np.int8),
        }


def senses_actions(copies, step):
    g = torch.Generator().manual_seed(step)
    return {"go": torch.rand(copies, 2, generator=g), "which": torch.randint(3, (copies,), generator=g)}


def play(game, streams, rows):
    """Per copy the first `rows` real steps, each taking the next action of the copy's own stream."""
    taken = [[] for _ in range(game.copies)]
    current = game.reset(seed=[10, 11, 12])
    while min(map(len, taken)) < rows:
        actions = torch.tensor([streams[b][len(taken[b])] for b in range(game.copies)])
        step = game.step(actions)
        for b in torch.nonzero(step.mask).flatten().tolist():
            pair = [torch.cat([leaf[b].flatten().float() for leaf in nested.leaves(tree)]) for tree in (current, step.observation)]
            taken[b].append((*pair, step.reward[b], step.terminated[b], step.boundary[b]))
        current = game.reset(where=step.boundary) if step.boundary.any() else step.observation
    return [[torch.stack(column) for column in zip(*copy[:rows], strict=True)] for copy in taken]


def test_all_autoreset_modes_give_the_trajectories_of_the_list():
    streams = np.random.default_rng(0).integers(0, 2, (3, 200)).tolist()
    expected = play(GymnasiumGame(cartpole, 3, "list"), streams, 100)
    terminated, boundary = expected[0][3], expected[0][4]
    assert terminated.any() and (boundary & ~terminated).any(), "both kinds of end must occur, or this shows nothing"
    for mode in ("NextStep", "SameStep", "Disabled"):
        game = VectorGame(gymnasium.vector.SyncVectorEnv([cartpole] * 3, autoreset_mode=mode))
        for ours, theirs in zip(play(game, streams, 100), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), mode


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_workers_give_the_trajectories_of_the_list(mode):
    streams = np.random.default_rng(1).integers(0, 2, (3, 60)).tolist()
    game = VectorGame(gymnasium.vector.AsyncVectorEnv([cartpole] * 3, autoreset_mode=mode))
    for ours, theirs in zip(play(game, streams, 40), play(GymnasiumGame(cartpole, 3, "list"), streams, 40), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    game.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_nested_observations_and_actions_in_vector_environments(mode):
    listed, vector = (GymnasiumGame(Senses, 2, "list"), VectorGame(gymnasium.vector.SyncVectorEnv([Senses] * 2, autoreset_mode=mode)))
    same = lambda a, b: all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(nested.leaves(a), nested.leaves(b), strict=True))
    assert same(listed.reset(seed=[1, 2]), vector.reset(seed=[1, 2]))
    for t in range(8):
        actions = senses_actions(2, t)
        step = vector.step(actions)
        if not step.mask.any():
            step = vector.step(actions)
        expected = listed.step(actions)
        assert same(step.observation, expected.observation) and torch.equal(step.boundary, expected.boundary)
        assert torch.equal(step.reward, expected.reward)
        if step.boundary.any():
            ours, theirs = vector.reset(where=step.boundary), listed.reset(where=step.boundary)
            assert mode == "NextStep" or same(ours, theirs)


def test_the_reset_step_of_next_step_is_masked_and_plays_nothing():
    game = VectorGame(gymnasium.vector.SyncVectorEnv([Senses] * 2, autoreset_mode="NextStep"))
    game.reset(seed=[1, 2])
    for t in range(3):
        step = game.step(senses_actions(2, t))
    game.reset(where=step.boundary)
    step = game.step(senses_actions(2, 3))
    assert not step.mask.any() and not step.boundary.any() and step.reward.tolist() == [0.0, 0.0]
    assert step.observation["camera"][0, 0, 0, 0] == 1  # time 0 of episode 1


def test_a_restart_in_mid_episode():
    for mode in ("NextStep", "SameStep", "Disabled"):
        game = VectorGame(gymnasium.vector.SyncVectorEnv([Senses] * 2, autoreset_mode=mode))
        game.reset(seed=[1, 2])
        game.step(senses_actions(2, 0))
        observation = game.reset(where=torch.tensor([False, True]))
        assert observation["camera"][:, 0, 0, 0].tolist() == [10, 1], mode
        assert game.step(senses_actions(2, 1)).observation["camera"][:, 0, 0, 0].tolist() == [20, 11], mode


def test_a_native_vector_environment_is_seeded_from_all_seeds():
    native = lambda: VectorGame(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"), "native")
    game = native()
    first = game.reset(seed=[1, 2, 3])
    assert torch.equal(first, native().reset(seed=[1, 2, 3])) and not torch.equal(first, native().reset(seed=[1, 2, 4]))
    with pytest.raises(spec.GameError, match="copy 1 of native is in mid-episode"):
        game.reset(where=torch.tensor([False, True, False]))


def test_an_unknown_autoreset_mode_is_refused():
    vector = gymnasium.vector.SyncVectorEnv([cartpole])
    vector.metadata = {**vector.metadata, "autoreset_mode": "Sometimes"}
    with pytest.raises(spec.GameError, match="mine has the autoreset mode 'Sometimes'; known are NextStep, SameStep, Disabled"):
        VectorGame(vector, "mine")
    vector.metadata = {}
    with pytest.raises(spec.GameError, match="autoreset mode None"):
        VectorGame(vector)


def test_a_time_limit_is_a_boundary_and_shows_the_true_successor():
    game = make("gym:Pendulum-v1", copies=2, max_episode_steps=4)
    env = gymnasium.make("Pendulum-v1", max_episode_steps=10)
    game.reset(seed=[3, 4])
    env.reset(seed=3)
    for t in range(4):
        actions = torch.full((2, 1), 0.5 - t)
        step = game.step(actions)
        expected, reward, *_ = env.step(actions[0].numpy())
        assert torch.equal(step.observation[0], torch.tensor(expected))
        assert step.reward[0].item() == pytest.approx(float(reward), rel=1e-6)
        assert step.boundary.tolist() == [t == 3] * 2 and not step.terminated.any() and step.mask.all()
    fresh = game.reset(where=torch.tensor([True, False]))
    assert not torch.equal(fresh[0], step.observation[0]) and torch.equal(fresh[1], step.observation[1])


def test_a_termination_at_the_time_limit_stays_a_termination():
    limited = lambda: gymnasium.wrappers.TimeLimit(Senses(), 3)
    game = GymnasiumGame(limited, 1, "limited")
    game.reset(seed=[0])
    for t in range(3):
        step = game.step(senses_actions(1, t))
    assert step.terminated.all() and step.boundary.all()


def test_one_seed_per_copy_and_each_copy_goes_on_with_its_own_generator():
    apart, together = make("gym:CartPole-v1", copies=1), make("gym:CartPole-v1", copies=2)
    first, both = apart.reset(seed=[8]), together.reset(seed=[7, 8])
    assert torch.equal(first[0], both[1]) and not torch.equal(both[0], both[1])
    again = apart.reset()
    assert not torch.equal(first, again)
    assert torch.equal(again[0], together.reset(where=torch.tensor([False, True]))[1])
    with pytest.raises(spec.GameError, match="1 seeds for 2 copies"):
        together.reset(seed=[1])
    with pytest.raises(spec.GameError, match="first reset needs one per copy"):
        make("gym:CartPole-v1", copies=1).reset()


def test_types_shapes_and_counting_from_zero():
    game = GymnasiumGame(Senses, 2, "senses")
    observation = game.reset(seed=[1, 2])
    assert list(observation) == ["camera", "clock", "gears", "lights"]
    assert observation["camera"].shape == (2, 6, 8, 3) and observation["camera"].dtype == torch.uint8
    assert observation["clock"][0].tolist() == [0, 0] and observation["clock"][0].dtype == torch.int64
    assert observation["clock"][1].shape == (2, 2) and observation["clock"][1].dtype == torch.float32
    assert observation["gears"].tolist() == [[0, 0], [0, 0]] and observation["lights"].tolist() == [[1, 0, 0]] * 2
    assert game.observation_space.spaces[1][1].spaces[0] == spec.Discrete(4)
    step = game.step({"go": torch.zeros(2, 2), "which": torch.tensor([0, 2])})
    assert step.observation["clock"][0].tolist() == [1, 1] and step.observation["gears"].tolist() == [[1, 0]] * 2
    assert step.reward.dtype == torch.float32
    env = game._envs[1].unwrapped
    assert env.actions[0]["which"] == 7  # the third choice, counted from 5


def test_steps_own_their_memory():
    game = make("gym:Pendulum-v1", copies=3)
    game.reset(seed=[1, 2, 3])
    first = game.step(torch.ones(3, 1))
    kept = [first.observation.clone(), first.reward.clone(), first.mask.clone()]
    game.step(-torch.ones(3, 1))
    assert all(torch.equal(a, b) for a, b in zip(kept, (first.observation, first.reward, first.mask), strict=True))
    second = game.step(torch.ones(3, 1))
    expected = second.observation.clone()
    second.observation.zero_()
    nobody = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(game.reset(where=nobody), expected)


def test_an_environment_may_keep_its_action_while_the_caller_reuses_the_memory():
    game = GymnasiumGame(Senses, 1, "senses")
    game.reset(seed=[0])
    actions = {"go": torch.full((1, 2), 0.5), "which": torch.tensor([0])}
    game.step(actions)
    actions["go"].zero_()
    assert game._envs[0].unwrapped.actions[0]["go"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("address", "action", "message"),
    [
        ("gym:Pendulum-v1", torch.zeros(2), r"gym:Pendulum-v1 was given actions of shape \(2,\); 2 copies need a tensor of shape \(2, 1\)"),
        ("gym:Pendulum-v1", torch.zeros(3, 1), r"shape \(3, 1\); 2 copies need a tensor of shape \(2, 1\)"),
        ("gym:Pendulum-v1", (torch.zeros(2, 1),), "actions of type tuple; 2 copies need a tensor"),
        ("gym:CartPole-v1", torch.zeros(2), r"actions of type float32; Discrete\(n=2\) needs integers"),
        ("gym:CartPole-v1", torch.tensor([0, 2]), r"the action \[0, 2\], which is outside Discrete\(n=2\)"),
        ("gym:CartPole-v1", torch.tensor([-1, 0]), "outside"),
    ],
)
@pytest.mark.parametrize("kind", ["list", "vector"])
def test_wrong_actions(kind, address, action, message):
    game = make(address, copies=2)
    if kind == "vector":
        game = VectorGame(gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(address[4:])] * 2), address)
    game.reset(seed=[1, 2])
    with pytest.raises(spec.GameError, match=message):
        game.step(action)


def test_a_nested_action_of_another_structure():
    game = GymnasiumGame(Senses, 1, "senses")
    game.reset(seed=[0])
    for action in ({"go": torch.zeros(1, 2)}, torch.zeros(1, 2), (torch.zeros(1, 2), torch.zeros(1))):
        with pytest.raises(spec.GameError, match="senses was given an action that is not built like DictSpace"):
            game.step(action)


def test_stepping_outside_an_episode():
    game, vector = GymnasiumGame(Senses, 2, "senses"), VectorGame(gymnasium.vector.SyncVectorEnv([Senses] * 2), "vector")
    for each in (game, vector):
        with pytest.raises(spec.GameError, match="copy 0 of .* was stepped outside an episode"):
            each.step(senses_actions(2, 0))
        each.reset(seed=[1, 2])
        for t in range(3):
            each.step(senses_actions(2, t))
        with pytest.raises(spec.GameError, match="copy 0 of .* was stepped outside an episode"):
            each.step(senses_actions(2, 3))


def test_an_observation_that_contradicts_its_space():
    class Liar(Senses):
        observation_space = Box(-1, 1, (3,), np.float32)

        def look(self):
            return np.zeros(1, np.float32)  # numpy would repeat it three times

    with pytest.raises(spec.GameError, match=r"liar gave an observation of shape \(1,\); its observation space says \(3,\)"):
        GymnasiumGame(Liar, 1, "liar").reset(seed=[0])


def test_a_space_without_tensors():
    with pytest.raises(spec.GameError, match="poet has the space Text.* which is none of Box"):
        convert_space(Text(5), "poet")
    with pytest.raises(spec.GameError, match="asked for in 0 copies"):
        GymnasiumGame(Senses, 0, "senses")


@pytest.mark.parametrize("address", ["gym:Pendulum-v1", "gym:CartPole-v1", "gym:HalfCheetah-v5", "gym:InvertedDoublePendulum-v5"])
def test_pictures_change_and_are_not_black(address):
    game = make(address, copies=2)
    with pytest.raises(spec.GameError, match="copy 1 of .* has nothing to draw yet"):
        game.render(1)
    game.reset(seed=[1, 2])
    before = game.render(1, width=96, height=64)
    assert before.shape == (64, 96, 3) and before.dtype == np.uint8
    assert before.max() > 60 and before.std() > 2
    still = game.render(1, width=96, height=64)
    for _ in range(5):
        action = torch.ones(2, dtype=torch.int64) if address == "gym:CartPole-v1" else torch.ones(2, *game.action_space.shape)
        game.reset(where=game.step(action).boundary)
    after = game.render(1, width=96, height=64)
    assert np.array_equal(before, still) and (before != after).mean() > 0.002
    assert game.render(0).shape == (256, 256, 3)
    game.close()


def test_drawing_changes_no_trajectory():
    drawn, plain = make("gym:HalfCheetah-v5", copies=1), make("gym:HalfCheetah-v5", copies=1, render_mode=None)
    drawn.reset(seed=[1])
    plain.reset(seed=[1])
    for t in range(5):
        action = torch.full((1, 6), 0.3 * t - 0.5)
        drawn.render(0, 32, 32)
        assert torch.equal(drawn.step(action).observation, plain.step(action).observation)
    drawn.close()


def test_no_picture_says_why():
    game = make("gym:Pendulum-v1", copies=1, render_mode=None)
    game.reset(seed=[1])
    with pytest.raises(spec.GameError, match="gym:Pendulum-v1 has no picture: its render_mode is None"):
        game.render(0)
    vector = VectorGame(gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync", vector_kwargs={}), "plain")
    vector.reset(seed=[1, 2])
    with pytest.raises(spec.GameError, match="plain has no picture"):
        vector.render(0)
    drawn = VectorGame(gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync", render_mode="rgb_array"))
    drawn.reset(seed=[1, 2])
    assert not np.array_equal(drawn.render(0, 64, 64), drawn.render(1, 64, 64))


# --- which actions may be taken ----------------------------------------------------------------------------------------------


class Doors(gymnasium.Env):
    """A corridor of 4 cells in which one can only leave a cell through the doors that `info` names; it can put itself back."""

    observation_space, action_space = Discrete(4), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(4))
        return self.cell, self.look()

    def step(self, action):
        assert self.look()["action_mask"][action], "only a legal action may arrive here"
        self.cell += 1 if action else -1
        return self.cell, 0.0, False, False, self.look()

    def look(self):
        return {"action_mask": np.array([self.cell > 0, self.cell < 3], np.int8)}

    def snapshot(self):
        return {"cell": self.cell}

    def restore(self, snapshot):
        self.cell = snapshot["cell"]


def test_legal_actions_come_from_the_info():
    game = GymnasiumGame(Doors, 3, "doors")
    cells = game.reset(seed=[0, 1, 2])
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        legal = game.legal()
        assert legal.dtype == torch.bool
        assert torch.equal(legal, torch.stack([cells > 0, cells < 3], 1))
        cells = game.step(torch.multinomial(legal.float(), 1, generator=g)[:, 0]).observation
    snapshot, before = game.snapshot(1), game.legal()[1]
    assert torch.equal(before, torch.stack([cells[1] > 0, cells[1] < 3]))
    other = GymnasiumGame(Doors, 3, "doors")
    other.restore(1, snapshot)
    assert torch.equal(other.legal()[1], before)


def test_taxi_tells_its_legal_actions():
    game = make("gym:Taxi-v4", copies=2)
    game.reset(seed=[0, 1])
    for t in range(20):
        states = [env.unwrapped.s for env in game._envs]
        expected = [env.unwrapped.action_mask(state) for env, state in zip(game._envs, states, strict=True)]
        legal = game.legal()
        assert legal.tolist() == np.array(expected, bool).tolist()
        assert legal.shape == (2, nested.legal_width(game.action_space)) and not legal.all()
        game.step(torch.tensor([row.nonzero()[t % int(row.sum())].item() for row in legal]))


def test_a_game_without_a_mask_allows_everything():
    game = make("gym:CartPole-v1", copies=1)
    game.reset(seed=[0])
    assert game.legal() is None


def test_a_mask_that_is_missing_later_is_an_error():
    class Forgetful(Doors):
        def step(self, action):
            return *super().step(action)[:4], {}

    game = GymnasiumGame(Forgetful, 1, "forgetful")
    game.reset(seed=[0])
    with pytest.raises(spec.GameError, match="forgetful began with a mask of 2 actions in its info and now gave none"):
        game.step(game.legal().long().argmax(1))


def test_success_is_what_the_environments_say():
    class Third(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.t += 1
            return np.zeros(1, np.float32), 0.0, False, False, {"success": float(self.t == 3 and action == 1)}

    game = GymnasiumGame(Third, 2, "third")
    game.reset(seed=[0, 1])
    assert game.success() is None
    said = [game.step(torch.tensor([1, 0])) and game.success().tolist() for _ in range(3)]
    assert said == [[False, False], [False, False], [True, False]]
    game.reset(where=torch.tensor([True, False]))
    assert game.success().tolist() == [False, False]
    plain = make("gym:CartPole-v1", copies=1)
    plain.reset(seed=[0])
    plain.step(torch.tensor([0]))
    assert plain.success() is None
