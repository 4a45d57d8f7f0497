"""Evaluation on a game whose returns are known by hand."""

import numpy as np
import pytest
import torch

from tutelage.evaluate.episodes import evaluate, evaluate_members, seeds_of
from tutelage.games.spec import Box, Discrete, Game, GameError, Step


class Lottery(Game):
    """A copy's k-th episode has 1 + (start + k) % 4 steps; each pays the action. The start is the copy's seed mod 4."""

    action_space = Discrete(2)

    def __init__(self, copies: int, skips: bool = False, poison: str = "") -> None:
        self.observation_space = Box((1,), np.array([0.0]), np.array([9.0]))
        self.copies, self.skips, self.poison = copies, skips, poison
        self.steps = 0

    def reset(self, seed=None, where=None):
        if seed is not None:
            self.start = torch.tensor([s % 4 for s in seed])
            self.episode = torch.zeros(self.copies, dtype=torch.int64)
        else:
            assert where is not None and where.any()
            self.episode += where
        where = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.left = torch.where(where, 1 + (self.start + self.episode) % 4, getattr(self, "left", 0))
        return self.left[:, None].float()

    def step(self, actions):
        assert (self.left > 0).all(), "stepped past the end of an episode"
        self.steps += 1
        idle = torch.zeros(self.copies, dtype=torch.bool)
        if self.skips:
            idle[:] = self.steps % 2 == 0
        self.left = self.left - (~idle).long()
        over = (self.left == 0) & ~idle
        assert isinstance(actions, torch.Tensor)
        reward = torch.where(idle, 1000.0, actions.float())
        observation = self.left[:, None].float()
        if self.poison == "reward":
            reward[1] = torch.nan
        if self.poison == "observation":
            observation[1] = torch.nan
        return Step(observation, reward, over, over, ~idle)


class Constant:
    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.modes: set[bool] = set()

    def act(self, observation, deterministic=False):
        self.modes.add(deterministic)
        return torch.full((len(observation),), self.value)


def lengths_by_hand(copies: int, episodes: int, seed: int) -> list[int]:
    starts = [s % 4 for s in seeds_of(seed, copies)]
    return [1 + (starts[i % copies] + i // copies) % 4 for i in range(episodes)]


@pytest.mark.parametrize("copies, episodes", [(1, 7), (3, 8), (4, 2), (5, 5)])
def test_every_episode_is_the_one_assigned_beforehand(copies, episodes):
    policy = Constant(2.0)
    played = evaluate(policy, Lottery(copies), episodes, seed=11)
    assert played.lengths.tolist() == lengths_by_hand(copies, episodes, 11)
    assert played.returns.tolist() == [2.0 * n for n in played.lengths.tolist()]
    assert played.mean == pytest.approx(sum(played.returns.tolist()) / episodes)
    assert policy.modes == {True}


def test_short_episodes_are_not_favored():
    class Unequal(Lottery):
        """Copy 0 plays episodes of one step, copy 1 of nine. Whoever counts the first to end sees only the short ones."""

        def reset(self, seed=None, where=None):
            where = torch.ones(2, dtype=torch.bool) if where is None else where
            self.left = torch.where(where, torch.tensor([1, 9]), getattr(self, "left", 0))
            return self.left[:, None].float()

    assert evaluate(Constant(), Unequal(2), 8, seed=0).mean == 5.0


def test_members_meet_the_same_episodes_and_keep_their_own_returns():
    class Stacked:
        def act(self, observation, deterministic=True):
            return torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])

    plus, minus = evaluate_members(Stacked(), Lottery(6), members=2, episodes=7, seed=5)
    assert plus.lengths.tolist() == minus.lengths.tolist() == lengths_by_hand(3, 7, 5)
    assert (plus.returns == -minus.returns).all() and (plus.returns > 0).all()
    alone = evaluate(Constant(), Lottery(3), 7, seed=5)
    assert alone.returns.tolist() == plus.returns.tolist()


def test_steps_that_were_not_taken_count_for_nothing():
    with_gaps = evaluate(Constant(), Lottery(3, skips=True), 6, seed=2)
    assert with_gaps.returns.tolist() == evaluate(Constant(), Lottery(3), 6, seed=2).returns.tolist()
    assert with_gaps.lengths.tolist() == lengths_by_hand(3, 6, 2)


@pytest.mark.parametrize("poison", ["reward", "observation"])
def test_a_nan_from_the_game_is_an_error_that_says_where(poison):
    with pytest.raises(GameError, match=f"not finite: {poison}, copy 1"):
        evaluate(Constant(), Lottery(2, poison=poison), 2, seed=0)


def test_a_nan_from_the_policy_is_an_error():
    with pytest.raises(GameError, match="not finite: action of the policy, copy 0"):
        evaluate(Constant(float("nan")), Lottery(2), 2, seed=0)


def test_a_nan_in_a_copy_that_is_done_does_not_matter():
    assert len(evaluate(Constant(), Lottery(2, poison="reward"), 1, seed=0).returns) == 1


def test_an_episode_without_end_is_an_error():
    class Endless(Lottery):
        def step(self, actions):
            no = torch.zeros(self.copies, dtype=torch.bool)
            return Step(self.left[:, None].float(), actions.float(), no, no, ~no)

    with pytest.raises(GameError, match="has not ended after 50 steps"):
        evaluate(Constant(), Endless(2), 2, seed=0, max_steps=50)


@pytest.mark.parametrize("members, episodes", [(2, 4), (1, 0), (0, 4)])
def test_impossible_requests_are_refused(members, episodes):
    with pytest.raises(GameError, match="members must divide the copies"):
        evaluate_members(Constant(), Lottery(3), members=members, episodes=episodes, seed=0)


def test_seeds_differ_and_do_not_depend_on_how_many_there_are():
    assert len(set(seeds_of(0, 100))) == 100
    assert seeds_of(7, 3) == seeds_of(7, 9)[:3] != seeds_of(8, 3)


class Guess(Game):
    """Three steps an episode; the task is done after the second alone, in the copies whose seed is even, and not in the episode after."""

    observation_space = Box((1,), np.array([0.0]), np.array([9.0]))
    action_space = Discrete(2)

    def __init__(self, copies: int) -> None:
        self.copies = copies

    def reset(self, seed=None, where=None):
        self.t = 0
        self.wins = torch.tensor([s % 2 == 0 for s in seed]) if seed is not None else torch.zeros(self.copies, dtype=torch.bool)
        return torch.zeros(self.copies, 1)

    def step(self, actions):
        self.t += 1
        over = torch.full((self.copies,), self.t == 3)
        return Step(torch.zeros(self.copies, 1), torch.ones(self.copies), over, over, torch.ones(self.copies, dtype=torch.bool))

    def success(self):
        return self.wins & (self.t == 2)


def test_success_at_any_step_counts_for_its_episode_alone():
    seeds = seeds_of(0, 4)
    assert len({s % 2 for s in seeds}) == 2, "this seed must give copies of both kinds"
    result = evaluate(Constant(), Guess(4), episodes=8, seed=0)
    assert result.successes is not None and result.successes.tolist() == [s % 2 == 0 for s in seeds] + [False] * 4
    assert result.success_rate == sum(s % 2 == 0 for s in seeds) / 8
    assert evaluate(Constant(), Lottery(2), episodes=3, seed=0).success_rate is None
