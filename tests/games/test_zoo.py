"""PettingZoo as a Game: parity with PettingZoo's own loops, who is alive, whose turn it is, and environments that contradict themselves."""

import importlib
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo.utils.env import AECEnv, ParallelEnv

from tutelage.games import make as addresses
from tutelage.games import nested, spec, zoo
from tutelage.games.spec import CannotSnapshot, GameError

make: Any = addresses.make  # Any: a test knows which world it made
ZooGame: Any = zoo.ZooGame


class Skirmish(ParallelEnv):
    """Two scouts, of which the second dies in step 2 of 4, and a tank that sees and does something else; nothing hidden, one random number.

    spoil(env, observations, rewards, terminations, truncations) may change the answer to a step.
    """

    def __init__(self, spoil=None, absent=(), masks=False):
        self.metadata, self.possible_agents = {"name": "skirmish"}, ["scout_0", "scout_1", "tank"]
        self.spoil, self.absent, self.masks, self.received = spoil, absent, masks, []

    def observation_space(self, agent):
        return Dict({"at": Box(-9, 9, (2,)), "gear": Discrete(5, start=1)}) if agent == "tank" else Box(-9, 9, (2,))

    def action_space(self, agent):
        return Box(-1, 1, (2,)) if agent == "tank" else Discrete(3, start=self.possible_agents.index(agent))

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.time, self.luck = [a for a in self.possible_agents if a not in self.absent], 0, self.random.random()
        return self.look(), self.tell()

    def step(self, actions):
        assert list(actions) == self.agents and all(self.action_space(agent).contains(action) for agent, action in actions.items())
        self.received.append(actions)
        self.time += 1
        rewards = {agent: 10.0 * self.time + self.possible_agents.index(agent) for agent in self.agents}
        terminations = {agent: agent == "scout_1" and self.time == 2 for agent in self.agents}
        truncations = dict.fromkeys(self.agents, self.time == 4)
        answer = self.look(), rewards, terminations, truncations
        self.agents = [agent for agent in self.agents if not (terminations[agent] or truncations[agent])]
        if self.spoil is not None:
            self.spoil(self, *answer)
        return *answer, self.tell()

    def look(self):
        vector = lambda agent: np.array([self.time + 1, self.luck + self.possible_agents.index(agent)], np.float32)
        return {a: {"at": vector(a), "gear": 1 + self.time} if a == "tank" else vector(a) for a in self.agents}

    def tell(self):
        mask = np.array([1, self.time % 2, 0], np.int8)
        return {agent: {"action_mask": mask} if self.masks and agent != "tank" else {} for agent in self.agents}


def actions_of(game, step=0):
    generator = torch.Generator().manual_seed(step)
    scouts = torch.randint(0, 3, (game.copies, 2), generator=generator)
    return scouts, torch.rand(game.copies, 1, 2, generator=generator)


def skirmish(copies=1, **options):
    game = ZooGame(lambda: Skirmish(**options), copies, "skirmish")
    return game, game.reset(seed=list(range(copies)))


def test_agents_keep_their_order_in_groups_of_equal_spaces():
    game, (scouts, tank) = skirmish(copies=2)
    assert game.players.names == ("scout_0", "scout_1", "tank")
    assert [group.agents for group in game.players.groups] == [(0, 1), (2,)] and game.players.teams == ((0, 1), (2,))
    assert game.action_space.spaces == (spec.MultiDiscrete((3, 3)), spec.stacked(game.players.groups[1].action_space, 1))
    assert scouts.shape == (2, 2, 2) and tank["at"].shape == (2, 1, 2) and tank["gear"].tolist() == [[0], [0]]
    luck = [np.random.default_rng(seed).random() for seed in (0, 1)]  # each copy has the seed it was given
    torch.testing.assert_close(scouts[:, :, 1], torch.tensor([[x, 1 + x] for x in luck], dtype=torch.float32))


