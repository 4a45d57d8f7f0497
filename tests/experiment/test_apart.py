"""Three processes: killing any of them loses nothing and repeats no question, and nobody waits for a slow teacher."""

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.experience.segments import SegmentArchive, StoredSegment
from tutelage.experiment.apart import ROLES, work
from tutelage.experiment.config import ConfigError, RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.run import Experiment, RunError, groups_of
from tutelage.feedback.query import Judgement, new_query
from tutelage.feedback.raters import StoreRater
from tutelage.feedback.store import Store, file_url
from tutelage.learn.deep import ppo, sac
from tutelage.learn.preference import christiano
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.meeting import Meeting
from tutelage.rewards import learned
from tutelage.rewards.source import GameReward

TAUGHT = christiano.Config(
    labels=24, initial_steps=40, segment_length=10, poll_every=20, candidates=4, learner="ppo", recent_episodes=100,
    ppo=ppo.Config(hidden=(8,), window=32, epochs=1, batch_size=32),
    reward_model=dataclasses.replace(learned.CHRISTIANO, hidden=(8,), batch_size=8, epochs=3),
)  # fmt: skip
CONFIG = RunConfig(
    TAUGHT, "gym:Pendulum-v1", 400, seed=3, seeds=2, copies=2, evaluate_every=1000, evaluation_episodes=1, checkpoint_every=50,
    log_every=50, clips=0, asynchronous=True,
)  # fmt: skip


def clip(number: float) -> StoredSegment:
    return StoredSegment(torch.full((3, 2), float(number)), torch.zeros(3, 1), torch.zeros(3), None, torch.empty(0, 1))


def test_what_is_offered_is_whole_and_only_the_newest_stays(tmp_path: Path):
    meeting = Meeting(tmp_path, offers_kept=2)
    assert meeting.step == -1 and meeting.offered(0) == []
    for step in (20, 40, 60):
        meeting.offer(step, [[clip(step)], [clip(step + 0.5), clip(step + 0.25)]])
    meeting.offer(60, [[clip(99.0)], [clip(99.0)]])  # a policy that was interrupted offers a step again
    assert meeting.step == 60
    assert [float(own.observation[0, 0]) for own in meeting.offered(0)] == [40.0, 60.0]
    assert sorted(float(own.observation[0, 0]) for own in meeting.offered(1)) == [40.25, 40.5, 60.25, 60.5]
    assert not list(meeting.offers.glob(".partial*"))


def test_the_newest_model_that_can_be_read_is_the_one(tmp_path: Path):
    meeting = Meeting(tmp_path, models_kept=3)
    assert meeting.published() is None
    for number in range(1, 6):
        meeting.publish(number, {"weights": torch.tensor([float(number)])})
    assert [path.stem for path in sorted(meeting.models.glob("model-*"))] == [f"model-{n:09d}" for n in (3, 4, 5)]
    newest = meeting.published()
    assert newest is not None and newest[0] == 5 and newest[1]["weights"].item() == 5.0 and meeting.published(after=5) is None
    (meeting.models / "model-000000005.safetensors").write_bytes(b"torn")
    older = meeting.published()
    assert older is not None and older[0] == 4


