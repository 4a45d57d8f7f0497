"""The event log: what a crash leaves, what a resume takes back, and copies that are read back from the trackers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tutelage.experiment.log import EventLog, LogError, read_events, read_run, scalars, write_tensorboard, write_trackio


def ticking():
    now = 1_700_000_000.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    return clock


def small_run(run: Path) -> Path:
    with EventLog(run / "events.jsonl", ticking()) as log:
        log.append("start", 0, config={"game": "gym:Pendulum-v1", "seeds": [3, 4]}, fingerprint={}, seeds=[3, 4])
        for seed in (3, 4):
            log.append("evaluation", 0, seed=seed, returns=[-1200.0, -1300.0], mean=-1250.0 - seed, policy="untrained")
        for seed in (3, 4):
            log.append("update", 100, seed=seed, **{"loss/critic": 0.5 * seed, "temperature": 0.2})
            log.append("evaluation", 200, seed=seed, returns=[-150.0], mean=-150.0 - seed, policy="learned")
            log.append("baseline", 200, seed=seed, method="sac", mean=-151.0)
        log.append("end", 200, seconds=2.5)
    return run


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    with EventLog(path, lambda: 12.5) as log:
        log.append("episode", 200, seed=1, **{"return": torch.tensor(-3.5), "learned_return": None, "length": np.int64(7)})
        log.append("clip", 200, file=Path("clips/a.mp4"), caption='é "quoted" \n two lines')
        log.sync()
    episode, clip = read_events(path)
    assert episode == {"event": "episode", "time": 12.5, "step": 200, "seed": 1, "return": -3.5, "learned_return": None, "length": 7}
    assert clip["file"] == "clips/a.mp4" and clip["caption"] == 'é "quoted" \n two lines'
    assert path.read_bytes().count(b"\n") == 2


def test_numbers_that_are_not_finite_become_null_so_that_every_line_is_json(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("update", 1, loss=float("nan"), spread=[1.0, float("inf")], tensor=torch.tensor([float("-inf"), 2.0]))
    event = json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (event["loss"], event["spread"], event["tensor"]) == (None, [1.0, None], [None, 2.0])


def test_a_field_that_json_cannot_hold_leaves_nothing_half_written(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        with pytest.raises(LogError, match=r"update\.loss is of type object, which JSON cannot hold"):
            log.append("update", 1, good=1.0, loss=object())
        with pytest.raises(LogError, match="own field 'time'"):
            log.append("update", 1, time=3.0)
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_torn_last_line_is_left_out_and_cut_off_before_the_next_event(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("episode", 1)
        log.append("episode", 2)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        kept = [e["step"] for e in read_events(path)]
        assert kept == [1, 2][: whole[:cut].count(b"\n")]
        with EventLog(path) as log:
            log.append("episode", 3)
        assert [e["step"] for e in read_events(path)] == [*kept, 3]


@pytest.mark.parametrize(
    "line", ["{torn", "[1, 2]", '{"event": "x", "time": 1.0}', '{"event": "x", "time": 1.0, "step": -1}', '{"event": "x", "step": 1}']
)
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    path = tmp_path / "events.jsonl"
    good = '{"event": "episode", "time": 1.0, "step": 1}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(LogError, match=r"events\.jsonl, line 2"):
        read_events(path)


def test_a_missing_log_is_one_sentence(tmp_path):
    with pytest.raises(LogError, match="does not exist"):
        read_events(tmp_path / "events.jsonl")


def test_resumed_takes_back_what_came_before_it_about_later_steps(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("start", 0)
        log.append("baseline", 900, method="sac", mean=1.0)
        for step in (100, 200, 300, 400):
            log.append("episode", step, life=1)
        log.append("resumed", 200)
        for step in (300, 400):
            log.append("episode", step, life=2)
        log.append("resumed", 300)
        log.append("episode", 400, life=3)
    events = read_events(tmp_path / "events.jsonl")
    assert [(e["step"], e["life"]) for e in events if e["event"] == "episode"] == [(100, 1), (200, 1), (300, 2), (400, 3)]
    assert [e["step"] for e in events if e["event"] == "resumed"] == [200, 300]
    assert [e["step"] for e in events if e["event"] == "baseline"] == [900]  # another run's result is not taken back


def test_a_reward_model_apart_tells_its_part_of_the_run(tmp_path):
    run = small_run(tmp_path / "run")
    assert read_run(run) == read_events(run / "events.jsonl")
    with EventLog(run / "models" / "events.jsonl", lambda: 1_700_000_002.5) as log:
        log.append("session", 90, seed=3, labels=10)
    told = read_run(run)
    assert len(told) == len(read_events(run / "events.jsonl")) + 1 and told[2]["event"] == "session"


def test_scalars_are_the_numbers_and_nothing_else():
    event = {"event": "update", "time": 1.0, "step": 5, "seed": 0, "loss/actor": 2, "frozen": True, "note": "x", "bins": [1], "nan": None}
    assert scalars(event) == {"update/loss/actor": 2.0}
    assert scalars({"event": "baseline", "time": 1.0, "step": 5, "method": "sac", "mean": -1.0}) == {"baseline/sac": -1.0}
    assert scalars({"event": "baseline", "time": 1.0, "step": 5, "method": "sac", "mean": None}) == {}


def test_tensorboard_reads_back_what_the_run_wrote(tmp_path):
    folders = write_tensorboard(small_run(tmp_path / "run"), tmp_path / "board")
    assert [f.name for f in folders] == ["run", "seed-3", "seed-4"]
    board = EventAccumulator(str(tmp_path / "board" / "seed-4"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {
        "evaluation/mean", "evaluation of the untrained policy/mean", "update/loss/critic", "update/temperature", "baseline/sac"
    }  # fmt: skip
    (point,) = board.Scalars("evaluation/mean")
    assert (point.step, point.value, point.wall_time) == (200, -154.0, 1_700_000_008.0)
    assert board.Scalars("update/loss/critic")[0].value == 2.0
    with pytest.raises(LogError, match="already holds TensorBoard logs"):
        write_tensorboard(tmp_path / "run", tmp_path / "board")


def test_trackio_reads_back_what_the_run_wrote(tmp_path):
    run = small_run(tmp_path / "demo")
    program = """
