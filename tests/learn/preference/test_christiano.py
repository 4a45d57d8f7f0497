"""Christiano's loop: when it asks, what pays its learner, and that it learns."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.equations.schedules import hyperbolic_labels
from tutelage.evaluate.episodes import evaluate_members
from tutelage.evaluate.policy import StackedPolicy
from tutelage.experience.rollout import Rollout
from tutelage.experience.segments import SegmentArchive
from tutelage.experience.taped import Taped
from tutelage.experience.trees import pack, unpack
from tutelage.feedback.query import FeedbackError
from tutelage.feedback.raters import OracleRater, Teacher
from tutelage.games.atari import CHRISTIANO as CHRISTIANO_ATARI_GAMES
from tutelage.games.make import make
from tutelage.learn.deep import a2c, ppo, trpo
from tutelage.learn.learner import Progress
from tutelage.learn.preference.christiano import Christiano, Config
from tutelage.learn.preference.family import PrefPPO
from tutelage.learn.preference.lesson import Lesson
from tutelage.rewards import learned
from tutelage.rewards.source import GameReward

COPIES = 2
QUICK = Config(
    labels=20, initial_steps=40, schedule_steps=100.0, segment_length=5, poll_every=10, candidates=2, tape_steps=100, fit_labels=1,
    learner="ppo", ppo=ppo.Config(hidden=(8,), window=16, epochs=2, batch_size=16),
    reward_model=dataclasses.replace(learned.CHRISTIANO, hidden=(8,), batch_size=8, epochs=3),
)  # fmt: skip


class Classroom:
    """Two students with an oracle each."""

    def __init__(self, folder: Path, config: Config = QUICK, game: str = "gym:Pendulum-v1", total: int = 200, copies: int = COPIES) -> None:
        make_generators = lambda salt: [Generator().manual_seed(1000 * salt + seed) for seed in (0, 1)]
        self.game, self.total = make(game, 2 * copies), total
        self.rollout = Rollout(self.game, 2, list(range(2 * copies)))
        self.archive = SegmentArchive(folder)
        raters = [
            OracleRater(Teacher(), lambda item: self.archive.get(item).reward, g, lambda: -5.0, 1, clock=lambda: 0.0)
            for g in make_generators(4)
        ]
        self.lesson = Lesson(raters, ["a", "b"], make_generators(3), self.archive, self.rollout.anchors, GameReward(), game)
        spaces = self.game.observation_space, self.game.action_space
        self.learner = Christiano(config, *spaces, make_generators(1), make_generators(2), self.lesson)
        self.experience: Taped = self.learner.experience(total, copies)
        self.asked: list[int] = []

    def run(self, steps: int) -> "Classroom":
        for _ in range(steps):
            progress = lambda: Progress(self.rollout.steps, self.total)
            action = self.learner.behave(self.rollout.observation, self.rollout.starts, self.rollout.legal, progress())
            step = self.rollout.step(action)
            self.experience.add(step, self.learner.reward(step.observation, step.action, step.reward))
            self.learner.update(self.experience, progress())
            self.asked.append(self.lesson.asked[0])
        return self

    def weights(self) -> Tensor:
        return self.learner.learner.parameters.flat

    def state(self) -> Any:
        chunks = [[rows, rewards] for _, _, rows, rewards in self.experience.chunks(50)]
        whole = {"learner": self.learner.state(), "rollout": self.rollout.state(), "state": self.experience.state(), "chunks": chunks}
        return unpack(*pack(whole))

    def load(self, state: Any) -> "Classroom":
        self.learner.load(state["learner"])
        self.rollout.load(state["rollout"])
        self.experience.load(state["state"], [(rows, rewards) for rows, rewards in state["chunks"]], 50)
        return self


def test_the_schedule_by_hand_and_by_its_rate():
    due = lambda T: hyperbolic_labels(T, 50_000_000, 500, 5500, 5e6)  # the facts' Atari example
    assert due(0) == 500.0 and due(50_000_000) == pytest.approx(5500.0) and due(60_000_000) == pytest.approx(5500.0)
    c = 5000.0 / (5e6 * math.log(11.0))
    assert c == pytest.approx(4.17e-4, rel=1e-3)
    for T in (0, 5_000_000, 20_000_000):
        rate = (due(T + 1000) - due(T)) / 1000.0
        assert rate == pytest.approx(c * 5e6 / (T + 5e6), rel=1e-3)
    assert [hyperbolic_labels(T, 100, 10, 110, None) for T in (0, 25, 100)] == [10.0, 35.0, 110.0]
    assert hyperbolic_labels(0, 0, 3, 7, 1.0) == 7.0


@pytest.mark.usefixtures("unchecked")
def test_questions_come_when_they_are_due(tmp_path: Path):
    room = Classroom(tmp_path).run(200)
    assert room.asked[38] == 0 and room.asked[39] == 5  # a quarter of twenty, after forty steps
    for step in range(40, 201, 10):
        expected = int(hyperbolic_labels((step - 40) * COPIES, 160 * COPIES, 5, 20, 100.0))
        assert room.asked[step - 1] == expected
    assert room.asked[-1] == 20 and [len(own) for own in room.lesson.judgements] == [20, 20]
    samplers = [query.sampler for query in room.lesson.queries[0].values()]
    assert samplers == ["uniform"] * 5 + ["disagreement"] * 15


@pytest.mark.usefixtures("unchecked")
def test_without_online_queries_all_are_asked_at_first(tmp_path: Path):
    room = Classroom(tmp_path, dataclasses.replace(QUICK, online=False)).run(60)
    assert room.asked[38:41] == [0, 20, 20] and room.asked[-1] == 20


@pytest.mark.usefixtures("unchecked")
def test_questions_are_gathered_into_sessions(tmp_path: Path):
    room = Classroom(tmp_path, dataclasses.replace(QUICK, session_labels=6, schedule_steps=None)).run(200)
    assert sorted(set(room.asked)) == [0, 5, 11, 17, 20]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("learner", ["ppo", "trpo", "a2c"])
def test_nothing_is_learned_before_the_first_fit(tmp_path: Path, learner: str):
    small: dict[str, Any] = dict(hidden=(8,), window=8)
    config = dataclasses.replace(
        QUICK,
        learner=learner,
        trpo=trpo.Config(**small, value_epochs=1, batch_size=8),
        a2c=a2c.Config(**small),
        ppo=ppo.Config(**small, epochs=1),
    )
    room = Classroom(tmp_path, config)
    before = room.weights().clone()
    room.run(39)
    assert torch.equal(before, room.weights()) and room.experience.tape.reward.abs().sum() == 0
    room.run(30)
    assert not torch.equal(before, room.weights())


@pytest.mark.usefixtures("unchecked")
def test_the_games_reward_reaches_nobody_who_learns(tmp_path: Path):
    room, other = Classroom(tmp_path / "a"), Classroom(tmp_path / "b")
    inner = other.experience.add
    other.experience.add = lambda step, reward=None: inner(step, reward)  # type: ignore[method-assign]
    step = other.learner.reward
    other.learner.reward = lambda observation, action, paid: step(observation, action, paid * 0.0 + 7.0)  # type: ignore[method-assign]
    room.run(100)
    other.run(100)
    assert torch.equal(room.weights(), other.weights())


@pytest.mark.usefixtures("unchecked")
def test_it_pays_the_mean_of_members_brought_to_the_target_over_the_tape_for_actions_as_played(tmp_path: Path):
    room = Classroom(tmp_path).run(45)
    ensemble, tape = room.learner.ensemble, room.experience.tape
    seen, done = tape.observations()[:, :80], tape.actions()[:, :80]  # what the fit of step 40 looked at
    members = ensemble.normalized(ensemble.member_rewards(seen, done))
    torch.testing.assert_close(members.mean(-1), torch.zeros(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(members.std(-1), torch.ones(2, 3), atol=1e-3, rtol=0)
    wild = torch.full((2, 4, 1), 50.0)
    states = seen[:, :4]
    torch.testing.assert_close(room.learner.reward(states, wild, torch.zeros(2, 4)), ensemble.reward(states, torch.full((2, 4, 1), 2.0)))
    assert tape.actions().abs().max() <= 2.0


@pytest.mark.usefixtures("unchecked")
def test_where_actions_are_choices_the_reward_is_of_states(tmp_path: Path):
    room = Classroom(tmp_path, game="gym:CartPole-v1").run(60)
    assert room.learner.learned.all() and room.learner.ensemble.net.mlp.sizes[0] == 4
    x = torch.randn(2, 5, 4, generator=Generator().manual_seed(0))
    one, two = (room.learner.reward(x, torch.full((2, 5, 1), action), torch.zeros(2, 5)) for action in (0.0, 1.0))
    assert torch.equal(one, two)


@pytest.mark.usefixtures("unchecked")
def test_atari_is_taught_from_its_pictures(tmp_path: Path):
    model = dataclasses.replace(learned.CHRISTIANO_ATARI, hidden=(8,), members=2, batch_size=4, epochs=2)
    config = dataclasses.replace(
        QUICK, labels=6, initial_steps=12, segment_length=4, poll_every=4, learner="a2c", a2c=a2c.Config(hidden=(8,), shared=True),
        reward_model=model, labels_kept=4,
    )  # fmt: skip
    room = Classroom(tmp_path, config, CHRISTIANO_ATARI_GAMES["pong"], total=40, copies=1).run(24)
    assert room.learner.learned.all() and room.asked[-1] > 2
    tape = room.experience.tape
    learned_of = room.learner.reward(tape.observations(), tape.actions(), torch.zeros(2, 24))
    torch.testing.assert_close(learned_of.std(-1), torch.full((2,), 0.05), atol=0.03, rtol=0)
    clip = room.archive.get(next(iter(room.lesson.queries[0].values())).items[0])
    assert clip.observation.dtype == torch.uint8 and clip.observation.shape == (4, 4, 84, 84)
    again = SegmentArchive(tmp_path).get(next(iter(room.lesson.queries[0].values())).items[0])
    assert torch.equal(clip.observation, again.observation)
    with pytest.raises(FeedbackError, match="distances between images"):
        Classroom(tmp_path, dataclasses.replace(config, neighbors=5), CHRISTIANO_ATARI_GAMES["pong"], copies=1)


@pytest.mark.usefixtures("unchecked")
def test_a_world_that_says_which_actions_are_legal_can_be_taught(tmp_path: Path):
    room = Classroom(tmp_path, QUICK, "gym:Taxi-v4").run(60)
    assert room.rollout.legal is not None and room.learner.learned.all()


@pytest.mark.usefixtures("unchecked")
def test_memory_goes_on_over_windows_that_nobody_learns_from(tmp_path: Path):
    small = a2c.Config(hidden=(8,), window=8, memory="gru")
    room = Classroom(tmp_path, dataclasses.replace(QUICK, learner="a2c", a2c=small), "gym:CartPole-v1").run(8)
    playing, before = room.learner.learner._playing, room.learner.learner._before
    assert playing is not None and before is not None and not room.learner.learned.any()
    assert before.state.abs().sum() > 0.0


@pytest.mark.usefixtures("unchecked")
def test_prefppo_explores_by_state_entropy_until_the_first_answers(tmp_path: Path):
    small = ppo.Config(hidden=(8,), window=16, epochs=1, batch_size=16)
    config = PrefPPO(
        labels=8, initial_steps=60, session_labels=4, segment_length=5, poll_every=10, ppo=small, reward_model=learned.Config(hidden=(8,))
    )
    room = Classroom(tmp_path, config)
    before = room.weights().clone()
    room.run(50)
    assert not torch.equal(before, room.weights()) and room.experience.tape.reward[:, 40:90].min() > 0.0
    room.run(20)
    assert room.learner.learned.all()


@pytest.mark.usefixtures("unchecked")
def test_saved_and_loaded_it_goes_on_to_the_same_bits(tmp_path: Path):
    for at in (37, 40, 63):
        room = Classroom(tmp_path / str(at)).run(at)
        again = Classroom(tmp_path / str(at)).load(room.state())
        for one in (room, again):
            one.run(50)
        assert torch.equal(room.weights(), again.weights()) and torch.equal(room.experience.tape.reward, again.experience.tape.reward)
        assert torch.equal(room.learner.ensemble.parameters.flat, again.learner.ensemble.parameters.flat)


def test_an_unknown_sampler_is_refused(tmp_path: Path):
    with pytest.raises(FeedbackError, match='sampler "best" is none of uniform'):
        Classroom(tmp_path, dataclasses.replace(QUICK, sampler="best"))


@pytest.mark.usefixtures("unchecked")
def test_it_learns_to_balance_from_sixty_comparisons(tmp_path: Path):
    """Episodes have full length whatever the agent does, so that nothing but the answers can tell it what is wanted."""
    config = dataclasses.replace(
        QUICK, labels=60, initial_steps=200, segment_length=15, poll_every=100, tape_steps=2000, fit_labels=5, candidates=5,
        schedule_steps=None,
        ppo=ppo.Config(hidden=(32,), window=100, epochs=10, batch_size=100, learning_rate=3e-3, gae_lambda=0.9, discount=0.9),
        reward_model=dataclasses.replace(learned.CHRISTIANO, hidden=(32,), batch_size=16, epochs=10, learning_rate=3e-3),
    )  # fmt: skip
    room = Classroom(tmp_path, config, "christiano:pendulum", total=3000, copies=4)

    def worst() -> float:
        game = make("christiano:pendulum", 20)
        policy = StackedPolicy(room.learner, 2, game.observation_space, game.action_space)
        return min(result.mean for result in evaluate_members(policy, game, 2, 10, 9))

    assert worst() < -0.4
    room.run(3000)
    assert worst() > -0.1  # minus the squared angle, over 25 steps