class Trio:
    """A policy in this process, and the two others where they can be killed."""

    def __init__(self, run: Path, config: RunConfig = CONFIG) -> None:
        self.run = run
        self.policy = Experiment(config, run)
        self.policy.begin()
        self.processes: dict[str, Any] = {}
        for role in ROLES:
            self.start(role)

    def start(self, role: str) -> None:
        self.processes[role] = multiprocessing.get_context("spawn").Process(target=work, args=(role, self.run), daemon=True)
        self.processes[role].start()

    def kill(self, role: str) -> None:
        os.kill(self.processes[role].pid, signal.SIGKILL)
        self.processes[role].join()

    def counts(self) -> tuple[int, int]:
        with Store(file_url(self.run / "feedback.sqlite")) as store:
            groups = groups_of(self.policy.config, self.run)
            return sum(len(store.queries(group)) for group in groups), sum(len(store.judgements(group)) for group in groups)

    def wait(self, enough: Any, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < until, f"still {self.counts()} questions and answers, models {self.models()}"
            time.sleep(0.05)

    def models(self) -> int:
        newest = Meeting(self.run).published()
        return -1 if newest is None else newest[0]

    def live(self, until: int) -> None:
        while self.policy.steps < until:
            self.policy.step()

    def end(self) -> None:
        self.live(self.policy.config.steps)
        self.policy.finish()
        for process in self.processes.values():
            process.join(timeout=60.0)
            assert process.exitcode == 0


def test_killing_any_of_the_three_loses_nothing_and_repeats_no_question(tmp_path: Path):
    trio = Trio(tmp_path / "run")
    trio.live(60)
    trio.wait(lambda: trio.counts()[0] >= 12)  # a quarter of 24, of each seed
    trio.kill("rater")  # somewhere between its questions and its answers
    questions, answers = trio.counts()
    trio.start("rater")
    trio.wait(lambda: trio.counts()[1] >= questions)
    assert trio.counts()[0] >= questions and answers <= trio.counts()[1]
    trio.wait(lambda: trio.models() >= 1)
    trio.kill("reward")
    before = trio.models()
    trio.live(120)
    trio.start("reward")
    trio.wait(lambda: trio.models() > before)
    trio.live(180)
    policy: Any = trio.policy.learner
    assert policy.learned.all()
    trio.policy.close()  # the policy too: what it had since its newest checkpoint is lived again
    asked = trio.counts()[0]
    trio.policy = Experiment(CONFIG, tmp_path / "run")
    trio.policy.restore()
    assert trio.policy.steps == 150
    trio.live(320)
    trio.wait(lambda: trio.counts()[0] > asked)
    trio.live(400)
    trio.wait(lambda: trio.counts() == (48, 48))
    before_the_end = trio.models()
    trio.end()
    with Store(file_url(tmp_path / "run" / "feedback.sqlite")) as store:
        for group in groups_of(CONFIG, tmp_path / "run"):
            queries, judgements = store.queries(group), store.judgements(group)
            assert len({frozenset(query.items) for query in queries}) == 24 == len({judgement.query for judgement in judgements})
            assert len(judgements) == 24  # none answered twice
    assert trio.models() >= before_the_end
    heard = [event for event in read_events(tmp_path / "run" / "models" / "events.jsonl") if event["event"] == "session"]
    assert max(event["labels"] for event in heard) == 24  # the last model has seen every answer
    trio.policy.close()


def test_nobody_waits_for_a_slow_teacher(tmp_path: Path):
    trio = Trio(tmp_path / "run", dataclasses.replace(CONFIG, answer_seconds=3600.0))
    trio.live(400)
    trio.wait(lambda: trio.counts()[0] >= 12)
    assert trio.counts()[1] == 0 and trio.models() == -1
    for role in ROLES:
        trio.kill(role)
    trio.policy.close()


def test_a_role_is_taken_once_and_an_unknown_one_is_refused(tmp_path: Path):
    trio = Trio(tmp_path / "run")
    trio.wait(lambda: (tmp_path / "run" / "rater.lock").exists())
    time.sleep(1.0)
    with pytest.raises(RunError, match="has a rater already"):
        work("rater", tmp_path / "run")
    with pytest.raises(RunError, match='role "judge" is none of rater, reward'):
        work("judge", tmp_path / "run")
    for role in ROLES:
        trio.kill(role)
    trio.policy.close()


def test_only_christianos_loop_comes_apart():
    with pytest.raises(ConfigError, match="asynchronous was asked of sac; of christiano and prefppo it can be"):
        RunConfig(sac.Config(), "gym:Pendulum-v1", 10, asynchronous=True)


def test_an_answer_to_a_question_that_is_not_known_yet_is_heard_later(tmp_path: Path):
    """The rater may commit both between the trainer's look at the questions and its look at the answers."""
    with Store(file_url(tmp_path / "labels.sqlite")) as store:
        lesson = Lesson(
            [StoreRater(store, "a")], ["a"], [torch.Generator()], SegmentArchive(tmp_path), [[]], GameReward(), "gym:Pendulum-v1"
        )  # fmt: skip
        head = store.head()
        query = new_query("pair", ["x", "y"], "a", "uniform", 0)
        store.add([query, Judgement("j", query.id, "ann", "left")])
        lesson.listen(0, until=head)
        lesson.queries[0] |= {own.id: own for own in store.queries("a", head)}
        lesson.listen(1, until=store.head())
        assert list(lesson.judgements[0]) == ["j"]


def test_a_run_whose_directory_was_renamed_asks_under_its_old_name(tmp_path: Path):
    assert Meeting(tmp_path / "run").names(["run/seed-0"]) == ["run/seed-0"]
    (tmp_path / "run").rename(tmp_path / "other")
    assert Meeting(tmp_path / "other").names(["other/seed-0"]) == ["run/seed-0"]