def test_the_dead_see_zeros_are_paid_nothing_and_are_masked():
    game, _ = skirmish()
    taken = [game.step(actions_of(game, t)) for t in range(4)]
    assert [step.mask[0].tolist() for step in taken] == [[True] * 3, [True] * 3, [True, False, True], [True, False, True]]
    assert [step.reward[0].tolist() for step in taken] == [[10, 11, 12], [20, 21, 22], [30, 0, 32], [40, 0, 42]]
    assert [step.terminated[0].tolist() for step in taken] == [[False] * 3, *[[False, True, False]] * 3]  # the time limit is none
    assert [step.boundary.item() for step in taken] == [False, False, False, True]
    assert taken[1].observation[0][0, 1, 0] == 3 and not taken[2].observation[0][0, 1].any(), "its last observation, then zeros"
    assert taken[3].observation[1]["gear"].tolist() == [[4]], "the true successor, also at the end"
    received = game._envs[0].received
    assert [list(actions) for actions in received] == [["scout_0", "scout_1", "tank"]] * 2 + [["scout_0", "tank"]] * 2
    assert received[1]["scout_1"] == actions_of(game, 1)[0][0, 1].item() + 1, "it counts its actions from one"


def test_copies_are_reset_where_they_ended_and_then_all_live_again():
    game, _ = skirmish(copies=2)
    before = game.step(actions_of(game)).observation
    scouts, tank = game.reset(where=torch.tensor([False, True]))
    assert torch.equal(scouts[0], before[0][0]) and scouts[1, 0, 0] == 1 and tank["gear"].tolist() == [[1], [0]]
    for _ in range(3):
        step = game.step(actions_of(game))
    assert step.boundary.tolist() == [True, False] and step.mask.tolist() == [[True, False, True]] * 2
    with pytest.raises(GameError, match="copy 0 of skirmish was stepped outside an episode"):
        game.step(actions_of(game))
    game.reset(where=step.boundary)
    assert game.step(actions_of(game)).mask.tolist() == [[True] * 3, [True, False, True]]


def test_who_never_comes_is_masked_and_who_comes_late_is_not_any_more():
    game, (scouts, _) = skirmish(absent=("scout_1",))
    step = game.step(actions_of(game))
    assert not scouts[0, 1].any() and step.mask.tolist() == [[True, False, True]] and step.reward.tolist() == [[10, 0, 12]]

    def arrive(env, observations, *_):
        if env.time == 1:
            env.agents = list(env.possible_agents)
            observations["scout_1"] = np.ones(2, np.float32)

    game, _ = skirmish(absent=("scout_1",), spoil=arrive)
    taken = [game.step(actions_of(game)) for _ in range(2)]
    assert taken[0].observation[0][0, 1].tolist() == [1, 1] and taken[1].mask.all() and taken[1].reward[0, 1] == 21


def test_masks_in_infos_are_the_legal_choices():
    game, _ = skirmish(copies=2, masks=True)
    assert game.legal().tolist() == [[True, False, False] * 2] * 2
    game.step(actions_of(game))
    assert game.legal().tolist() == [[True, True, False] * 2] * 2
    game.step(actions_of(game))
    assert game.legal().tolist() == [[True, False, False, True, True, True]] * 2, "a dead agent may do anything"
    assert skirmish()[0].legal() is None


def forget(what):
    return lambda env, *answer: answer[what].pop("scout_0")


def set_reward(value):
    return lambda env, observations, rewards, *_: rewards.update(scout_0=value)


def revive(env, observations, rewards, terminations, truncations):
    if env.time == 3:
        env.agents, observations["scout_1"] = list(env.possible_agents), np.zeros(2)


def vanish(env, *_):
    env.agents = ["scout_1", "tank"]