import json, sys
from pathlib import Path
import trackio
from trackio.sqlite_storage import SQLiteStorage
from tutelage.experiment.log import LogError, write_trackio
names = write_trackio(Path(sys.argv[1]), project="lessons")
runs = {r.name: r for r in trackio.Api().runs("lessons")}
logs = {n: SQLiteStorage.get_logs("lessons", n, run_id=runs[n].id) for n in names}
try:
    write_trackio(Path(sys.argv[1]), project="lessons")
    again = "accepted"
except LogError as error:
    again = str(error)
config = runs[names[0]].config
Path(sys.argv[2]).write_text(json.dumps({"names": names, "logs": logs, "config": config, "again": again}, default=str))
"""
    # trackio fixes its folder when it is imported, so it gets a process of its own.
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(run), str(tmp_path / "read.json")], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    read = json.loads((tmp_path / "read.json").read_text())
    assert read["names"] == ["demo seed 3", "demo seed 4"]
    seen = [(row["step"], name, row[name]) for row in read["logs"]["demo seed 4"] for name in row if "/" in name]
    assert ((100, "update/loss/critic", 2.0) in seen) and ((200, "evaluation/mean", -154.0) in seen)
    assert (0, "evaluation of the untrained policy/mean", -1254.0) in seen
    assert read["config"]["game"] == "gym:Pendulum-v1"
    assert "already holds a run named 'demo seed 3'" in read["again"]


@pytest.mark.parametrize("module, write", [("torch.utils.tensorboard", "board"), ("trackio", "trackio")])
def test_a_missing_tracker_is_one_sentence(tmp_path, monkeypatch, module, write):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LogError, match=r"tutelage.tracking"):
        write_tensorboard(tmp_path, tmp_path / "out") if write == "board" else write_trackio(tmp_path)
