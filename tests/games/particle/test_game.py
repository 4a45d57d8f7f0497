"""The particle worlds as games: streams, resets, snapshots, and one sentence for whatever is wrong."""

from typing import Any

import pytest
import torch

from tutelage.games.make import make
from tutelage.games.particle.address import WORLDS
from tutelage.games.spec import CannotSnapshot, Discrete, GameError

ALL = [f"particle:{name}" for name in WORLDS]


def actions_of(game, t, copies=None):
    """A joint action that depends on the number of the copy and on t, not on how many copies there are."""
    joint: list[torch.Tensor] = []
    for group in game.players.groups:
        for_all = torch.arange(100)[:, None] * 31 + torch.tensor(group.agents) * 7 + t * 13
        if isinstance(group.action_space, Discrete):
            joint.append((for_all % 5)[: game.copies])
        else:
            width = group.action_space.shape[0]
            joint.append(((for_all[..., None] * (torch.arange(width) + 3)).double().sin().float())[: game.copies])
    return tuple(joint)


def play(game, observation, steps, first=0):
    seen = [observation]
    for t in range(first, first + steps):
        step = game.step(actions_of(game, t))
        seen.append((*step.observation, step.reward, step.boundary))
        if step.boundary.any():
            seen.append(game.reset(where=step.boundary))
    return seen


def assert_equal(left, right, copies=None):
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x[:copies] if copies else x, y)


@pytest.mark.parametrize("address", ALL)
def test_shapes_and_flags(address):
    game: Any = make(f"{address}?max_steps=5", 4)
    N = len(game.players.names)
    observation = game.reset(seed=[1, 2, 3, 4])
    for t in range(5):
        step = game.step(actions_of(game, t))
        for group, first, seen in zip(game.players.groups, observation, step.observation, strict=True):
            assert first.shape == seen.shape == (4, len(group.agents), *group.observation_space.shape)
            assert seen.dtype == torch.float32 and seen.is_contiguous() and seen.isfinite().all()
        assert step.reward.shape == step.terminated.shape == step.mask.shape == (4, N) and step.reward.is_contiguous()
        assert step.reward.dtype == torch.float32 and not step.terminated.any() and step.mask.all()
        assert step.boundary.tolist() == [t == 4] * 4
    assert game.legal() is None


@pytest.mark.parametrize("actions", ["discrete", "continuous", "box5"])
@pytest.mark.parametrize("address", ALL)
def test_a_copy_depends_on_its_seed_alone(address, actions):
    if "_collect" in address and "simple" not in address:
        if actions != "discrete":
            with pytest.raises(GameError, match="has no option actions"):
                make(f"{address}?actions={actions}", 1)
            return
        address = f"{address}?max_steps=7"
    else:
        address = f"{address}?max_steps=7&actions={actions}"
    few: Any = make(address, 3)
    many: Any = make(address, 11)
    left = play(many, many.reset(seed=range(20, 31)), 20)
    right = play(few, few.reset(seed=range(20, 23)), 20)
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x[:3], y)
    assert not torch.equal(left[0][0][0], left[0][0][1])


@pytest.mark.parametrize("address", ALL)
def test_snapshots_go_on_bit_by_bit(address):
    game: Any = make(f"{address}?max_steps=12", 2)
    play(game, game.reset(seed=[5, 6]), 8)
    kept = [game.snapshot(0), game.snapshot(1)]
    going_on = play(game, (), 15, first=8)
    other: Any = make(f"{address}?max_steps=12", 2)
    seen = [other.restore(1, kept[0]), other.restore(0, kept[1])]
    swapped = play(other, (), 0)
    assert swapped == [()] and all(torch.equal(a, b[1]) for a, b in zip(seen[0], other.world.look(other.state), strict=True))
    other.restore(0, kept[0])
    other.restore(1, kept[1])
    assert_equal(going_on, play(other, (), 15, first=8))


def test_a_partial_reset_leaves_the_others_alone():
    game: Any = make("particle:simple_spread", 3)
    game.reset(seed=[1, 2, 3])
    game.step(actions_of(game, 0))
    before = game.state
    game.reset(where=torch.tensor([False, True, False]))
    for name, old, new in zip(before._fields, before, game.state, strict=True):
        assert torch.equal(old[..., [0, 2]], new[..., [0, 2]])
        assert torch.equal(old[..., 1], new[..., 1]) == (name in ("key", "memory"))
    first = game.state.position[..., 1].clone()
    game.reset(seed=[9, 2, 9], where=torch.tensor([False, True, False]))  # seeded anew: its stream from the start
    assert not torch.equal(game.state.position[..., 1], first)


def test_what_was_answered_stays():
    game: Any = make("particle:simple_collect", 2)
    first = game.reset(seed=[0, 1])[0]
    kept = first.clone()
    step = game.step(actions_of(game, 0))
    rewards = step.reward.clone()
    for t in range(5):
        game.step(actions_of(game, t))
    assert torch.equal(first, kept) and torch.equal(step.reward, rewards)


def test_actions_outside_are_clipped_as_mpe2_clips():
    game: Any = make("particle:simple_spread?actions=continuous", 2)
    game.reset(seed=[0, 0])
    game.step((torch.tensor([[[9.0, -9.0]] * 3, [[1.0, -1.0]] * 3]),))
    assert torch.equal(game.state.velocity[..., 0], game.state.velocity[..., 1])


def test_bad_input():
    game: Any = make("particle:simple_adversary", 2)
    good = (torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(GameError, match="copy 0 of particle:simple_adversary was stepped outside an episode; reset it first"):
        game.step(good)
    with pytest.raises(GameError, match="copy 0 of particle:simple_adversary was reset without a seed"):
        game.reset()
    with pytest.raises(GameError, match="has no state yet"):
        game.snapshot(0)
    with pytest.raises(GameError, match="nothing to draw yet"):
        game.render(1)
    with pytest.raises(GameError, match="was given 3 seeds for 2 copies"):
        game.reset(seed=[1, 2, 3])
    game.reset(seed=[1, 2])
    with pytest.raises(GameError, match="was given a Tensor as actions; a tuple with one tensor for each of 2 groups is needed"):
        game.step(good[0])
    with pytest.raises(GameError, match="was given a tuple of 1 as actions"):
        game.step(good[:1])
    with pytest.raises(GameError, match=r"was given actions of type torch.int64 of shape \(2, 1\); integers of shape \(2, 2\) are needed"):
        game.step((good[0], good[0]))
    with pytest.raises(GameError, match=r"torch.float32 of shape \(2, 2\); integers of shape \(2, 2\)"):
        game.step((good[0], good[1].float()))
    for wrong in (-1, 5):
        with pytest.raises(GameError, match=rf"was given action {wrong}, which is outside Discrete\(n=5\)"):
            game.step((good[0], good[1] + wrong))
    game.step(good)  # nothing of the above has moved it
    assert game.state.steps.tolist() == [1, 1]
    other: Any = make("particle:simple_confuse", 1)
    with pytest.raises(CannotSnapshot, match="a snapshot of particle:simple_adversary was given to particle:simple_confuse"):
        other.restore(0, game.snapshot(0))
    more: Any = make("particle:simple_adversary?agents=3", 1)
    with pytest.raises(CannotSnapshot, match=r"position of the snapshot has shape \(2, 3\), not \(2, 4\)"):
        more.restore(0, game.snapshot(0))
    with pytest.raises(GameError, match="0 copies"):
        make("particle:simple_spread", 0)
