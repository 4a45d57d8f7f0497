"""The promises that every learner with a replay makes, for each of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch, Transition
from tutelage.experience.trees import pack, unpack
from tutelage.games.spec import Box, Discrete, GameError, MultiDiscrete, Space
from tutelage.learn.deep import ddpg, discrete_sac, dqn, td3
from tutelage.learn.learner import Progress

R, N, D, A, CHOICES = 3, 16, 4, 2, 5


def box(low: list[float], high: list[float]) -> Box:
    return Box((len(low),), np.array(low, np.float32), np.array(high, np.float32))


SEEN, REALS = box([-math.inf] * D, [math.inf] * D), box([-2.0, 0.0], [2.0, 1.0])
KINDS: dict[str, tuple[Any, Any, Space]] = {
    "ddpg": (ddpg.DDPG, ddpg.Config(hidden=(16, 16), batch_size=N, random_steps=5), REALS),
    "td3": (td3.TD3, td3.Config(hidden=(16, 16), batch_size=N, random_steps=5), REALS),
    "td4": (td3.TD3, td3.Config(hidden=(16, 16), batch_size=N, random_steps=5, minimum_actor=True, policy_delay=3), REALS),
    "dqn": (dqn.DQN, dqn.Config(hidden=(16, 16), batch_size=N, random_steps=5, target_every=3), Discrete(CHOICES)),
    "rainbow": (
        dqn.DQN,
        dqn.Config((16, 16), batch_size=N, random_steps=5, target_every=3, double=True, dueling=True, n_step=3, prioritized=True),
        Discrete(CHOICES),
    ),
    "discrete_sac": (
        discrete_sac.DiscreteSAC,
        discrete_sac.Config(hidden=(16, 16), batch_size=N, random_steps=5, learning_rate=1e-3),
        Discrete(CHOICES),
    ),
}
every = pytest.mark.parametrize("kind", KINDS)


def learner(kind: str, seeds: tuple[int, ...] = (1, 2, 3), **changed: Any) -> Any:
    made, config, space = KINDS[kind]
    return made(replace(config, **changed), SEEN, space, [Generator().manual_seed(seed) for seed in seeds])


def is_discrete(kind: str) -> bool:
    return isinstance(KINDS[kind][2], Discrete)


def actions(kind: str, shape: tuple[int, ...], g: Generator) -> Tensor:
    if is_discrete(kind):
        return torch.randint(CHOICES, (*shape, 1), generator=g).float()
    return torch.tensor([4.0, 1.0]) * torch.rand(*shape, A, generator=g) - torch.tensor([2.0, 0.0])


def batch(kind: str, seed: int = 0) -> Batch:
    g = Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(R, N, *shape, generator=g)
    legal = None
    if is_discrete(kind):
        legal = rand(CHOICES) < 0.7
        legal[..., 0] = True
    action = actions(kind, (R, N), g)
    return Batch(rand(D) - 0.5, action, rand(), rand(D) - 0.5, rand() < 0.3, (rand() < 0.8).float(), legal, legal)


def trained(made: Any, kind: str, members: slice = slice(None), updates: int = 20, change: int | None = None) -> Any:
    for step in range(updates):
        given = batch(kind, step)
        if change is not None:
            given.observation[change] *= -3.0
            given.reward[change] *= -3.0
        made.update_on(given[members])
    return made


def weights_of(made: Any) -> dict[str, Tensor]:
    named = {f"{n}/{w}": x for n, g in made.train.groups.items() for w, x in g.parameters.weights.items()}
    return named | {f"{n}'/{w}": x for n, target in made.train.targets.items() for w, x in target.weights.items()}


def play(made: Any, replay: Replay, kind: str, first: int, last: int, total: int = 60) -> list[dict[str, Tensor]]:
    """A game of random numbers whose masks of legal actions change; the learner behaves and learns."""
    metrics: list[dict[str, Tensor]] = []
    for t in range(first, last):
        g = Generator().manual_seed(t)
        now, ahead = (torch.randn(R, 2, D, generator=Generator().manual_seed(1000 + i)) for i in (t, t + 1))
        masks = [torch.rand(R, 2, CHOICES, generator=Generator().manual_seed(i)) < 0.5 for i in (t, t + 1)]
        for mask in masks:
            mask[..., 2] = True
        legal = masks if is_discrete(kind) else [None, None]
        starts = torch.full((R, 2), t % 9 == 0)
        action = made.behave(now, starts, legal[0], Progress(t, total))
        if legal[0] is not None:
            assert legal[0].gather(-1, action.long()).all()
        ends = torch.full((R, 2), t % 9 == 8)
        terminated = ends & (torch.rand(R, 2, generator=g) < 0.5)
        replay.add(
            Transition(now, action, now[..., 0], ahead + 1.0 * ends[..., None], ahead, terminated, ends, ~torch.zeros_like(ends), *legal)
        )
        metrics.append(made.update(replay, Progress(t + 1, total)))
    return metrics


@every
def test_a_stacked_seed_learns_what_it_would_alone(kind: str):
    stacked = weights_of(trained(learner(kind), kind))
    for r in range(R):
        for name, weight in weights_of(trained(learner(kind, (r + 1,)), kind, slice(r, r + 1))).items():
            torch.testing.assert_close(stacked[name][r], weight[0], atol=1e-5, rtol=1e-5)


@every
def test_a_stacked_seed_plays_what_it_would_alone(kind: str):
    stacked, seen = learner(kind, random_steps=2), torch.randn(R, 4, D, generator=Generator().manual_seed(0))
    legal = torch.rand(R, 4, CHOICES, generator=Generator().manual_seed(0)) < 0.5 if is_discrete(kind) else None
    if legal is not None:
        legal[..., 0] = True
    starts = torch.zeros(R, 4, dtype=torch.bool)
    together = [stacked.behave(seen, starts, legal, Progress(t, 10)) for t in range(6)]
    for r in range(R):
        alone, own = learner(kind, (r + 1,), random_steps=2), slice(r, r + 1)
        for t in range(6):
            action = alone.behave(seen[own], starts[own], None if legal is None else legal[own], Progress(t, 10))
            torch.testing.assert_close(together[t][own], action, atol=1e-6, rtol=1e-6)
    assert not torch.equal(together[0], together[1])


@every
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(kind: str):
    one, two, other = (weights_of(trained(learner(kind, seeds), kind)) for seeds in ((1, 2, 3), (1, 2, 3), (4, 5, 6)))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "weight" in name)


@every
@pytest.mark.parametrize("poison", [False, True])
def test_another_seeds_data_changes_no_bit(kind: str, poison: bool):
    plain, other = trained(learner(kind), kind), learner(kind)
    if poison:
        for step in range(20):
            given = batch(kind, step)
            given.reward[0, 3] = math.nan if step >= 7 else 0.0
            given.mask[0, 3] = 1.0
            other.update_on(given)
        assert other.frozen()["critic"].tolist() == [True, False, False]
        assert all(weight.isfinite().all() for weight in weights_of(other).values())
    else:
        other = trained(other, kind, change=0)
    ours, theirs = weights_of(plain), weights_of(other)
    for name in ours:
        assert torch.equal(ours[name][1:], theirs[name][1:])
    assert not torch.equal(ours["critic/weight_0"][0], theirs["critic/weight_0"][0])


@every
def test_masked_transitions_teach_nothing(kind: str):
    clean, dirty = learner(kind), learner(kind)
    for step in range(4):
        given = batch(kind, step)
        hidden = given.mask[..., None] == 0.0
        clean.update_on(given)
        dirty.update_on(
            replace(
                given,
                observation=torch.where(hidden, 9.0, given.observation),
                reward=torch.where(hidden[..., 0], 1e6, given.reward),
                next_observation=torch.where(hidden, -9.0, given.next_observation),
            )
        )
    for one, two in zip(weights_of(clean).values(), weights_of(dirty).values(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@every
def test_saved_and_loaded_it_goes_on_to_the_same_bits(kind: str):
    first, second = learner(kind), learner(kind, (7, 8, 9))
    replay, again = first.experience(30, 2), second.experience(30, 2)
    play(first, replay, kind, 0, 40)
    second.load(unpack(*pack(first.state())))
    copied = lambda part: {name: x.clone() for name, x in part.items()}
    again.load(unpack(*pack(replay.state())), [(copied(a), copied(b)) for _, _, a, b in replay.chunks(7)], 7)
    metrics = play(first, replay, kind, 40, 60), play(second, again, kind, 40, 60)
    assert any(metrics[0])
    for one, two in zip(*metrics, strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        assert all(value.shape == (R,) for value in one.values())
    ours, theirs = weights_of(first), weights_of(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(first.act(torch.ones(R, 2, D)), second.act(torch.ones(R, 2, D)))
    assert first.train.updates == second.train.updates


@every
def test_nothing_is_learned_before_the_random_steps_are_over(kind: str):
    made = learner(kind, random_steps=12)
    metrics = play(made, made.experience(60, 2), kind, 0, 20)
    assert not any(metrics[:12]) and any(metrics[12:])


@every
def test_actions_are_the_games(kind: str):
    made = learner(kind)
    starts = torch.zeros(R, 2000, dtype=torch.bool)
    seen = 10.0 * torch.randn(R, 2000, D, generator=Generator().manual_seed(0))
    for t in (0, 50):  # random, then the policy with what it explores by
        action = made.behave(seen, starts, None, Progress(t, 60))
        if is_discrete(kind):
            assert set(action.flatten().tolist()) == set(range(CHOICES))
        else:
            assert (action[..., 0].abs() <= 2.0).all() and (action[..., 1] >= 0.0).all() and (action[..., 1] <= 1.0).all()
            assert action.amin((0, 1)).tolist() == pytest.approx([-2.0, 0.0], abs=0.02)
            assert action.amax((0, 1)).tolist() == pytest.approx([2.0, 1.0], abs=0.02)
    still = made.act(torch.ones(R, 2, D), deterministic=True)
    assert torch.equal(still, made.act(torch.ones(R, 2, D), deterministic=True)) and torch.equal(still[:, 0], still[:, 1])


@every
def test_actions_of_a_wrong_kind_are_refused_in_a_sentence(kind: str):
    made, config, _ = KINDS[kind]
    wrong = [REALS, MultiDiscrete((2, 3))] if is_discrete(kind) else [Discrete(3), box([-1.0], [math.inf]), MultiDiscrete((2, 3))]
    for space in wrong:
        with pytest.raises(GameError, match="this game's actions are") as error:
            made(config, SEEN, space, [Generator()])
        assert type(space).__name__ in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if is_discrete(kind)])
def test_a_mask_that_forbids_everything_is_refused(kind: str):
    made, seen = learner(kind), torch.zeros(R, 2, D)
    legal = torch.ones(R, 2, CHOICES, dtype=torch.bool)
    legal[1, 1] = False
    for t in (0, 50):
        with pytest.raises(GameError, match="no action is legal"):
            made.behave(seen, torch.zeros(R, 2, dtype=torch.bool), legal, Progress(t, 60))
    with pytest.raises(GameError, match="no action is legal"):
        made.act(seen, deterministic=True, legal=legal)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if is_discrete(kind)])
def test_it_learns_from_images(kind: str):
    made, config, space = KINDS[kind]
    shape = (2, 36, 36)
    picture = Box(shape, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), "uint8")
    agent = made(
        replace(config, hidden=(16,), batch_size=4, random_steps=2), picture, space, [Generator().manual_seed(i) for i in range(2)]
    )
    replay, g = agent.experience(30, 1), Generator().manual_seed(0)
    seen = torch.randint(256, (2, 1, *shape), generator=g, dtype=torch.uint8)
    before, no = weights_of(agent)["critic/weight_0"].clone(), torch.zeros(2, 1, dtype=torch.bool)
    for t in range(12):
        action = agent.behave(seen, no, None, Progress(t, 12))
        ahead = torch.randint(256, (2, 1, *shape), generator=g, dtype=torch.uint8)
        replay.add(Transition(seen, action, torch.ones(2, 1), ahead, ahead, no, no, ~no))
        agent.update(replay, Progress(t + 1, 12))
        seen = ahead
    assert replay.images is not None and not torch.equal(weights_of(agent)["critic/weight_0"], before)
