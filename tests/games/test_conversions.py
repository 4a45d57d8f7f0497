"""POSG to AECG, AECG to POSG, and games in turns: by exact enumeration of joint laws, and step by step."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.games.aecg import AECG, AECProgram, Turn, random_aecg
from tutelage.games.conversions import GameInTurns, GameOfCycles, aecg_from_posg, posg_from_aecg
from tutelage.games.make import make
from tutelage.games.matrix import make_payoffs, matrix_posg
from tutelage.games.nested import leaves
from tutelage.games.posg import POSG, POSGGame, random_distribution, random_posg
from tutelage.games.spec import Box, Discrete, Game, GameError, Group, MultiDiscrete, Players, Step
from tutelage.games.streams import mix

DOUBLE = torch.float64


class Histories:
    """All histories that can happen, each with its probability; what is written down of one is hashed into its key."""

    def __init__(self, first: torch.Tensor, agents: int) -> None:
        self.probability, self.state = torch.ones(1, dtype=DOUBLE), torch.zeros(1, dtype=torch.int64)
        self.key, self.returns, self.turn = self.state.clone(), torch.zeros(1, agents, dtype=DOUBLE), self.state.clone()
        self.state = self.draw(first[None])

    def draw(self, law: torch.Tensor, *others: list[torch.Tensor]) -> torch.Tensor:
        """What may be drawn, one history each; lists of numbers drawn before follow."""
        row, x = (law > 0).nonzero(as_tuple=True)
        self.probability = self.probability[row] * law[row, x]
        self.state, self.key, self.returns, self.turn = self.state[row], self.key[row], self.returns[row], self.turn[row]
        for drawn in others:
            drawn[:] = [numbers[row] for numbers in drawn]
        return x

    def write(self, *numbers: torch.Tensor) -> None:
        for x in numbers:
            self.key = mix(self.key * 1_000_003 + (x.double() * 2**30).round().long())

    def pay(self, reward: torch.Tensor, weight: float) -> None:
        self.returns = self.returns + weight * reward

    def merge(self) -> None:
        """Histories that differ in nothing that matters from here on are one."""
        same = torch.stack([self.state, self.key, self.turn], 1)
        unique, which = torch.unique(same, dim=0, return_inverse=True)
        total = torch.zeros(len(unique), dtype=DOUBLE).index_add_(0, which, self.probability)
        mean = torch.zeros(len(unique), self.returns.shape[1], dtype=DOUBLE)
        self.returns = mean.index_add_(0, which, self.probability[:, None] * self.returns) / total[:, None]
        self.probability, (self.state, self.key, self.turn) = total, unique.unbind(1)

    def law(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys, sorted, and their probabilities."""
        keys, which = torch.unique(self.key, return_inverse=True)
        return keys, torch.zeros(len(keys), dtype=DOUBLE).index_add_(0, which, self.probability)

    def mean_returns(self) -> torch.Tensor:
        return self.probability @ self.returns


def play_posg(game: POSG, policies: list[torch.Tensor], steps: int) -> Histories:
    """Observation and action of each agent in turn, then all rewards, over `steps` steps."""
    N = game.agents
    all_of_them = Histories(game.start, N)
    before: list[torch.Tensor] = []
    for t in range(steps):
        actions: list[torch.Tensor] = []
        for i in range(N):
            tables = game.first_likelihood[i][all_of_them.state] if t == 0 else game.likelihood[i][all_of_them.state, before[i]]
            seen = [all_of_them.draw(tables, actions, before)]
            actions.append(all_of_them.draw(policies[i][seen[0]], seen, actions, before))
            all_of_them.write(seen[0], actions[i])
        old = [all_of_them.state]
        all_of_them.state = all_of_them.draw(game.transition[(all_of_them.state, *actions)], actions, old)
        reward = game.reward[(slice(None), old[0], *actions, all_of_them.state)].T
        all_of_them.write(*reward.unbind(1))
        all_of_them.pay(reward, game.discount**t)
        before = actions
    return all_of_them


