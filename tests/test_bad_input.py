"""Bad input gets one clear sentence, and nothing half-written stays behind. What has a room of its own is tested there."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import Experiment, RunError, read_config
from tutelage.experiment.train import resume, train
from tutelage.games.spec import GameError
from tutelage.learn.deep import sac

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
CONFIG = RunConfig(
    sac.Config(hidden=(8, 8), batch_size=8, random_steps=10), "gym:Pendulum-v1", 40, evaluation_episodes=1, evaluate_every=1000,
    checkpoint_every=10, clips=0,
)  # fmt: skip


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"))


@pytest.mark.parametrize(
    ("game", "sentence"),
    [
        ("gym:Pendlum-v1", "there is no game gym:Pendlum-v1; did you mean gym:Pendulum-v1?"),
        ("dm:waker-walk", "there is no game dm:waker-walk; did you mean dm:walker-walk?"),
        (
            "Pendulum-v1",
            "'Pendulum-v1' is not the address of a game: it starts with none of gym:, dm:, metaworld:, christiano:, atari:, grid:, "
            "mdp:, matrix:, particle:, py:, text: and zoo:; did you mean gym:Pendulum-v1?",
        ),
        ("gym:CartPole-v1", "SAC needs a vector of bounded continuous actions; this game's actions are Discrete(n=2)"),
    ],
)
def test_a_game_that_is_unknown_or_not_for_this_learner(tmp_path: Path, game: str, sentence: str):
    with pytest.raises(GameError, match=f"^{re.escape(sentence)}$"):
        train(dataclasses.replace(CONFIG, game=game), tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists()


def test_an_unknown_field_or_algorithm_in_a_run_directory(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
    path = run / "config.json"
    whole = json.loads(path.read_text())
    for change, reason in [
        ({"stepz": 3}, "the configuration has an unknown field 'stepz'; the nearest known one is 'steps'"),
        ({"name": "sacc"}, "unknown algorithm 'sacc'; did you mean sac?"),
    ]:
        path.write_text(json.dumps(whole | change))
        with pytest.raises(RunError, match=f"^{re.escape(str(path))} cannot be read: {re.escape(reason)}$"):
            resume(run, console=quiet())
    for text in ["{", "[]", "\x00", "[" * 100_000, '{"steps": 1e999}']:
        path.write_text(text)
        with pytest.raises(RunError, match="config.json cannot be read: "):
            read_config(run)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="config.json cannot be read: "):
        read_config(run)


def test_a_place_without_a_run(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match=f"^{re.escape(str(place))} is no run: it has no config.json$"):
            resume(place, console=quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HOLDER = """