def stranger(env, *_):
    env.agents = [*env.agents, "spy"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (forget(0), "copy 0 of skirmish gave no observation to scout_0"),
        (forget(1), "copy 0 of skirmish told no reward of scout_0, which had acted"),
        (forget(2), "copy 0 of skirmish told no termination of scout_0, which had acted"),
        (forget(3), "copy 0 of skirmish told no truncation of scout_0, which had acted"),
        (set_reward(float("nan")), "copy 0 of skirmish paid scout_0 a reward of nan; a finite number is needed"),
        (set_reward(float("inf")), "paid scout_0 a reward of inf"),
        (revive, "scout_1, in copy 0 of skirmish, came back to life; who has left stays away until the next reset"),
        (vanish, "scout_0, in copy 0 of skirmish, left without having been terminated or truncated"),
        (stranger, "copy 0 of skirmish has the agent spy, and its possible_agents are scout_0, scout_1, tank"),
        (
            lambda env, observations, *_: observations.update(scout_0=np.zeros(3)),
            r"scout_0 of skirmish gave an observation of shape \(3,\); its observation space says \(2,\)",
        ),
        (
            lambda env, observations, *_: observations.update(tank={"gear": 1}),
            r"tank of skirmish was given an observation that is not built like its space \('at'\)",
        ),
    ],
)
def test_an_environment_that_breaks_its_own_interface(spoil, sentence):
    game, _ = skirmish(spoil=spoil)
    with pytest.raises(GameError, match=sentence):
        for _ in range(3):
            game.step(actions_of(game))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"possible_agents": []}, "broken has no possible_agents"),
        ({"absent": ["scout_0", "scout_1", "tank"]}, "copy 0 of broken began an episode without agents"),
        ({"observation_space": {}.__getitem__}, "broken has no observation_space or no action_space for scout_0"),
        ({"look": dict}, "copy 0 of broken gave no observation to scout_0"),
        (
            {"tell": lambda: {"scout_0": {"action_mask": np.ones(4)}}},
            "scout_0, in copy 0 of broken, was given a mask of 4 actions and has 3",
        ),
        ({"tell": lambda: {"scout_0": {"action_mask": np.zeros(3)}}}, "scout_0, in copy 0 of broken, is to act and has no legal action"),
    ],
)
def test_environments_that_cannot_begin(changes, sentence):
    def factory():
        env = Skirmish()
        for name, value in changes.items():
            setattr(env, name, value)
        return env

    with pytest.raises(GameError, match=sentence):
        ZooGame(factory, 1, "broken").reset(seed=[0])


def test_a_first_mask_in_mid_game():
    game, _ = skirmish(spoil=lambda env, *_: setattr(env, "masks", True))
    with pytest.raises(GameError, match="scout_0, in copy 0 of skirmish, was given an action mask in mid-game"):
        game.step(actions_of(game))


def test_wrong_actions_seeds_and_teams():
    game, _ = skirmish(copies=2)
    scouts, tank = actions_of(game)
    for actions, sentence in [
        (scouts, "actions of type Tensor; a tuple is needed, of one entry for each of 2 groups"),
        ((scouts,), "actions of 1 groups"),
        ((scouts[:, :1], tank), r"actions of shapes \[\(2, 1\)\] for scout_0, scout_1; all shapes must begin with \(2, 2\)"),
        ((scouts + 1, tank), r"scout_\d of skirmish was given the action .*, which is outside Discrete\(n=3\)"),
        ((scouts, tank[..., :1]), r"tank of skirmish was given actions of shape \(2, 1\); 2 copies need a tensor of shape \(2, 2\)"),
    ]:
        with pytest.raises(GameError, match=sentence):
            game.step(actions)
    with pytest.raises(GameError, match="skirmish was given 1 seeds for 2 copies"):
        game.reset(seed=[1])
    with pytest.raises(GameError, match="copy 0 of skirmish was reset without a seed"):
        ZooGame(Skirmish, 1, "skirmish").reset()
    with pytest.raises(GameError, match="was given a team with spy; its agents are scout_0, scout_1, tank"):
        ZooGame(Skirmish, 1, "skirmish", teams=[["spy"]])
    assert ZooGame(Skirmish, 1, "skirmish", teams=[["tank"], ["scout_1", "scout_0"]]).players.teams == ((2,), (1, 0))
    with pytest.raises(GameError, match="need one team each"):
        ZooGame(Skirmish, 1, "skirmish", teams=[["tank"]])
    with pytest.raises(GameError, match="x makes a int, which is neither a ParallelEnv nor an AECEnv"):
        ZooGame(int, 1, "x")