def play_aecg(game: AECG, policies: list[torch.Tensor], steps: int, cycles: bool) -> Histories:
    """Observation and action of who is on turn. cycles: rewards where the environment moves, else everywhere with the next turn."""
    everyone = Histories(torch.eye(game.states, dtype=DOUBLE)[game.first_state], game.agents)
    everyone.turn += game.first_agent
    for t in range(steps):
        parts = [play_turn(game, policies, everyone, j, t, cycles) for j in everyone.turn.unique().tolist()]
        for name in ("probability", "state", "key", "returns", "turn"):
            setattr(everyone, name, torch.cat([getattr(part, name) for part in parts]))
        everyone.merge()
    return everyone


def play_turn(game: AECG, policies: list[torch.Tensor], everyone: Histories, j: int, t: int, cycles: bool) -> Histories:
    part = Histories(torch.ones(1, dtype=DOUBLE), game.agents)
    here = everyone.turn == j
    for name in ("probability", "state", "key", "returns", "turn"):
        setattr(part, name, getattr(everyone, name)[here])
    state = [part.state]
    if j == 0:
        x = [part.draw(game.transition[part.state], state)]
        action = [torch.zeros_like(x[0])]
        after = [x[0]]
    else:
        seen = [part.draw(game.likelihood[j - 1][part.state], state)]
        action = [part.draw(policies[j - 1][seen[0]], seen, state)]
        part.write(seen[0], action[0])
        x, after = [action[0]], [game.moves[j - 1][state[0], action[0]]]
    law = game.reward[j]
    rewards: list[torch.Tensor] = []
    for i in range(game.agents):
        k = part.draw(law.probability[i, state[0], x[0]], state, action, x, after, rewards)
        rewards.append(law.value[i, state[0], x[0], k])
    turn = part.draw(game.next_agent[j][state[0], action[0]], after, rewards)
    part.state, part.turn = after[0], turn
    write_rewards(part, torch.stack(rewards, 1), j, t, turn, cycles)
    part.pay(torch.stack(rewards, 1), game.discount**t)
    return part


def play_in_turns(game: POSG, labels: list, policies: list[torch.Tensor], steps: int, cycles: bool, waiting: int) -> Histories:
    """As `play_aecg`, of a POSG made from an AECG. waiting: what those not on turn do, from the end of their actions."""
    everyone = Histories(game.start, game.agents)
    on_turn = torch.tensor([j for _, j, _ in labels])
    before: list[torch.Tensor] = []
    for t in range(steps):
        # Who acts may differ between histories: all draw, and only the numbers of the one on turn are written down.
        own = on_turn[everyone.state]
        action = torch.zeros_like(own)
        parts = []
        for j in own.unique().tolist():
            part = Histories(torch.ones(1, dtype=DOUBLE), game.agents)
            here = own == j
            for name in ("probability", "state", "key", "returns", "turn"):
                setattr(part, name, getattr(everyone, name)[here])
            last = [numbers[here] for numbers in before]
            actions = [torch.full_like(part.state, (a - 1 - waiting) % a) for a in game.actions]
            if j > 0:
                i = j - 1
                table = game.first_likelihood[i][part.state] if t == 0 else game.likelihood[i][part.state, last[i]]
                seen = [part.draw(table, actions)]
                action = part.draw(policies[i][seen[0]], seen, actions)
                part.write(seen[0], action)
                actions[i] = action
            old = [part.state]
            part.state = part.draw(game.transition[(part.state, *actions)], actions, old)
            reward = game.reward[(slice(None), old[0], *actions, part.state)].T
            write_rewards(part, reward, j, t, on_turn[part.state], cycles)
            part.pay(reward, game.discount**t)
            parts.append((part, actions))
        for name in ("probability", "state", "key", "returns", "turn"):
            setattr(everyone, name, torch.cat([getattr(part, name) for part, _ in parts]))
        before = [torch.cat([actions[i] for _, actions in parts]) for i in range(game.agents)]
    return everyone


def write_rewards(part: Histories, reward: torch.Tensor, j: int, t: int, turn: torch.Tensor, cycles: bool) -> None:
    if not cycles:
        part.write(*reward.unbind(1), turn)
    elif j == 0 and t > 0:
        part.write(*reward.unbind(1))
    else:
        assert not reward.any()  # everything is paid where the environment moves