import sys
from pathlib import Path
from tutelage.experiment.run import Experiment, read_config
with Experiment(read_config(Path(sys.argv[1])), Path(sys.argv[1])) as experiment:
    experiment.restore()
    print("here", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_run_directory(tmp_path: Path):
    run = tmp_path / "run"
    with Experiment(CONFIG, run) as experiment:
        experiment.begin()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline() == b"here\n"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        sentence = f"^{re.escape(str(run))} is in use by another process; one run has one directory and one process$"
        with pytest.raises(RunError, match=sentence):
            resume(run, console=quiet())
        with pytest.raises(RunError, match=sentence):
            Experiment(CONFIG, run)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        holder.stdin.close()
        assert holder.wait(30) == 0
    with Experiment(CONFIG, run) as experiment:  # free again
        experiment.restore()


def test_a_directory_that_holds_a_run_is_not_trained_over(tmp_path: Path):
    with Experiment(CONFIG, tmp_path) as experiment:
        experiment.begin()
    with pytest.raises(RunError, match=f"{re.escape(str(tmp_path))} already holds a run; `tutelage resume .*` continues it"):
        train(CONFIG, tmp_path, console=quiet())


FULL = """
import json, resource, sys
from pathlib import Path
from tutelage.experiment.checkpoint import Checkpoints
from tutelage.experiment.run import Experiment, RunError, read_config

way, out = sys.argv[1], Path(sys.argv[2])

def fill():
    if way == "disk":
        with (out.parent / "filler").open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
    else:
        size = (out / "events.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20 if way == "log" else 2000, resource.RLIM_INFINITY))

def free():
    (out.parent / "filler").unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

told = {}
with Experiment(read_config(out), out) as experiment:
    experiment.restore()
    try:
        while not experiment.finished:
            experiment.step()
            if experiment.steps == 20:
                fill()
    except RunError as error:
        told["sentence"], told["at"] = str(error), experiment.steps
free()
loaded = Checkpoints(out).load_newest()
told["newest"], told["passed_over"] = loaded.step, loaded.passed_over
named = {chunk for path in Checkpoints(out).all() for pair in json.loads((path / "manifest.json").read_text())["replay"] for chunk in pair}
told["orphans"] = [path.name for path in (out / "replay").iterdir() if path.stem not in named]
told["half_written"] = [path.name for path in out.rglob("*") if ".partial" in path.name]
with Experiment(read_config(out), out) as experiment:
    experiment.restore()
    while not experiment.finished:
        experiment.step()
    experiment.finish()
manifest = json.loads((Checkpoints(out).all()[0] / "manifest.json").read_text())
told["end"] = [manifest["step"], manifest["files"]["state.safetensors"], manifest["replay"]]
print(json.dumps(told))
"""
MOUNT = 'mount -t tmpfs -o size=700k tmpfs "$2" && mkdir "$2/run" && cp -r "$3/." "$2/run" && exec "$0" -c "$1" disk "$2/run"'


def may_mount() -> bool:
    """Whether a small disk of one's own can be had, in a namespace that ends with its process."""
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


# A limit on the size of files fails as a full disk does, and every system has it; a disk that is really full where it may be had.
@pytest.mark.parametrize("way", ["checkpoint", "log", *(["disk"] if may_mount() else [])])
def test_a_full_disk(tmp_path: Path, way: str):
    config, run = dataclasses.replace(CONFIG, log_every=1), tmp_path / "run"
    with Experiment(config, run) as experiment:
        experiment.begin()
    command = [sys.executable, "-c", FULL, way, str(run)]
    if way == "disk":
        (tmp_path / "disk").mkdir()
        command = ["unshare", "--mount", "sh", "-c", MOUNT, sys.executable, FULL, str(tmp_path / "disk"), str(run)]
    answer = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    reason = "No space left on device" if way == "disk" else "File too large"
    assert re.fullmatch(
        rf"\S+/run could not be written to at step {told['at']} \({reason}\); "
        "once there is room, `resume` continues from the newest checkpoint",
        told["sentence"],
    )
    assert 20 <= told["at"] <= 30
    assert told["newest"] == 20 and told["passed_over"] == [] and told["orphans"] == [] and told["half_written"] == []
    with Experiment(config, tmp_path / "other" / "run") as experiment:
        experiment.begin()
        while not experiment.finished:
            experiment.step()
        manifest = json.loads((experiment.checkpoints.all()[0] / "manifest.json").read_text())
    assert told["end"] == [manifest["step"], manifest["files"]["state.safetensors"], manifest["replay"]]


def test_no_code_can_come_out_of_a_file():
    # safetensors and JSON only: no byte that was read from a disk or a network is unpickled or run.
    forbidden = re.compile(r"^\s*(import|from) (pickle|marshal|shelve|dill|cloudpickle|joblib)\b|torch\.load\(|allow_pickle\s*=\s*True"
                           r"|\byaml\.(unsafe_)?load\(|(?<![\w.])(eval|exec)\(", re.MULTILINE)  # fmt: skip
    assert all(forbidden.search(line) for line in ("import pickle", "x = torch.load(f)", "y = eval(text)", "from dill import load"))
    assert not forbidden.search("a = model.eval()\nb = evaluate(c)")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (ROOT / "tutelage").rglob("*.py")
        for match in forbidden.finditer(path.read_text())
    ]
    assert found == []
