"""PEBBLE: what it may see, when it asks, what it relabels, and that it learns."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.equations.exploration import knn_distance
from tutelage.evaluate.episodes import evaluate_members
from tutelage.evaluate.policy import StackedPolicy
from tutelage.experience.replay import Replay
from tutelage.experience.rollout import Rollout
from tutelage.experience.segments import SegmentArchive
from tutelage.experience.trees import pack, unpack
from tutelage.feedback.query import FeedbackError
from tutelage.feedback.raters import OracleRater, Rater, Teacher
from tutelage.games.make import make
from tutelage.learn.deep import sac
from tutelage.learn.learner import Progress
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.pebble import Config, Pebble
from tutelage.nets.training import Group
from tutelage.rewards import learned
from tutelage.rewards.source import GameReward, RewardSource, WrittenReward

QUICK = Config(
    labels=10, session_labels=4, first_session_labels=6, session_every=30, pretraining_steps=40, entropy_every=10, segment_length=5,
    updates_after_reset=3, fit_labels=4, poll_every=10,
    sac=sac.Config(hidden=(8,), batch_size=16, random_steps=30, learning_rate=1e-3),
    reward_model=learned.Config(hidden=(8,), batch_size=4, epochs=5, learning_rate=3e-3, target_std=1.0, standardize_inputs=True),
)  # fmt: skip


def upright(observation: Tensor, action: Tensor) -> Tensor:
    return observation[..., 0]


class Classroom:
    """R students of Pendulum with a scripted teacher each."""

    def __init__(
        self,
        folder: Path,
        config: Config = QUICK,
        seeds: tuple[int, ...] = (0, 1),
        spoil: Callable[[Tensor], Tensor] | None = None,
        true_reward: RewardSource | None = None,
        teacher: Teacher = Teacher(),  # noqa: B008
        raters: Callable[[int], Rater] | None = None,
    ) -> None:
        self.seeds, self.spoil = seeds, spoil
        generators = lambda salt: [Generator().manual_seed(1000 * salt + seed) for seed in seeds]
        self.game = make("gym:Pendulum-v1", len(seeds))
        self.rollout = Rollout(self.game, len(seeds), list(seeds), anchor_every=50)
        self.archive = SegmentArchive(folder)
        teachers = generators(4)
        made = [
            OracleRater(teacher, lambda item: self.archive.get(item).reward, teachers[i], lambda: -5.0, 1, clock=lambda: 0.0)
            if raters is None
            else raters(i)
            for i in range(len(seeds))
        ]
        groups = [f"seed-{seed}" for seed in seeds]
        self.lesson = Lesson(
            made, groups, generators(3), self.archive, self.rollout.anchors, true_reward or GameReward(), "gym:Pendulum-v1"
        )
        self.pebble = Pebble(config, self.game.observation_space, self.game.action_space, generators(1), generators(2), self.lesson)
        self.replay = Replay(2000, len(seeds), 1, (3,), 1)
        self.sessions: list[tuple[int, list[int]]] = []

    def run(self, steps: int) -> "Classroom":
        for _ in range(steps):
            progress = lambda: Progress(self.rollout.steps, 2000)
            transition = self.rollout.step(self.pebble.behave(self.rollout.observation, self.rollout.starts, None, progress()))
            if self.spoil is not None:
                transition = dataclasses.replace(transition, reward=self.spoil(transition.reward))
            asked = self.lesson.asked
            self.replay.add(transition, self.pebble.reward(transition.observation, transition.action, transition.reward))
            self.pebble.update(self.replay, progress())
            if self.lesson.asked != asked:
                self.sessions.append((self.rollout.steps, self.lesson.asked))
        return self

    def group(self, name: str) -> Group:
        return self.pebble.sac.train.groups[name]

    def parameters(self) -> list[Tensor]:
        made = self.pebble.sac.train
        flats = [made.groups[name].parameters.flat for name in ("actor", "critic", "temperature")]
        return [*flats, made.targets["critic"].flat, self.pebble.ensemble.parameters.flat, self.replay.reward]

    def state(self) -> Any:
        replay = {"state": self.replay.state(), "chunks": [[rows, rewards] for _, _, rows, rewards in self.replay.chunks(100)]}
        return unpack(*pack({"pebble": self.pebble.state(), "rollout": self.rollout.state(), "replay": replay}))

    def load(self, state: Any) -> "Classroom":
        self.pebble.load(state["pebble"])
        self.rollout.load(state["rollout"])
        self.replay.load(state["replay"]["state"], [(rows, rewards) for rows, rewards in state["replay"]["chunks"]], 100)
        return self


def equal(one: Classroom, two: Classroom) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.usefixtures("unchecked")
def test_the_games_reward_reaches_nobody_who_learns(tmp_path):
    """With the same answers, a game that pays rubbish teaches the same to the bit."""
    judged = WrittenReward(upright)
    honest = Classroom(tmp_path / "a", true_reward=judged).run(140)
    rubbish = Classroom(tmp_path / "b", true_reward=judged, spoil=lambda reward: 1e6 * reward.sin()).run(140)
    assert honest.pebble.learned.all() and equal(honest, rubbish)
    assert not torch.equal(honest.replay.game_reward, rubbish.replay.game_reward)
    opposite = Classroom(tmp_path / "c", true_reward=WrittenReward(lambda o, a: -upright(o, a))).run(140)
    assert not equal(honest, opposite)  # only the answers teach


def test_the_schedule_random_then_curious_then_taught(tmp_path):
    room = Classroom(tmp_path)
    room.run(29)
    assert (room.replay.reward == 0.0).all() and room.pebble.sac.train.updates == 0
    room.run(1)
    held = room.replay.observations()
    distances = torch.cdist(held.double(), held.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(-1).values[..., QUICK.neighbors]
    torch.testing.assert_close(room.replay.reward[:, :30].double(), distances / distances.std(-1, keepdim=True), atol=1e-4, rtol=1e-4)
    room.run(39)
    assert room.pebble.sac.train.updates == 39 and room.lesson.asked == [0, 0]
    held = room.replay.observations()[:, :60]  # as at the last refresh: all of memory, not a minibatch
    distances = torch.cdist(held.double(), held.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(-1).values[..., QUICK.neighbors]
    torch.testing.assert_close(room.replay.reward[:, :60].double(), distances / distances.std(-1, keepdim=True), atol=1e-4, rtol=1e-4)
    critic = room.group("critic").parameters.flat.clone()
    room.run(1)
    assert room.lesson.asked == [6, 6] and room.pebble.learned.all()
    assert room.pebble.sac.train.updates == 39 + 3 + 1  # the updates after the reset, and this step's own
    assert room.group("critic").optimizer.steps.tolist() == [4.0, 4.0] and room.pebble.sac.train.groups[
        "actor"
    ].optimizer.steps.tolist() == [43.0, 43.0]
    assert (room.group("critic").parameters.flat - critic).abs().max() > 0.05


def test_after_a_fit_all_of_memory_has_the_learned_reward(tmp_path):
    room = Classroom(tmp_path).run(70)
    expected = room.pebble.ensemble.reward(room.replay.observations(), room.replay.actions())
    assert torch.equal(room.replay.reward[:, :70], expected)
    members = room.pebble.ensemble.member_rewards(room.replay.observations(), room.replay.actions())
    normalized = (members - room.pebble.ensemble.output_mean) / room.pebble.ensemble.output_std
    assert normalized.mean(-1).abs().max() < 1e-4 and (normalized.std(-1) - 1.0).abs().max() < 1e-3  # each member on its own
    before = room.replay.reward[:, :70].clone()
    room.run(10)
    assert torch.equal(room.replay.reward[:, :70], before)
    since = room.pebble.ensemble.reward(room.replay.observations(10), room.replay.actions()[:, -10:])
    torch.testing.assert_close(room.replay.reward[:, 70:80], since)
    room.run(20)  # a second fit
    assert (room.replay.reward[:, :70] != before).float().mean() > 0.99
    assert room.group("critic").optimizer.steps.tolist() == [34.0, 34.0]  # the critic was reset once


@pytest.mark.parametrize("skip", [0.0, 0.9])
def test_sessions_spend_the_budget_exactly_unknowns_included(tmp_path, skip: float):
    judged = WrittenReward(lambda o, a: -1.0 + o[..., 0])
    positive = WrittenReward(lambda o, a: 5.0 + 5.0 * o[..., 0])
    room = Classroom(tmp_path, true_reward=judged if skip == 0.0 else positive)
    for rater in room.lesson.raters:
        assert isinstance(rater, OracleRater)
        rater.teacher, rater.mean_return = Teacher(skip=skip), lambda: 5.0
    room.run(180)
    assert room.sessions == [(70, [6, 6]), (100, [10, 10])]
    assert room.lesson.awaited == [0, 0]
    answers = [judgement.answer for own in room.lesson.judgements for judgement in own.values()]
    assert len(answers) == 20 and (("unknown" in answers) == (skip > 0.0))


class Mute(OracleRater):
    """Says "unknown" to everything."""

    def submit(self, queries):
        names = super().submit(queries)
        self.pending = [dataclasses.replace(judgement, answer="unknown") for judgement in self.pending]
        return names


def test_a_seed_that_hears_only_unknown_goes_on_exploring_while_the_others_learn(tmp_path):
    room = Classroom(tmp_path)
    room.lesson.raters[0] = Mute(Teacher(), lambda item: room.archive.get(item).reward, Generator(), lambda: 0.0, 1, clock=lambda: 0.0)
    start = room.pebble.ensemble.parameters.split(room.pebble.ensemble.parameters.flat.clone())["weight_0"]
    room.run(110)
    assert room.pebble.learned.tolist() == [False, True]
    weights = room.pebble.ensemble.parameters.weights["weight_0"]
    assert torch.equal(weights[0], start[0]) and not torch.equal(weights[1], start[1])
    assert room.lesson.asked == [10, 10]
    assert torch.equal(room.replay.reward[0, :110], curiosity_by_hand(room))
    assert room.group("critic").optimizer.steps[0] > room.group("critic").optimizer.steps[1]  # only one critic was reset


def curiosity_by_hand(room: Classroom) -> Tensor:
    held = room.replay.observations()
    distance = knn_distance(held, held, QUICK.neighbors)
    return (distance / distance.std(-1, keepdim=True))[0]


class Late(OracleRater):
    """Answers only when it is let to."""

    free = 0

    def poll(self):
        answered, self.pending = self.pending[: self.free], self.pending[self.free :]
        self.free = 0
        return answered


def test_nobody_waits_for_a_slow_teacher_and_a_fit_follows_when_enough_has_come(tmp_path):
    room = Classroom(tmp_path, seeds=(0,))
    late = Late(Teacher(), lambda item: room.archive.get(item).reward, Generator(), lambda: 0.0, 1, clock=lambda: 0.0)
    room.lesson.raters[0] = late
    room.run(80)
    assert room.lesson.awaited == [6] and not room.pebble.learned.any() and room.pebble.sac.train.updates == 50
    late.free = 3
    room.run(10)
    assert room.lesson.unheard == [3] and not room.pebble.learned.any()  # fewer than fit_labels, and more are awaited
    late.free = 1
    room.run(10)
    assert room.pebble.learned.all() and room.lesson.unheard == [0] and room.lesson.awaited == [6]  # a session has come since
    late.free = 6
    room.run(10)
    assert room.lesson.awaited == [0] and room.pebble.ensemble.fits.tolist() == [2]


def test_a_stacked_student_learns_what_it_would_alone(tmp_path):
    both, alone = Classroom(tmp_path / "a").run(105), Classroom(tmp_path / "b", seeds=(1,)).run(105)
    assert both.lesson.asked == [10, 10]
    parameters = [(room.group("actor").parameters, room.pebble.ensemble.parameters) for room in (both, alone)]
    for mine, own in zip(*parameters, strict=True):
        for name in own.weights:
            torch.testing.assert_close(mine.weights[name][1], own.weights[name][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.replay.reward[1], alone.replay.reward[0], atol=1e-4, rtol=1e-4)
    # Group names differ by seed only: the same questions were asked, with the same answers.
    assert [j.answer for j in both.lesson.judgements[1].values()] == [j.answer for j in alone.lesson.judgements[0].values()]


@pytest.mark.parametrize("at", [20, 69, 70, 95])
@pytest.mark.usefixtures("unchecked")
def test_saved_and_loaded_it_goes_on_to_the_same_bits(tmp_path, at: int):
    whole = Classroom(tmp_path / "a").run(at)
    state = whole.state()
    whole.run(130 - at)
    again = Classroom(tmp_path / "a").load(state).run(130 - at)
    assert equal(whole, again) and whole.pebble.learned.all()
    assert [list(own) for own in whole.lesson.judgements] == [list(own) for own in again.lesson.judgements]
    clips = {item for own in again.lesson.queries for query in own.values() for item in query.items}
    for item in clips:
        one, two = SegmentArchive(tmp_path / "a").get(item), again.archive.get(item)
        assert torch.equal(one.lead_in, two.lead_in)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    assert equal(Classroom(tmp_path / "a").run(105), Classroom(tmp_path / "b").run(105))


def test_an_unknown_sampler_is_refused(tmp_path):
    with pytest.raises(FeedbackError, match='sampler "disagrement" is none of uniform, disagreement'):
        Classroom(tmp_path, dataclasses.replace(QUICK, sampler="disagrement"))


@pytest.mark.parametrize("sampler", ["uniform", "entropy", "k_center", "disagreement_k_center", "entropy_k_center"])
@pytest.mark.usefixtures("unchecked")
def test_every_sampler_can_ask(tmp_path, sampler: str):
    room = Classroom(tmp_path, dataclasses.replace(QUICK, sampler=sampler)).run(101)
    used = [[query.sampler for query in own.values()] for own in room.lesson.queries]
    assert used == [["uniform"] * 6 + [sampler] * 4] * 2


@pytest.mark.usefixtures("unchecked")
def test_it_learns_to_swing_up_from_sixty_answers(tmp_path):
    config = Config(
        labels=60, first_session_labels=30, session_labels=15, session_every=200, pretraining_steps=200, segment_length=25, fit_labels=10,
        updates_after_reset=50,
        sac=sac.Config(
            hidden=(64, 64), batch_size=128, learning_rate=2e-3, temperature_learning_rate=2e-3, initial_temperature=0.2, target_rate=0.01,
            random_steps=200, updates_per_step=2,
        ),
        reward_model=learned.Config(
            hidden=(48, 48), learning_rate=1e-3, weight_decay=0.01, batch_size=32, first_max_steps=100, max_steps=50, epochs=1000,
            bounded=False, standardize_inputs=True, target_std=1.0,
        ),
    )  # fmt: skip
    room = Classroom(tmp_path, config, seeds=(0,))

    def judged() -> float:
        game = make("gym:Pendulum-v1", 5)
        return evaluate_members(StackedPolicy(room.pebble, 1, game.observation_space, game.action_space), game, 1, 10, seed=9)[0].mean

    assert judged() < -1000.0  # hanging down and waving
    room.run(1200)
    assert judged() > -400.0  # in most starts it stands; always is about -150
    assert room.lesson.asked == [60]
