"""Training and resuming from Python: two lines each, with and without a directory, a rater or a device of one's own."""

import dataclasses
import importlib
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import tutelage
from tutelage.experience.segments import SegmentArchive
from tutelage.experiment.config import ConfigError, RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.run import Experiment
from tutelage.experiment.train import resume, train
from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.raters import Rater
from tutelage.feedback.store import Store, file_url
from tutelage.learn.deep import sac
from tutelage.learn.preference import pebble
from tutelage.rewards import learned

SAC = sac.Config(hidden=(8, 8), batch_size=8, random_steps=10)
PEBBLE = pebble.Config(
    labels=8, session_labels=4, session_every=20, pretraining_steps=10, entropy_every=10, poll_every=5, segment_length=5, candidates=2,
    updates_after_reset=2, sac=SAC, reward_model=learned.Config(hidden=(8,), members=2, batch_size=4, epochs=2),
)  # fmt: skip
CONFIG = RunConfig(SAC, "gym:Pendulum-v1", 30, evaluate_every=1000, evaluation_episodes=1, checkpoint_every=10, log_every=10, clips=0)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_two_lines_train_and_act_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = tutelage.train(CONFIG, console=quiet())
    action = tutelage.load_policy(run).act([1.0, 0.0, 0.5])
    assert run == Path("runs/sac-gym-Pendulum-v1-0") and (run / "report.html").exists()
    assert action.shape == (1,) and abs(float(action)) <= 2.0
    assert tutelage.train(dataclasses.replace(CONFIG, seed=4), console=quiet()) == Path("runs/sac-gym-Pendulum-v1-4")
    assert tutelage.train(CONFIG, console=quiet()) == Path("runs/sac-gym-Pendulum-v1-0-2")
    assert tutelage.resume("runs/sac-gym-Pendulum-v1-4", console=quiet()) == Path("runs/sac-gym-Pendulum-v1-4")


def test_a_run_goes_no_faster_than_a_person_can_follow(tmp_path: Path):
    began = time.monotonic()
    train(dataclasses.replace(CONFIG, steps=12, steps_per_second=10.0), tmp_path / "slow", console=quiet())
    assert time.monotonic() - began >= 1.2
    with pytest.raises(ConfigError, match=r"steps_per_second=0.0 was given; a number above 0 was expected"):
        dataclasses.replace(CONFIG, steps_per_second=0.0)


def test_no_module_takes_the_place_of_a_function():
    for name in ("tutelage.experiment.train", "tutelage.experiment.policy", "tutelage.verbs", "tutelage.cli"):
        importlib.import_module(name)
    assert tutelage.train is train and tutelage.resume is resume and callable(tutelage.load_policy)
    assert set(tutelage.__all__) == {"load_model", "load_policy", "resume", "train"}
    with pytest.raises(AttributeError, match="tutelage has no 'trian'"):
        tutelage.trian  # noqa: B018
    program = "import sys, tutelage; assert 'torch' not in sys.modules; import tutelage.experiment.train; assert callable(tutelage.train)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_refused_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(CONFIG, device="cuda:99")
    with pytest.raises(ConfigError, match=r"^device=cuda:99 was given[^\n]+$"):
        train(config)
    with pytest.raises(ConfigError, match='teacher "nobody" is none of oracle'):
        train(dataclasses.replace(CONFIG, algorithm=PEBBLE, teacher="nobody"), console=quiet())
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "runs"])


def test_a_run_that_another_device_trained_says_what_is_missing(tmp_path: Path):
    with Experiment(CONFIG, tmp_path) as experiment:
        experiment.begin()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "cuda:99"}))
    with pytest.raises(ConfigError, match="device=cuda:99 was given"):
        resume(tmp_path, console=quiet())
    assert tutelage.load_policy(tmp_path).act(torch.zeros(3)).shape == (1,)  # acting needs no such device


def test_resume_prints_what_it_restored_and_goes_on(tmp_path: Path):
    whole = train(CONFIG, tmp_path / "whole", console=quiet())
    part = tmp_path / "part"
    with Experiment(CONFIG, part) as experiment:
        experiment.begin()
        while experiment.steps < 17:
            experiment.step()
    console = quiet()
    assert resume(str(part), console=console) == part
    lines = printed(console).splitlines()
    assert lines[0] == "restored learner, 10 steps of experience, generators and game at step 10"
    assert lines[-1] == f"report: {part / 'report.html'}"

    def last(run: Path) -> list[float]:
        return [event["returns"] for event in read_events(run / "events.jsonl") if event["event"] == "evaluation"][-1]

    assert last(part) == last(whole)


class LeftAlways(Rater):
    """Answers at once."""

    def __init__(self) -> None:
        self.waiting: list[Query] = []

    def submit(self, queries):
        self.waiting += queries
        return [query.id for query in queries]

    def poll(self):
        answered, self.waiting = self.waiting, []
        return [Judgement(f"mine:{query.id}", query.id, "mine", "left") for query in answered]

    def state(self):
        return {}

    def load(self, state):
        pass


def test_a_rater_of_ones_own_is_asked_for_each_seed(tmp_path: Path):
    raters: dict[int, LeftAlways] = {}
    config = dataclasses.replace(CONFIG, algorithm=PEBBLE, seed=5, seeds=2)
    run = train(config, tmp_path / "run", raters=lambda seed: raters.setdefault(seed, LeftAlways()), console=quiet())
    assert list(raters) == [5, 6]
    sessions = [event for event in read_events(run / "events.jsonl") if event["event"] == "session"]
    assert {event["seed"] for event in sessions} == {5, 6} and all(event["labels"] == 4 for event in sessions)
    assert len(list(SegmentArchive(run / "segments").directory.iterdir())) > 4


def test_a_run_with_a_store_may_be_moved_before_it_is_resumed(tmp_path: Path):
    config = dataclasses.replace(CONFIG, algorithm=PEBBLE, rater="store", steps=45)
    old, new = tmp_path / "old", tmp_path / "new"
    with Experiment(config, old) as experiment:
        experiment.begin()
        while experiment.steps < 30:
            experiment.step()
    shutil.move(old, new)
    with Store(file_url(new / "feedback.sqlite")) as store:
        assert len(store.queries("old/seed-0")) == 4
        store.add([Judgement(query.id, query.id, "ann", "left") for query in store.queries()])
    resume(new, console=quiet())
    sessions = [event for event in read_events(new / "events.jsonl") if event["event"] == "session"]
    assert sessions and sessions[-1]["labels"] == 4
    with Store(file_url(new / "feedback.sqlite")) as store:
        assert {query.group for query in store.queries()} == {"old/seed-0"} and len(store.queries()) == 8