@pytest.mark.parametrize(
    ("name", "options"),
    [("simple_spread_v3", {}), ("simple_tag_v3", {"continuous_actions": True}), ("simple_speaker_listener_v4", {"max_cycles": 9})],
)
def test_mpe2_plays_as_in_its_own_parallel_environment(name, options):
    game = make(f"zoo:mpe2.{name}", copies=3, **options)
    peers = [importlib.import_module(f"mpe2.{name}").parallel_env(**options) for _ in range(3)]
    ids = peers[0].possible_agents
    observed = game.reset(seed=[5, 6, 7])
    theirs = [peer.reset(seed=5 + b)[0] for b, peer in enumerate(peers)]
    generator = torch.Generator().manual_seed(0)
    for t in range(60):  # more than two episodes: the later ones go on with each copy's generator
        for group, own in zip(game.players.groups, observed, strict=True):
            for place, i in enumerate(group.agents):
                assert np.array_equal(own[:, place].numpy(), np.stack([seen[ids[i]] for seen in theirs])), t
        drawn = torch.rand(3, len(ids), 5, generator=generator)
        vectors = [drawn[:, i, : width(game, i)] for i in range(len(ids))]
        chosen = vectors if options.get("continuous_actions") else [vector.argmax(-1) for vector in vectors]
        step = game.step(tuple(torch.stack([chosen[i] for i in group.agents], 1) for group in game.players.groups))
        answers = [peer.step({agent: chosen[i][b].numpy() for i, agent in enumerate(ids)}) for b, peer in enumerate(peers)]
        paid = np.array([[answer[1][agent] for agent in ids] for answer in answers])
        assert np.array_equal(step.reward.numpy(), paid.astype(np.float32)) and step.mask.all() and not step.terminated.any()
        assert step.boundary.tolist() == [all(answer[3].values()) for answer in answers]
        theirs, observed = [answer[0] for answer in answers], step.observation
        if step.boundary.any():
            observed, theirs = game.reset(where=step.boundary), [peer.reset()[0] for peer in peers]


def width(game, agent):
    space = next(group.action_space for group in game.players.groups if agent in group.agents)
    return space.n if isinstance(space, spec.Discrete) else space.shape[0]


@pytest.mark.parametrize("name", ["tictactoe_v3", "connect_four_v3"])
def test_a_game_of_turns_plays_as_its_own_loop(name):
    game = make(f"zoo:pettingzoo.classic.{name}", copies=1)
    env = importlib.import_module(f"pettingzoo.classic.{name}").env()
    n = game.players.groups[0].action_space.n
    assert game.players.teams == ((0,), (1,)) and len(game.players.groups) == 1
    random = np.random.default_rng(0)
    losses = 0
    for episode in range(12):
        env.reset(seed=episode)
        (seen,) = game.reset(seed=[episode])
        totals, paid = np.zeros(2), np.zeros(2)
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, _ = env.last()
            i = env.possible_agents.index(agent)
            paid[i] += reward
            if terminated or truncated:
                env.step(None)
                continue
            assert np.array_equal(seen[0, i].numpy(), observation["observation"])
            legal = game.legal()[0].view(2, n).numpy()
            assert np.array_equal(legal[i], observation["action_mask"]) and np.flatnonzero(legal[1 - i]).tolist() == [0]
            actions = random.integers(n, size=2)  # what the waiting agent submits makes no difference
            actions[i] = random.choice(np.flatnonzero(legal[i]))
            env.step(int(actions[i]))
            step = game.step((torch.as_tensor(actions)[None],))
            (seen,) = step.observation
            totals += step.reward[0].numpy()
            assert step.mask.all(), "who waits is paid too"
            assert step.boundary.item() == step.terminated.all().item()
            losses += int(step.reward[0, 1 - i].item() == -1)
        assert np.array_equal(totals, paid) and step.boundary.item()
    assert losses > 5, "the loser is paid by the winner's move"


