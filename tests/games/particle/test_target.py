"""Simple Target and Simple Collect: the definition as a slow loop, and what the scripted team gets."""

from typing import Any

import pytest
import torch
from torch import Generator

from tutelage.evaluate.episodes import evaluate
from tutelage.games.make import make
from tutelage.games.particle.address import make_world
from tutelage.games.particle.scripted import ScriptedTeam, navigators


def slow_reward(x, l, nearest, touch, weight, penalty, radius, size):
    """One copy; x, l: lists of points."""
    far = lambda p, q: float(torch.linalg.vector_norm(p - q))
    free = [p for p in x if all(far(p, q) >= radius for q in l)] if nearest == "free" else x
    free = free or x
    common = 0.0
    for q in l:
        common += touch if min(far(p, q) for p in x) < radius else -weight * min(far(p, q) for p in free)
    return [common - penalty * sum(far(p, q) < 2 * size for j, q in enumerate(x) if j != i) for i, p in enumerate(x)]


@pytest.mark.parametrize("nearest", ["free", "any"])
def test_reward_against_the_definition(nearest):
    B = 300
    options = "agents=3&touch_reward=2&distance_weight=0.5&collision_penalty=0.7&touch_radius=0.3&agent_size=0.2"
    world = make_world(f"particle:simple_target?{options}&nearest={nearest}", dtype=torch.float64)
    g = Generator().manual_seed(0)
    number = torch.zeros(B, dtype=torch.int64)
    position, place = (torch.rand(2, 3, B, generator=g, dtype=torch.float64) for _ in range(2))
    state = world.start(number, number)._replace(position=position, place=place)
    same, reward = world.pay(state)
    assert all(a is b for a, b in zip(same, state, strict=True))
    busy = 0
    for b in range(B):
        x, l = (list(part[..., b].t()) for part in (position, place))
        assert reward[:, b].tolist() == pytest.approx(slow_reward(x, l, nearest, 2.0, 0.5, 0.7, 0.3, 0.2), abs=1e-6)
        busy += all(min(float(torch.linalg.vector_norm(p - q)) for q in l) < 0.3 for p in x)
    assert busy > 10  # cases without a free agent were among them


def test_the_two_forms_differ_where_an_agent_rests():
    number = torch.zeros(1, dtype=torch.int64)
    rewards = {}
    for nearest in ("free", "any"):
        world = make_world(f"particle:simple_target?agents=2&nearest={nearest}")
        place = torch.tensor([[[0.0], [0.5]], [[0.0], [0.0]]])
        position = torch.tensor([[[0.0], [2.5]], [[0.0], [0.0]]])  # one is at the first landmark, the other far from both
        rewards[nearest] = world.pay(world.start(number, number)._replace(position=position, place=place))[1][:, 0].tolist()
    assert rewards == {"free": [1.0 - 2.0] * 2, "any": [1.0 - 0.5] * 2}


def test_observes_and_begins_as_simple_spread():
    games: list[Any] = [make(f"particle:{name}", 3) for name in ("simple_spread", "simple_target", "simple_collect")]
    assert len({game.players for game in games}) == 1
    first = [game.reset(seed=[4, 5, 6])[0] for game in games]
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])
    assert [game.world.max_steps for game in games] == [25, 100, 100]


def test_a_landmark_moves_after_ten_steps_of_dwelling():
    game: Any = make("particle:simple_collect?agents=2", 1)
    game.reset(seed=[0])
    place = torch.tensor([[[0.0], [5.0]], [[0.0], [5.0]]])
    position = torch.tensor([[[0.0], [2.0]], [[0.0], [2.0]]])
    game.state = game.state._replace(position=position, place=place)
    still = (torch.zeros(1, 2, dtype=torch.int64),)
    for t in range(1, 11):
        step = game.step(still)
        assert torch.equal(game.state.place, place) == (t < 10)
        assert game.state.memory[:, 0].tolist() == [t % 10, 0]
        assert float(step.reward[0, 0]) == pytest.approx(1.0 - 18.0**0.5)  # paid also in the step in which it moves
    moved = game.state.place[:, :, 0].t()
    assert moved[1].tolist() == [5.0, 5.0] and moved[0].abs().max() <= 1.0
    torch.testing.assert_close(step.observation[0][0, 0, 4:6], moved[0])  # what is seen is where it is now
    left = game.state._replace(position=game.state.position + 3.0, memory=torch.tensor([[7], [0]]))
    assert game.world.pay(left)[0].memory[0, 0] in (0, 8)


def test_leaving_begins_the_count_anew():
    world = make_world("particle:simple_collect?agents=1&dwell=3")
    number = torch.zeros(1, dtype=torch.int64)
    state = world.start(number, number)._replace(place=torch.zeros(2, 1, 1))
    counts = []
    for x in (0.0, 0.0, 1.0, 0.0, 0.0, 0.0):
        state, _ = world.pay(state._replace(position=torch.full((2, 1, 1), x), place=torch.zeros(2, 1, 1)))
        counts.append(int(state.memory[0, 0]))
    assert counts == [1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("radius", "touched", "random"), [(0.1, 264, 3), (0.15, 273, 7), (0.2, 279, 12)])
def test_touched_landmarks_of_the_facts(radius, touched, random):
    """(landmark, step) pairs in 100 steps: scripted (within 2 %: the controller of the facts is not known) and random."""
    game: Any = make(f"particle:simple_target?actions=continuous&touch_radius={radius}&distance_weight=0&collision_penalty=0", 400)
    assert evaluate(ScriptedTeam(game.world, navigators(3)), game, 400, seed=0).mean == pytest.approx(touched, rel=0.02)
    result = evaluate(ScriptedTeam(game.world, [Generator().manual_seed(i) for i in range(3)]), game, 400, seed=0)
    assert result.mean == pytest.approx(random, abs=0.5 + 3 * float(result.returns.std()) / 20)