def same_law(one: Histories, other: Histories) -> bool:
    (keys, probability), (other_keys, other_probability) = one.law(), other.law()
    assert float(probability.sum()) == pytest.approx(1.0)
    return torch.equal(keys, other_keys) and torch.allclose(probability, other_probability, rtol=1e-9, atol=1e-12)


def random_policies(game: POSG, seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1000 + seed)
    return [random_distribution((o, a), g) for o, a in zip(game.observations, game.actions, strict=True)]


def round_trip(posg: POSG, policies: list[torch.Tensor], steps: int, only_on_turn: bool = False) -> None:
    """Laws and returns of the three games."""
    N = posg.agents
    aecg, _ = aecg_from_posg(posg)
    back, labels = posg_from_aecg(aecg, only_on_turn)
    original = play_posg(posg, policies, steps)
    turns = play_aecg(aecg, policies, 1 + steps * (N + 1), cycles=True)
    assert same_law(original, turns)
    wider = [torch.cat([table, table[:1]]) for table in policies] if only_on_turn else policies  # for the new symbol
    for waiting in (0, 1):
        again = play_in_turns(back, labels, wider, 1 + steps * (N + 1), True, waiting)
        assert same_law(original, again)
        torch.testing.assert_close(again.mean_returns(), turns.mean_returns())
    # gamma' = gamma^(1/(N+1)): from the first turn of agent 1 returns are gamma'^N times the POSG's; s_0 is one step earlier.
    step_discount = posg.discount ** (1 / (N + 1))
    assert aecg.discount == back.discount == pytest.approx(step_discount)
    torch.testing.assert_close(turns.mean_returns() / step_discount, step_discount**N * original.mean_returns())
    torch.testing.assert_close(turns.mean_returns(), posg.discount * original.mean_returns())


@pytest.mark.parametrize("seed", range(4))
def test_two_agents_there_and_back(seed: int):
    g = torch.Generator().manual_seed(seed)
    posg = random_posg(4, (2, 2), (2, 2), g, branching=2, discount=0.8)
    round_trip(posg, random_policies(posg, seed), steps=3, only_on_turn=seed % 2 == 1)


def test_every_state_may_follow_every_other():
    posg = random_posg(4, (2, 2), (2, 1), torch.Generator().manual_seed(9), discount=0.7)
    round_trip(posg, random_policies(posg, 9), steps=2)


def test_three_agents_there_and_back():
    posg = random_posg(2, (2, 2, 2), (2, 1, 2), torch.Generator().manual_seed(5), discount=0.9)
    round_trip(posg, random_policies(posg, 5), steps=2)


@pytest.mark.parametrize(
    "address", ["matrix:stag_hunt", "matrix:prisoners_dilemma", "matrix:rock_paper_scissors", "matrix:random?agents=3&actions=2"]
)
def test_matrix_games_there_and_back(address: str):
    posg = matrix_posg(make_payoffs(address), discount=0.9)
    round_trip(posg, random_policies(posg, 0), steps=3 if posg.agents == 2 else 2)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=3),
    st.floats(0.05, 1.0),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
)
def test_any_small_game_there_and_back(seed, states, sizes, discount, ending, only_on_turn):
    three = len(sizes) == 3
    actions, observations = zip(*((min(a, 2), o) if three else (a, o) for a, o in sizes), strict=True)
    posg = random_posg(states, actions, observations, torch.Generator().manual_seed(seed), ending=ending, discount=discount)
    round_trip(posg, random_policies(posg, seed), 1 if three else 2, only_on_turn)


def compare_step_by_step(aecg: AECG, seed: int, steps: int, only_on_turn: bool) -> None:
    posg, labels = posg_from_aecg(aecg, only_on_turn)
    assert posg.discount == aecg.discount and posg.actions == aecg.actions
    policies = random_policies(posg, seed)
    expected = play_aecg(aecg, policies, steps, cycles=False)
    for waiting in (0, 1):
        found = play_in_turns(posg, labels, policies, steps, False, waiting)
        assert same_law(expected, found)
        torch.testing.assert_close(found.mean_returns(), expected.mean_returns())