class Rounds(AECEnv):
    """Agents a, b and c act in the given order, over and over; the mover is paid 1 and a is paid its action."""

    def __init__(self, order=("a", "b", "c"), parallelizable=True, dies=None):
        self.metadata = {"is_parallelizable": parallelizable}
        self.possible_agents, self.order, self.dies = ["a", "b", "c"], order, dies

    def observation_space(self, agent):
        return Box(0, 99, (1,))

    def action_space(self, agent):
        return Discrete(4)

    def observe(self, agent):
        return np.array([self.turns], np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.turns = list(self.possible_agents), 0
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0), dict.fromkeys(self.agents, 0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = self.order[0]

    def step(self, action):
        if self.terminations[self.agent_selection]:
            return self._was_dead_step(action)
        mover, self.turns = self.agent_selection, self.turns + 1
        self._clear_rewards()
        self.rewards[mover] += 1
        self.rewards["a"] += action
        self.agent_selection = self.order[self.turns % len(self.order)]
        if self.dies is not None and self.turns == self.dies[1]:
            self.terminations[self.dies[0]] = True
            self._deads_step_first()


def rounds(**options):
    game = ZooGame(lambda: Rounds(**options), 1, "rounds")
    game.reset(seed=[0])
    return game


def test_a_cycle_of_turns_is_one_step_where_the_game_is_parallelizable():
    for order in ("abc", "cab"):  # any order in which each acts once
        game = rounds(order=order)
        step = game.step((torch.tensor([[1, 2, 3]]),))
        assert step.reward.tolist() == [[7, 1, 1]] and step.observation[0].flatten().tolist() == [3, 3, 3] and game.legal() is None


def test_one_step_per_turn_in_any_order():
    game = rounds(order="aacb", parallelizable=False)
    paid = [game.step((torch.tensor([[1, 2, 3]]),)).reward[0].tolist() for _ in range(5)]
    assert paid == [[2, 0, 0], [2, 0, 0], [3, 0, 1], [2, 1, 0], [2, 0, 0]]
    first, anything = [True, False, False, False], [True] * 4
    assert game.legal().view(3, 4).tolist() == [anything, first, first]


def test_a_death_between_turns():
    game = rounds(parallelizable=False, dies=("b", 3))
    taken = [game.step((torch.tensor([[0, 0, 0]]),)) for _ in range(4)]
    assert [step.mask[0].tolist() for step in taken] == [[True] * 3] * 3 + [[True, False, True]]
    assert taken[2].terminated[0].tolist() == [False, True, False] and not taken[3].boundary.item()
    with pytest.raises(GameError, match="rounds gave the turn to b, and its agents are a, c"):
        game.step((torch.tensor([[0, 0, 0]]),))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": "aabc"}, "rounds says that it is_parallelizable and is not cyclic: the turn came to a when only b, c had not acted"),
        ({"order": "ab"}, "rounds says that it is_parallelizable and is not cyclic: the turn came to a when only c had not acted"),
        ({"dies": ("c", 1)}, "rounds gave the turn to c, which had died before it could act"),
    ],
)
def test_an_aec_game_that_is_not_cyclic(options, sentence):
    with pytest.raises(GameError, match=sentence):
        rounds(**options).step((torch.tensor([[0, 0, 0]]),))


