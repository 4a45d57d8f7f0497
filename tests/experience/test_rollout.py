"""The rollout: true successors, resets where episodes end, refusals, and going on after an interruption."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.rollout import Rollout
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.games.make import make
from tutelage.games.spec import Box, Discrete, Game, GameError, Step


class Counter(Game):
    """Copy b counts from 100 x (episode) by its action; it terminates at 3 steps (odd copies: a time limit at 4). No snapshots."""

    def __init__(self, copies: int) -> None:
        self.copies = copies
        bound = torch.ones(1).numpy()
        self.observation_space = Box((2,), -torch.inf * torch.ones(2).numpy(), torch.inf * torch.ones(2).numpy())
        self.action_space = Box((1,), -bound, bound)
        self.episode, self.count, self.spoil = torch.zeros(copies), torch.zeros(copies), {}

    def observe(self) -> Tensor:
        return torch.stack([self.episode * 100.0, self.count], -1)

    def reset(self, seed=None, where=None):
        where = torch.ones(self.copies, dtype=torch.bool) if where is None else where
        self.episode[where] += 1.0
        self.count[where] = 0.0
        return self.observe() + self.spoil.get("reset", 0.0)

    def step(self, actions):
        self.count = self.count + 1.0
        odd = torch.arange(self.copies) % 2 == 1
        terminated = ~odd & (self.count >= 3.0)
        boundary = terminated | (odd & (self.count >= 4.0))
        assert isinstance(actions, Tensor)
        observation, reward = self.observe(), actions[:, 0].clone()
        if "observation" in self.spoil:
            observation[self.spoil["observation"], 1] = math.nan
        if "reward" in self.spoil:
            reward[self.spoil["reward"]] = math.inf
        mask = torch.ones(self.copies, dtype=torch.bool)
        mask[self.spoil.get("mask", [])] = False
        return Step(observation, reward, terminated, boundary, mask)


FIELDS = tuple(name for name in Transition.__slots__ if "legal" not in name)  # where a game has no masks


def ones(R: int, B: int) -> Tensor:
    return torch.ones(R, B, 1)


def test_the_true_successor_is_stored_and_play_goes_on_after_a_reset():
    rollout = Rollout(Counter(4), 2, [0] * 4)
    transitions = [rollout.step(ones(2, 2)) for _ in range(4)]
    third, fourth = transitions[2:]
    assert third.successor[:, 0].tolist() == [[100.0, 3.0]] * 2 and third.next_observation[:, 0].tolist() == [[200.0, 0.0]] * 2
    assert third.terminated.tolist() == [[True, False]] * 2 and third.boundary.tolist() == [[True, False]] * 2
    assert fourth.terminated.tolist() == [[False, False]] * 2 and fourth.boundary.tolist() == [[False, True]] * 2
    assert fourth.successor[:, 1].tolist() == [[100.0, 4.0]] * 2 and fourth.next_observation[:, 1].tolist() == [[200.0, 0.0]] * 2
    for before, after in pairwise(transitions):
        assert torch.equal(before.next_observation, after.observation)
    assert torch.equal(rollout.observation, fourth.next_observation)


def test_copies_are_ordered_by_seed_and_episodes_are_totalled_for_each():
    rollout = Rollout(Counter(4), 2, [0] * 4)
    action = torch.tensor([[[0.1], [0.2]], [[0.3], [0.4]]])
    for _ in range(4):
        assert torch.equal(rollout.step(action).reward, action[..., 0])
    found = {(e.seed, e.copy): (round(e.total, 5), e.length) for e in rollout.episodes}
    assert found == {(0, 0): (0.3, 3), (1, 0): (0.9, 3), (0, 1): (0.8, 4), (1, 1): (1.6, 4)}
    assert rollout.totals[:, 1].tolist() == [0.0, 0.0] and rollout.lengths.tolist() == [[1, 0], [1, 0]]


class Corridor(Counter):
    """A Counter with two actions, of which the second is open from the second step of an episode on."""

    def __init__(self, copies: int) -> None:
        super().__init__(copies)
        self.action_space = Discrete(2)

    def step(self, actions):
        assert actions.dtype == torch.int64 and actions.shape == (self.copies,)
        return super().step(actions[:, None].float())

    def legal(self):
        return torch.stack([torch.ones(self.copies, dtype=torch.bool), self.count >= 1.0], -1)


def test_discrete_actions_legal_masks_and_beginnings():
    rollout = Rollout(Corridor(4), 2, [0] * 4)
    assert rollout.starts.all() and rollout.legal is not None and rollout.legal.tolist() == [[[True, False]] * 2] * 2
    found = [rollout.step(torch.ones(2, 2, 1)) for _ in range(4)]
    masks = [(step.legal[0, :, 1].tolist(), step.next_legal[0, :, 1].tolist()) for step in found]  # type: ignore[index]
    late, early = [True, True], [False, False]
    # Even copies end at their third step: the successor is late in its episode, and play goes on early in the next.
    assert masks == [(early, late), (late, late), (late, late), ([False, True], late)]
    assert rollout.starts.tolist() == [[False, True]] * 2
    again = Rollout(Corridor(4), 2, [0] * 4)
    assert again.load(unpack(*pack(rollout.state()))) == [0, 1, 2, 3]  # no snapshots: every copy begins anew
    assert again.starts.all() and again.legal is not None and not again.legal[..., 1].any()


class Filmed(Counter):
    """A Counter seen by a camera."""

    def __init__(self, copies: int) -> None:
        super().__init__(copies)
        self.observation_space = Box((1, 2, 2), np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 255, np.uint8), "uint8")

    def observe(self):
        return self.count.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def test_an_image_stays_bytes():
    rollout = Rollout(Filmed(2), 1, [0] * 2)
    step = rollout.step(ones(1, 2))
    assert step.successor.dtype == torch.uint8 and step.successor.shape == (1, 2, 1, 2, 2)
    assert (step.successor == 1).all() and (step.observation == 0).all()


def test_a_step_that_was_none_counts_for_nothing():
    game = Counter(2)
    rollout = Rollout(game, 1, [0] * 2)
    game.spoil["mask"] = [0]
    transition = rollout.step(ones(1, 2))
    assert transition.mask.tolist() == [[False, True]]
    assert rollout.totals.tolist() == [[0.0, 1.0]] and rollout.lengths.tolist() == [[0, 1]]


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_what_is_not_finite_is_refused_and_nothing_moves(what: str):
    game = Counter(4)
    rollout = Rollout(game, 2, [0] * 4)
    rollout.step(ones(2, 2))
    before, totals = rollout.observation.clone(), rollout.totals.clone()
    game.spoil[what] = 2
    with pytest.raises(GameError, match=f"gave a {what} that is not finite in copy 2 after step 1; nothing was stored"):
        rollout.step(ones(2, 2))
    assert rollout.steps == 1 and torch.equal(rollout.observation, before) and torch.equal(rollout.totals, totals)
    assert not rollout.episodes


def test_a_first_observation_that_is_not_finite_is_refused_too():
    game = Counter(4)
    game.spoil["reset"] = torch.tensor([[0.0, 0.0], [0.0, math.nan], [0.0, 0.0], [0.0, 0.0]])
    with pytest.raises(GameError, match="gave a first observation that is not finite in copy 1 after step 0"):
        Rollout(game, 2, [0] * 4)
    game.spoil.clear()
    rollout = Rollout(game, 2, [0] * 4)
    game.spoil["reset"] = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, math.inf]])
    rollout.step(ones(2, 2))
    rollout.step(ones(2, 2))
    with pytest.raises(GameError, match="gave a first observation that is not finite in copy 3 after step 2"):
        rollout.step(ones(2, 2))
    assert rollout.steps == 2


def test_copies_must_divide_among_the_seeds():
    with pytest.raises(GameError, match="a rollout of 3 seeds needs a multiple of 3 copies; the game has 4"):
        Rollout(Counter(4), 3, [0] * 4)


def pendulum(R: int = 2, B: int = 1, seeds: tuple[int, ...] = (3, 4), anchor_every: int = 7) -> Rollout:
    return Rollout(make("gym:Pendulum-v1", R * B), R, list(seeds), anchor_every=anchor_every)


def actions(count: int, seed: int = 0) -> list[Tensor]:
    g = Generator().manual_seed(seed)
    return [4.0 * torch.rand(2, 1, 1, generator=g) - 2.0 for _ in range(count)]


@pytest.mark.parametrize("at", [1, 150, 200, 201])
def test_saved_and_loaded_it_goes_on_to_the_same_bits(at: int):
    whole = pendulum()
    script = actions(260)
    for action in script[:at]:
        whole.step(action)
    state = unpack(*pack(whole.state()))
    whole.episodes.clear()
    expected = [whole.step(action) for action in script[at:]]
    other = pendulum(seeds=(8, 9))
    anchors = other.anchors
    for action in actions(5, seed=1):
        other.step(action)
    assert other.load(state) == []
    for action, transition in zip(script[at:], expected, strict=True):
        again = other.step(action)
        for name in FIELDS:
            assert torch.equal(getattr(again, name), getattr(transition, name)), name
    assert [(e.seed, e.copy, e.total, e.length) for e in other.episodes] == [(e.seed, e.copy, e.total, e.length) for e in whole.episodes]
    assert [[a.slot for a in own] for own in other.anchors] == [[a.slot for a in own] for own in whole.anchors]
    assert other.anchors is anchors and all(a is b for a, b in zip(other.anchors, anchors, strict=True))  # a lesson holds these lists


def test_a_world_that_cannot_be_put_back_starts_a_fresh_episode_and_says_which():
    first = Rollout(Counter(4), 2, [0] * 4)
    first.step(ones(2, 2))
    state = unpack(*pack(first.state()))
    second = Rollout(Counter(4), 2, [0] * 4)
    second.step(ones(2, 2))
    second.step(ones(2, 2))
    assert second.load(state) == [0, 1, 2, 3]
    assert second.steps == 1 and second.totals.tolist() == [[0.0, 0.0]] * 2 and second.lengths.tolist() == [[0, 0]] * 2
    assert second.observation.tolist() == [[[200.0, 0.0]] * 2] * 2
    assert second.step(ones(2, 2)).observation.tolist() == [[[200.0, 0.0]] * 2] * 2


def test_anchors_lie_at_every_episodes_start_and_between():
    rollout = pendulum(anchor_every=60)
    for action in actions(230):
        rollout.step(action)
    assert [a.slot for a in rollout.anchors[0]] == [0, 60, 120, 180, 200]
    few = Rollout(make("gym:Pendulum-v1", 2), 2, [3, 4], anchor_every=60, anchors_kept=2)
    for action in actions(230):
        few.step(action)
    assert [a.slot for a in few.anchors[1]] == [180, 200]
    assert not pendulum(anchor_every=0).anchors[0]


def test_a_stacked_seed_plays_as_it_would_alone():
    stacked, alone = pendulum(), Rollout(make("gym:Pendulum-v1", 1), 1, [4])
    for action in actions(250):
        both, single = stacked.step(action), alone.step(action[1:])
        for name in FIELDS:
            assert torch.equal(getattr(both, name)[1:], getattr(single, name))