@pytest.mark.parametrize("seed", range(4))
def test_an_aecg_step_by_step(seed: int):
    aecg = random_aecg(3, (2, 2), (2, 2), torch.Generator().manual_seed(seed), discount=0.8)
    compare_step_by_step(aecg, seed, 3, only_on_turn=False)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=2),
    st.integers(1, 2),
    st.floats(0, 1, allow_subnormal=False),
    st.booleans(),
)
def test_any_small_aecg_step_by_step(seed, states, sizes, outcomes, discount, only_on_turn):
    actions, observations = zip(*sizes, strict=True)
    aecg = random_aecg(states, actions, observations, torch.Generator().manual_seed(seed), outcomes, discount)
    compare_step_by_step(aecg, seed, 2, only_on_turn)


def test_the_laws_are_told_apart():
    """What the comparisons are worth: small changes of a game change its law."""
    posg = random_posg(3, (2, 2), (2, 2), torch.Generator().manual_seed(0))
    policies = random_policies(posg, 0)
    law = play_posg(posg, policies, 2)
    swapped = replace(posg, likelihood=posg.likelihood[::-1])
    assert same_law(law, play_posg(posg, policies, 2)) and not same_law(law, play_posg(swapped, policies, 2))
    assert not same_law(law, play_posg(replace(posg, reward=posg.reward + 1e-6), policies, 2))


def test_the_queue_is_hidden_and_the_rest_as_drawn():
    posg = random_posg(2, (2, 3), (2, 2), torch.Generator().manual_seed(0))
    aecg, labels = aecg_from_posg(posg)
    assert aecg.states == 1 + 2 * (1 + 6) * (1 + 2 + 6) == len(labels) and labels[0] == (None, (), None)
    by_state: dict = {}
    for index, (s, queue, last) in enumerate(labels):
        seen = tuple(tuple(table[index].tolist()) for table in aecg.likelihood)
        assert by_state.setdefault((s, last), seen) == seen
        if len(queue) == 0 and s is not None:  # agent 1 queues, whatever the queue of the last cycle was
            assert [labels[following] for following in aecg.moves[0][index].tolist()] == [(s, (a,), last) for a in range(2)]
    turn, order = aecg.first_agent, []
    for _ in range(7):
        order.append(turn)
        turn = int(aecg.next_agent[turn][0, 0].argmax())
    assert order == [0, 1, 2, 0, 1, 2, 0] and aecg.first_state == 0


def test_no_equivalent():
    posg = random_posg(2, (2, 2), (1, 1), torch.Generator().manual_seed(0), discount=0.0)
    with pytest.raises(GameError, match="discount 0; an AECG pays N steps after an action"):
        aecg_from_posg(posg)
    with pytest.raises(GameError, match="a random POSG of 9 states in cycles has 41725 states, more than 4000"):
        aecg_from_posg(random_posg(9, (3, 4, 5), (1, 1, 1), torch.Generator().manual_seed(0)))
    with pytest.raises(GameError, match="as a POSG has more than 5 states"):
        posg_from_aecg(random_aecg(4, (2, 2), (1, 1), torch.Generator().manual_seed(0)), max_states=5)


# --- programs --------------------------------------------------------------------------------------------------------------


def random_actions(game: Game, generator: torch.Generator):
    assert game.players is not None
    joint = []
    for group in game.players.groups:
        shape, space = (game.copies, len(group.agents)), group.action_space
        if isinstance(space, Discrete):
            joint.append(torch.randint(space.n, shape, generator=generator))
        elif isinstance(space, MultiDiscrete):
            joint.append(torch.cat([torch.randint(n, (game.copies, 1), generator=generator) for n in space.sizes * shape[1]], 1))
        else:
            assert isinstance(space, Box)
            joint.append(torch.rand(*shape, *space.shape, generator=generator) * 2 - 1)
    return tuple(joint)


def play_both(plain: Game, cycled: Game, steps: int, seed: int) -> int:
    """Steps both, asserts that they answer with the same bits, and counts boundaries."""
    g = torch.Generator().manual_seed(seed)
    seeds = [seed + b for b in range(plain.copies)]
    boundaries = 0
    pairs = [(plain.reset(seeds), cycled.reset(seeds))]
    for _ in range(steps):
        actions = random_actions(plain, g)
        expected, found = plain.step(actions), cycled.step(actions)
        pairs.append((expected.observation, found.observation))
        for name in ("reward", "terminated", "boundary", "mask"):
            assert torch.equal(getattr(expected, name), getattr(found, name))
        if bool(expected.boundary.any()):
            boundaries += int(expected.boundary.sum())
            pairs.append((plain.reset(where=expected.boundary), cycled.reset(where=expected.boundary)))
    for one, other in pairs:
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(leaves(one), leaves(other), strict=True))
    return boundaries