@pytest.mark.parametrize("name", sorted(path.partition(".")[2] for path in zoo.known_paths() if path.startswith("mpe2.")))
def test_particles_are_put_back_bit_by_bit(name):
    options = {"simple_spread_v3": {"terminate_on_success": True}, "simple_tag_v3": {"curriculum": True}}.get(name, {})

    def play(game, steps):
        generator, seen = torch.Generator().manual_seed(1), []
        for _ in range(steps):
            groups = game.players.groups
            actions = tuple(torch.randint(0, g.action_space.n, (2, len(g.agents)), generator=generator) for g in groups)
            step = game.step(actions)
            seen += [*nested.leaves(step.observation), step.reward, step.terminated, step.boundary]
            if step.boundary.any():
                seen += nested.leaves(game.reset(where=step.boundary))
        return [x.clone() for x in seen]

    game, other = (make(f"zoo:mpe2.{name}", copies=2, max_cycles=8, **options) for _ in range(2))
    game.reset(seed=[1, 2])
    play(game, 5)
    kept = [game.snapshot(b) for b in range(2)]
    expected = play(game, 20)  # with two resets
    if name == "simple_spread_v3":
        other.reset(seed=[8, 9])  # into a game that has been played, and into fresh ones
        play(other, 3)
    seen = [other.restore(b, kept[b]) for b in range(2)]
    assert [tuple(x.shape) for x in nested.leaves(seen[0])] == [tuple(x.shape)[1:] for x in nested.leaves(game._stack())]
    assert all(torch.equal(a, b) for a, b in zip(play(other, 20), expected, strict=True))
    json.dumps(kept[0], default=lambda tensor: tensor.tolist())  # a tree of plain values and tensors
    other.restore(0, kept[0])
    assert not np.array_equal(game.render(0), other.render(0))
    game.restore(0, kept[0])
    assert np.array_equal(game.render(0), other.render(0))


def test_an_ended_episode_is_put_back_as_ended():
    game = make("zoo:mpe2.simple_spread_v3", copies=1, max_cycles=1)
    game.reset(seed=[3])
    game.step((torch.zeros(1, 3, dtype=torch.int64),))
    kept, first = game.snapshot(0), game.reset()
    other = make("zoo:mpe2.simple_spread_v3", copies=1, max_cycles=1)
    other.restore(0, kept)
    with pytest.raises(GameError, match="outside an episode"):
        other.step((torch.zeros(1, 3, dtype=torch.int64),))
    assert torch.equal(other.reset()[0], first[0])


class Kept(Skirmish):
    def snapshot(self):
        return {"time": self.time, "luck": self.luck, "agents": list(self.agents)}

    def restore(self, snapshot):
        self.time, self.luck, self.agents = snapshot["time"], snapshot["luck"], list(snapshot["agents"])


