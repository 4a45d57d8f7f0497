"""kill -9 of a PEBBLE run at random instants: `resume` ends with the bits of the run that nobody interrupted."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tutelage.experiment.checkpoint import Checkpoints
from tutelage.experiment.log import read_events

KILLS = int(os.environ.get("TUTELAGE_KILLS", "3"))
STUDENT = Path(__file__).with_name("student.py")
STEPS, INTERVAL = 300, 50
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(STUDENT.parents[2])}
WALL_CLOCK = {"time", "seconds"}


def student(verb: str, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(STUDENT), verb, str(run), "oracle", str(STEPS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def lines(process: subprocess.Popen[str]) -> Iterator[tuple[str, int]]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("\n"):
            word, step, *_ = line.split()
            yield word, int(step)


def content(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for wall-clock time."""
    newest = Checkpoints(run).all()[0]
    manifest = json.loads((newest / "manifest.json").read_text())
    state = json.loads((newest / "state.json").read_text())
    del state["seconds"]
    events = [{k: v for k, v in event.items() if k not in WALL_CLOCK} for event in read_events(run / "events.jsonl")]
    return {
        "step": manifest["step"],
        "tensors": manifest["files"]["state.safetensors"],
        "replay": manifest["replay"],
        "state": state,
        "events": [event for event in events if event["event"] != "resumed"],
        "segments": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "segments").iterdir()},
    }


@dataclass(frozen=True)
class Reference:
    content: dict[str, Any]
    duration: dict[int, float]
    """Seconds that each step took."""
    sessions: list[int]
    """Steps with questions, answers, a fit and a relabelling."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    run = tmp_path_factory.mktemp("reference") / "run"
    process = student("begin", run)
    instants = {step: time.perf_counter() for _, step in lines(process)}
    assert process.wait(60) == 0
    duration = {step: instants[step] - instants[step - 1] for step in range(1, STEPS + 1)}
    sessions = sorted({event["step"] for event in read_events(run / "events.jsonl") if event["event"] == "session"})
    assert len(sessions) == 4, "the run has too little in it"
    return Reference(content(run), duration, sessions)


def live_and_die(run: Path, after: int, delay: float, saving: bool) -> int | None:
    """Kill a new run some time after it has said that step `after` is done; returns its last step, None if it outlived this."""
    process = student("begin", run)
    last = 0
    for _, step in lines(process):
        last = step
        if step >= after:
            break
    deadline = time.perf_counter() + 5.0
    while saving and not next((run / "checkpoints").glob(".partial-*"), None) and time.perf_counter() < deadline:
        time.sleep(0.0002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    for _, step in lines(process):
        last = step
    return last if process.wait(30) == -signal.SIGKILL else None


def test_resume_ends_with_the_same_bits(tmp_path: Path, reference: Reference, record_property: Callable[[str, object], None]):
    instants = random.Random(11)
    counts = dict.fromkeys(("bit_equal", "started_past_zero", "repeated_at_most_one_interval", "inside_sessions", "inside_saving"), 0)
    kill = 0
    while kill < KILLS:
        run = tmp_path / str(kill) / "run"  # its name is part of its questions
        kind = ("session", "saving", "anywhere")[kill % 3]
        if kind == "session":
            after = instants.choice(reference.sessions) - 1
        elif kind == "saving":
            after = instants.randrange(2 * INTERVAL, STEPS + 1, INTERVAL) - 1
        else:
            after = instants.randrange(STEPS)
        delay = instants.uniform(0.0, 0.02) if kind == "saving" else instants.uniform(0.0, reference.duration[after + 1])
        last = live_and_die(run, after, delay, kind == "saving")
        if last is None:
            continue  # it ended before the signal came: no kill
        counts["inside_sessions"] += last + 1 in reference.sessions
        counts["inside_saving"] += next((run / "checkpoints").glob(".partial-*"), None) is not None

        process = student("resume", run)
        _, started = next(lines(process))
        for _ in lines(process):
            pass
        assert process.wait(60) == 0
        counts["started_past_zero"] += started > 0
        counts["repeated_at_most_one_interval"] += last - started <= INTERVAL
        same = content(run) == reference.content
        counts["bit_equal"] += same
        assert not [path for path in run.rglob("*") if ".partial-" in path.name], "something half-written was left behind"
        kill += 1
    for name, value in {"kills": KILLS, **counts}.items():
        record_property(name, value)
    assert counts["bit_equal"] == KILLS
    assert counts["repeated_at_most_one_interval"] == KILLS
    assert counts["started_past_zero"] >= KILLS * 25 // 30
    assert counts["inside_sessions"] >= KILLS // 6 and counts["inside_saving"] >= KILLS // 6