WORLDS = ["stag_hunt", "prisoners_dilemma?rounds=3", "rock_paper_scissors", "matching_pennies?rounds=2", "random?agents=3&rounds=2"]


@pytest.mark.parametrize(
    "address",
    [
        *(f"matrix:{name}" for name in WORLDS),
        *(f"particle:{name}" for name in ("simple_spread", "simple_adversary?actions=continuous", "simple_tag")),
    ],
)
def test_games_in_turns_and_back(address: str):
    plain, cycled = make(address, 3), GameOfCycles(GameInTurns(make(address, 3)))
    assert cycled.players == plain.players and cycled.observation_space == plain.observation_space
    assert play_both(plain, cycled, 30, seed=4) > 0


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=3), st.integers(1, 3))
def test_random_games_in_turns_and_back(seed, sizes, copies):
    actions, observations = zip(*sizes, strict=True)
    posg = random_posg(3, actions, observations, torch.Generator().manual_seed(seed), ending=0.1)
    play_both(POSGGame(posg, copies, max_steps=5), GameOfCycles(GameInTurns(POSGGame(posg, copies, max_steps=5))), 8, seed)


def test_what_an_agent_is_paid_between_its_turns():
    turns: Any = GameInTurns(make("matrix:stag_hunt?rounds=3", 2))
    turns.reset()
    both = torch.tensor([0, 1])  # stag in the first copy, rabbit in the second
    assert turns.turn() == 0 and turns.observe(1).tolist() == [0, 0]
    quiet = turns.act(both)
    assert not quiet.reward.any() and not quiet.boundary.any() and quiet.mask.all()
    assert turns.turn() == 1 and turns.observe(1).tolist() == [0, 0]  # nothing of what the first chose
    paid = turns.act(torch.tensor([1, 1]))
    assert paid.reward.tolist() == [[0, 1], [1, 1]]
    assert turns.turn() == 0 and turns.observe(0).tolist() == [2, 4]
    assert turns.since(0).tolist() == [0, 1] and turns.since(1).tolist() == [1, 1]
    turns.act(both)
    assert turns.since(0).tolist() == [0, 0] and turns.since(1).tolist() == [1, 1]  # paid up to the own last action
    with pytest.raises(GameError, match="some copies were reset within a cycle"):
        turns.reset(where=torch.tensor([True, False]))
    turns.reset()
    assert turns.turn() == 0 and not turns.since(1).any()


class Odd(Game):
    """Two groups, in mixed order: agents 0 and 2 have vectors of integers, agent 1 a box; agent 2 dies in the first step."""

    def __init__(self) -> None:
        import numpy as np

        box = Box((2,), np.full(2, -1, np.float32), np.full(2, 1, np.float32))
        many = MultiDiscrete((2, 3))
        self._who = Players(("a", "b", "c"), (Group((0, 2), many, many), Group((1,), box, box)), ((0, 1, 2),))
        self.players, self.copies = self._who, 2
        self.observation_space, self.action_space = self._who.observation_space, self._who.action_space
        self.steps = 0

    def reset(self, seed=None, where=None):
        self.steps = 0
        return torch.zeros(2, 4, dtype=torch.int64), torch.full((2, 1, 2), torch.nan)

    def step(self, actions: Any):
        self.steps += 1
        dead = torch.tensor([False, False, True]).expand(2, 3)
        reward = torch.cat([actions[0][:, :1], actions[1].sum(2), actions[0][:, 3:]], 1).float()
        everyone = torch.ones(2, 3, dtype=torch.bool)
        return Step(actions, reward, dead, torch.tensor([self.steps == 3] * 2), everyone if self.steps == 1 else everyone & ~dead)

    def legal(self):
        return torch.tensor([[True, True, False, True, True, True, False, True, True, False]]).expand(2, -1)