def test_an_environment_may_offer_its_own_snapshots():
    game, other = (ZooGame(lambda: Kept(masks=True), 1, "kept") for _ in range(2))
    game.reset(seed=[3])
    for _ in range(2):
        game.step(actions_of(game))
    kept, legal, expected = game.snapshot(0), game.legal(), game.step(actions_of(game))
    seen = other.restore(0, kept)
    assert torch.equal(seen[0][1], torch.tensor([3.0, 1 + other._envs[0].luck])) and seen[1]["gear"].tolist() == [2]
    assert torch.equal(other.legal(), legal)
    step = other.step(actions_of(other))
    for ours, theirs in zip(nested.leaves(step.observation), nested.leaves(expected.observation), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(step.mask, expected.mask) and step.mask.tolist() == [[True, False, True]]
    with pytest.raises(CannotSnapshot, match="a snapshot of kept was given to other"):
        ZooGame(Kept, 1, "other").restore(0, kept)


def test_what_cannot_be_put_back_says_why():
    board, particles = (make(f"zoo:{path}", copies=1) for path in ("pettingzoo.classic.tictactoe_v3", "mpe2.simple_v3"))
    board.reset(seed=[0])
    particles.reset(seed=[0])
    sentence = "zoo:pettingzoo.classic.tictactoe_v3 cannot be put back .* has no protocol for it, and what raw_env remembers is unknown"
    with pytest.raises(CannotSnapshot, match=sentence):
        board.snapshot(0)
    particles._worlds[0].unwrapped.scenario.diary = {}
    with pytest.raises(CannotSnapshot, match="zoo:mpe2.simple_v3 cannot be put back into an earlier state: its diary is a dict"):
        particles.snapshot(0)
    with pytest.raises(GameError, match="copy 0 of skirmish has no state yet"):
        ZooGame(Skirmish, 1, "skirmish").snapshot(0)


def test_pictures():
    game = make("zoo:mpe2.simple_spread_v3", copies=2)
    with pytest.raises(GameError, match="copy 1 of .* has nothing to draw yet"):
        game.render(1)
    game.reset(seed=[0, 1])
    picture = game.render(1, 120, 80)
    assert picture.shape == (80, 120, 3) and picture.dtype == np.uint8 and len(np.unique(picture)) > 5
    with pytest.raises(GameError, match="skirmish has no picture: its render_mode is None"):
        skirmish()[0].render(0)
    game.close()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("mpe2.simple_spred_v3", r"there is no game zoo:mpe2.simple_spred_v3; did you mean zoo:mpe2.simple_spread_v3\?$"),
        ("pettingzoo.classic.tictactoe_v2", r"; did you mean zoo:pettingzoo.classic.tictactoe_v3\?$"),
        ("pettingzoo.mpe.simple_spread_v3", r"cannot be imported \(MPE has been moved .*; did you mean zoo:mpe2.simple_spread_v3\?$"),
        ("no_such_module.game", "there is no game zoo:no_such_module.game"),
        ("", "zoo:module.name is expected"),
        ("json", "zoo:json is neither a module with parallel_env or env nor a class of environments"),
        ("mpe2.simple_spread_v3?agents=4", r"cannot be made with the options .*'agents': 4.*unexpected keyword argument 'agents'"),
        ("mpe2.simple_spread_v3?local_ratio=3", "cannot be made with the options .*local_ratio is a proportion"),
        ("mpe2.simple_spread_v3?N", "'N' is no option; name=value"),
    ],
)
def test_addresses_that_lead_nowhere(path, sentence):
    with pytest.raises(GameError, match=sentence):
        make(f"zoo:{path}", copies=1)


def test_addresses(tmp_path, monkeypatch):
    game = make('zoo:mpe2.simple_tag_v3?num_good=2&teams=[["agent_0","agent_1"],["adversary_0","adversary_1","adversary_2"]]', copies=1)
    assert game.players.teams == ((3, 4), (0, 1, 2))
    assert make("zoo:mpe2.simple_spread_v3", copies=1, N=2, max_cycles=3).players.names == ("agent_0", "agent_1")
    (tmp_path / "a_zoo_of_ones_own.py").write_text("from mpe2.simple_v3 import env, raw_env\nclass Env:\n    pass\nMine = raw_env\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        make("zoo:a_zoo_of_ones_own", copies=1).players.names == make("zoo:a_zoo_of_ones_own.Mine", copies=1).players.names == ("agent_0",)
    )
    with pytest.raises(GameError, match="zoo:a_zoo_of_ones_own.Env makes a Env, which is neither"):
        make("zoo:a_zoo_of_ones_own.Env", copies=1)
    known = addresses.known_games()
    assert {"zoo:mpe2.simple_spread_v3", "zoo:pettingzoo.classic.rps_v2"} <= set(known)


def test_without_pettingzoo_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "tutelage.games.zoo")
    monkeypatch.setitem(sys.modules, "pettingzoo.utils.conversions", None)
    with pytest.raises(GameError, match=r"PettingZoo is not installed, and this game needs it; run: pip install 'tutelage\[zoo\]'$"):
        make("zoo:mpe2.simple_spread_v3", copies=1)
