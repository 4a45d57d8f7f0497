"""Meta-World: the package's own numbers, draws that belong to a copy, success, snapshots to the bit, pictures and errors."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.evaluate.episodes import evaluate
from tutelage.games import make as addresses
from tutelage.games.metaworld import known_tasks, tasks
from tutelage.games.mujoco import mujoco
from tutelage.games.spec import GameError

make: Any = addresses.make  # Any: a test knows which world it made
NAMED = ["hammer-v3", "door-open-v3", "button-press-v3", "sweep-into-v3", "drawer-open-v3", "window-open-v3"]


class Scripted:
    """The package's scripted policy of a task: it sees the goal and acts for every copy by itself."""

    def __init__(self, task: str) -> None:
        policies: Any = importlib.import_module("metaworld.policies")
        self.policy = policies.ENV_POLICY_MAP[task]()

    def act(self, observation, deterministic=True):
        rows = [self.policy.get_action(row) for row in observation.double().numpy()]
        return torch.as_tensor(np.stack(rows), dtype=torch.float32).clamp(-1, 1)


class Idle:
    def act(self, observation, deterministic=True):
        return torch.zeros(len(observation), 4)


def draw_actions(copies: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(steps, copies, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("task", NAMED)
def test_the_packages_own_numbers(task: str):
    game = make(f"metaworld:{task}", copies=1)
    observation = game.reset(seed=[5])
    theirs = tasks.ALL_V3_ENVIRONMENTS[task]()
    # As the package's benchmarks set a task: the same draw, frozen.
    theirs._set_task_called, theirs._last_rand_vec = True, game._envs[0]._core._last_rand_vec.copy()
    expected, _ = theirs.reset()
    assert torch.equal(observation[0], torch.as_tensor(expected, dtype=torch.float32))
    assert (observation[0, -3:] == 0).all(), "the goal is hidden"
    paid = []
    for action in draw_actions(1, 40):
        step = game.step(action)
        expected, reward, terminated, _, info = theirs.step(action[0].numpy())
        paid.append(float(step.reward))
        assert torch.equal(step.observation[0], torch.as_tensor(expected, dtype=torch.float32))
        assert paid[-1] == pytest.approx(reward, rel=1e-6) and 0 <= paid[-1] <= 10
        assert not terminated and not step.terminated.any() and game.success().tolist() == [bool(info["success"])]
    assert np.std(paid) > 1e-4


@pytest.mark.parametrize("task", NAMED)
def test_seeds_repeat_and_a_snapshot_continues_to_the_bit(task: str):
    game = make(f"metaworld:{task}?horizon=60", copies=2)
    first = game.reset(seed=[1, 2])
    assert not torch.equal(first[0], first[1]), "every copy draws its own"
    begun = [game.step(action) for action in draw_actions(2, 15)]
    snapshot = game.snapshot(0)
    rest = [game.step(action) for action in draw_actions(2, 45, seed=1)]
    assert rest[-1].boundary.all() and not rest[-1].terminated.any()
    fresh = make(f"metaworld:{task}?horizon=60", copies=2)
    assert torch.equal(fresh.reset(seed=[1, 7])[0], first[0])
    for action, other in zip(draw_actions(2, 15), begun, strict=True):
        assert torch.equal(fresh.step(action).observation[0], other.observation[0])
    elsewhere = make(f"metaworld:{task}?horizon=60", copies=2)
    elsewhere.reset(seed=[8, 9])
    elsewhere.restore(0, snapshot)
    for action, other in zip(draw_actions(2, 45, seed=1), rest, strict=True):
        step = elsewhere.step(action)
        assert torch.equal(step.observation[0], other.observation[0]) and torch.equal(step.reward[0], other.reward[0])
        assert torch.equal(step.boundary[0], other.boundary[0])
    one = torch.tensor([True, False])
    assert torch.equal(elsewhere.reset(where=one)[0], game.reset(where=one)[0])  # the generator of the draws, too


@pytest.mark.parametrize("task", NAMED)
def test_the_first_observation_is_of_its_episode_and_of_no_earlier_one(task: str):
    game, fresh = make(f"metaworld:{task}", copies=1), make(f"metaworld:{task}", copies=1)
    game.reset(seed=[4])
    for action in draw_actions(1, 30):
        game.step(action)
    observation = game.reset(seed=[5])
    assert torch.equal(observation, fresh.reset(seed=[5]))
    for action in draw_actions(1, 10):
        assert torch.equal(game.step(action).observation, fresh.step(action).observation)
    observation, core = game.reset(), game._envs[0]._core
    mujoco.mj_forward(core.model, core.data)
    np.testing.assert_allclose(observation[0, :18], core._get_curr_obs_combined_no_goal(), atol=1e-3)  # the hand still moves a little


def test_every_episode_draws_anew_and_numpys_generator_stays_where_it_was():
    words = lambda: np.random.get_state(legacy=True)[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002 - the package draws from it
    before = words()
    game = make("metaworld:door-open-v3", copies=1)
    first = game.reset(seed=[0])
    assert not torch.equal(first, game.reset())
    assert words() == before


def test_a_visible_goal_is_where_the_task_says():
    game = make("metaworld:window-open-v3?goal=visible", copies=2)
    observation = game.reset(seed=[1, 2])
    for b in range(2):
        np.testing.assert_allclose(observation[b, -3:].numpy(), game._envs[b]._core._target_pos, rtol=1e-6)
    step = game.step(torch.zeros(2, 4))
    assert torch.equal(step.observation[:, -3:], observation[:, -3:]) and not torch.equal(observation[0, -3:], observation[1, -3:])


def test_an_episode_lasts_500_steps():
    game = make("metaworld:drawer-open-v3", copies=1)
    game.reset(seed=[0])
    flags = [(bool(step.boundary), bool(step.terminated)) for step in (game.step(torch.zeros(1, 4)) for _ in range(500))]
    assert flags == [(False, False)] * 499 + [(True, False)]
    with pytest.raises(GameError, match="stepped outside an episode"):
        game.step(torch.zeros(1, 4))


@pytest.mark.parametrize("task", ["button-press-v3", "drawer-open-v3", "window-open-v3"])
def test_the_success_rate_of_the_scripted_policy(task: str):
    game = make(f"metaworld:{task}?goal=visible&horizon=150", copies=2)
    result = evaluate(Scripted(task), game, episodes=2, seed=0)
    assert result.success_rate == 1.0 and result.returns.min() > 100
    idle = evaluate(Idle(), game, episodes=2, seed=0)
    assert idle.success_rate == 0.0 and idle.returns.max() < result.returns.min()


def test_divergence_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it stands
    game = make("metaworld:button-press-v3", copies=1)
    game.reset(seed=[0])
    game._envs[0]._core.data.qvel[:] = 1e12
    with pytest.raises(GameError, match="metaworld:button-press-v3: the simulation diverged"):
        game.step(torch.zeros(1, 4))


def test_pictures_change_and_stand_upright():
    game = make("metaworld:hammer-v3", copies=1)
    game.reset(seed=[1])
    before = game.render(0, width=96, height=64)
    for action in draw_actions(1, 20):
        game.step(action)
    after = game.render(0, width=96, height=64)
    assert before.shape == (64, 96, 3) and before.dtype == np.uint8 and before.std() > 2 and (before != after).mean() > 0.002
    game.close()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("metaworld:hamer-v3", r"there is no game metaworld:hamer-v3; did you mean metaworld:hammer-v3\?$"),
        ("metaworld:hammer", r"did you mean metaworld:hammer-v3\?$"),
        ("metaworld:door-open-v2", r"did you mean metaworld:door-open-v3\?$"),
        ("metaworld:hammer-v3?goal=seen", "goal=seen was given; hidden or visible was expected"),
        ("metaworld:hammer-v3?gaol=visible", "metaworld:hammer-v3 has no option gaol; did you mean goal"),
        ("metaworld:hammer-v3?horizon=0", "horizon=0 was given; an episode needs at least one step"),
    ],
)
def test_bad_addresses(address: str, sentence: str):
    with pytest.raises(GameError, match=sentence):
        make(address, copies=1)


def test_tasks_are_listed_and_the_packages_batches_are_not():
    games = addresses.known_games()
    assert len(known_tasks()) == 50 and {f"metaworld:{task}" for task in known_tasks()} <= set(games)
    assert not any("Meta-World" in game for game in games)