def test_mixed_groups_vectors_and_the_dead():
    plain, program = Odd(), GameInTurns(Odd())
    cycled = GameOfCycles(program)
    g = torch.Generator().manual_seed(0)
    for one, other in zip(leaves(plain.reset()), leaves(cycled.reset()), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    for _ in range(3):
        actions = random_actions(plain, g)
        expected, found = plain.step(actions), cycled.step(actions)
        for name in ("reward", "terminated", "boundary", "mask"):
            assert torch.equal(getattr(expected, name), getattr(found, name))
        assert all(torch.equal(x, y) for x, y in zip(leaves(expected.observation), leaves(found.observation), strict=True))
    legal = program.legal(2)
    assert legal is not None and legal[0].tolist() == [True, False, True, True, False]
    whole = cycled.legal()
    assert whole is not None and torch.equal(whole, plain.legal())


class Chain(AECProgram):
    """Turns as listed. A choice pays everybody its number at once, and is seen by all if `open_play` is set; ends after `length` acts."""

    def __init__(self, order: list[int], open_play: bool = False, length: int = 1000) -> None:
        space = Discrete(3)
        self.players = Players(("red", "green", "blue"), (Group((0, 1, 2), space, space),), ((0, 1, 2),))
        self.copies, self.name, self.order, self.open_play, self.length = 1, "chain", order, open_play, length

    def reset(self, seed=None, where=None):
        self.acts, self.shown = 0, 0

    def turn(self):
        return self.order[self.acts % len(self.order)]

    def observe(self, agent):
        return torch.tensor([self.shown])

    def act(self, actions: Any):
        self.acts += 1
        if self.open_play or self.acts % 3 == 0:
            self.shown = int(actions)
        reward = torch.full((1, 3), float(actions))
        no = torch.zeros(1, 3, dtype=torch.bool)
        return Turn(reward, no, torch.tensor([self.acts >= self.length]), ~no)

    def since(self, agent):
        return torch.zeros(1)


def test_programs_that_are_no_games_of_joint_actions():
    joint = (torch.tensor([[0, 1, 2]]),)
    game = GameOfCycles(Chain([2, 0, 1]))  # any fixed order will do
    game.reset()
    step: Any = game.step(joint)
    assert step.reward.tolist() == [[3, 3, 3]] and step.observation[0].tolist() == [[1, 1, 1]]
    twice = GameOfCycles(Chain([0, 1, 0, 2]))
    twice.reset()
    with pytest.raises(GameError, match="chain is not cyclic: it was the turn of red where somebody who had not acted yet was due"):
        twice.step(joint)
    changing = GameOfCycles(Chain([0, 1, 2, 1, 0, 2]))
    changing.reset()
    changing.step(joint)
    with pytest.raises(GameError, match="chain is not cyclic: it was the turn of green where red was due"):
        changing.step(joint)
    seen = GameOfCycles(Chain([0, 1, 2], open_play=True))
    seen.reset()
    with pytest.raises(GameError, match="chain shows blue what others did within the cycle"):
        seen.step(joint)
    short = GameOfCycles(Chain([0, 1, 2], length=2))
    short.reset()
    with pytest.raises(GameError, match="chain ended before blue had acted"):
        short.step(joint)
    with pytest.raises(GameError, match="FiniteGame has no players"):
        GameInTurns(make("mdp:random", 1))
    with pytest.raises(GameError, match="before its first reset"):
        GameInTurns(make("matrix:stag_hunt", 1)).observe(0)


def test_all_products_are_small():
    """The round trip's sizes, so that nobody makes them square by accident: 4 states, two agents of two actions."""
    aecg, _ = aecg_from_posg(random_posg(4, (2, 2), (2, 2), torch.Generator().manual_seed(0)))
    posg, labels = posg_from_aecg(aecg)
    assert aecg.states == 1 + 4 * 5 * 7
    # The start, the four first states and their queues, and each s' with the last joint action: once per queue, and per s when just paid.
    assert posg.states == len(labels) == 1 + 4 * 7 + 4 * 4 * 4 + 4 * 4 * 6
    assert len(set(product(*(range(n) for n in posg.actions)))) == 4
