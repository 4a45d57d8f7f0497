"""Recipes: each has run, small, and its rows have the form that tables are rendered from."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tutelage.experiment.config import RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.run import Experiment
from tutelage.recipes import pebble_control, pendulum
from tutelage.recipes.names import RECIPES
from tutelage.recipes.rows import RESULTS, Row, append, judged, read

ROOT = Path(__file__).parents[2]
FIELDS = {"task": str, "method": str, "seed": int, "steps": int, "score": float, "seconds": float, "hardware": str, "commit": str}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(rows: list[dict[str, Any]], out: Path) -> None:
    """One row per seed of one run, of the form of design.md section 5, with the score that its log holds."""
    events = read_events(out / "events.jsonl")
    last = {event["seed"]: event["mean"] for event in events if event["event"] == "evaluation"}
    assert [row["seed"] for row in rows] == list(last)
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == FIELDS
        assert re.fullmatch(r"(gym|dm):[\w-]+(/\w+)?", row["task"]) and re.fullmatch(r"[a-z]+(-\w+)*", row["method"])
        assert re.fullmatch(r"\d+ cores", row["hardware"]) and re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|", row["commit"])
        assert row["score"] == pytest.approx(last[row["seed"]], abs=0.01) and row["seconds"] > 0.0


def results_before() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in RESULTS.glob("*.jsonl")} if RESULTS.is_dir() else {}


def command(recipe: str, *words: object) -> str:
    """Run a recipe as a person does, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", f"tutelage.recipes.{recipe}", *map(str, words)]
    answer = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_every_variant_of_the_pendulum_gives_its_rows(tmp_path: Path):
    results, runs = tmp_path / "rows.jsonl", tmp_path / "runs"
    words = ["table", "--scale", 0.02, "--seeds", 2, "--seed", 5, "--out", runs, "--results", results]
    command("pendulum", *words, "--variants", "pebble-50", "sac")
    command("pendulum", *words)  # goes on with the others
    rows = rows_of(results)
    order = ["pebble-50", "sac", *(variant for variant in pendulum.VARIANTS if variant not in ("pebble-50", "sac"))]
    assert [(row["task"], row["method"], row["seed"]) for row in rows] == [
        ("gym:Pendulum-v1/spin" if variant.startswith("spin") else "gym:Pendulum-v1", variant.removeprefix("spin-"), seed)
        for variant in order
        for seed in (5, 6)
    ]
    for index, variant in enumerate(order):
        check(rows[2 * index : 2 * index + 2], runs / f"{variant}-5")
    assert all(row["steps"] == 140 for row in rows)
    spins = {row["score"] for row in rows if row["task"].endswith("spin")}
    assert all(-6.0 * 200 * 1.4 <= score <= 0.0 for score in spins)  # at most six off per step, or eight minus six
    for variant in ("pebble-flips", "pebble-coin"):
        sessions = [event for event in read_events(runs / f"{variant}-5" / "events.jsonl") if event["event"] == "session"]
        assert {event["seed"] for event in sessions} == {5, 6}
    assert read(results) == [Row(**row) for row in rows]
    before = results_before()
    pendulum.table(pendulum.Table(("sac",), 2, 5, 0.02, runs))  # a try that is given no file measures nothing
    assert results_before() == before and rows_of(results) == rows


def test_the_demo_shows_both_runs_in_one_report(tmp_path: Path):
    said = command("pendulum", "demo", "--scale", 0.02, "--out", tmp_path)
    assert f"report, with SAC on the true reward beside it: {tmp_path / 'lesson' / 'report.html'}" in said
    page = (tmp_path / "lesson" / "report.html").read_text()
    assert "SAC" in page and "PEBBLE" in page
    assert [len({e["seed"] for e in read_events(tmp_path / name / "events.jsonl") if "seed" in e}) for name in ("lesson", "sac")] == [3, 3]


@pytest.mark.parametrize(("task", "method"), [("dm:walker-walk", "pebble"), ("gym:HalfCheetah-v5", "sac")])
def test_the_control_recipe_gives_its_rows_once(task: Any, method: Any, tmp_path: Path):
    results = tmp_path / "rows.jsonl"
    words = ["--task", task, "--method", method, "--seeds", 1, "--seed", 3, "--scale", 0.01]
    words += ["--out", tmp_path / "runs", "--results", results]
    before = results_before()
    command("pebble_control", *words)
    rows = rows_of(results)
    check(rows, tmp_path / "runs" / f"{task.replace(':', '-')}-{method}-3")
    assert [(row["task"], row["method"], row["steps"]) for row in rows] == [(task, "pebble-10" if method == "pebble" else "sac", 1500)]
    pebble_control.main(pebble_control.Recipe(task, method, 1, 3, scale=0.01, out=tmp_path / "runs", results=results))
    assert rows_of(results) == rows and results_before() == before
    # A peer's row, of the same task, method, seed and budget, is no reason not to run.
    append(tmp_path / "peers.jsonl", [dataclasses.replace(Row(**rows[0]), library="a peer")])
    recipe = pebble_control.Recipe(task, method, 1, 3, scale=0.01, out=tmp_path / "runs", results=tmp_path / "peers.jsonl")
    pebble_control.main(recipe)
    assert [row.library for row in read(recipe.results or results)] == ["a peer", None]


def test_the_measured_protocols_are_those_that_the_recipes_name():
    short, full = (pebble_control.configuration(pebble_control.Recipe("gym:HalfCheetah-v5", full=full)) for full in (False, True))
    algorithm: Any = short.algorithm
    assert (short.steps, algorithm.labels, algorithm.sac.hidden, short.seeds) == (150_000, 700, (256, 256), 2)
    algorithm = full.algorithm
    assert (full.steps, algorithm.labels, algorithm.sac.hidden, algorithm.sac.batch_size) == (500_000, 700, (1024, 1024), 1024)
    assert full.seeds == 5
    for variant in get_args(pendulum.Variant):
        config = pendulum.configuration(variant, 6, 0)
        assert (config.steps, config.seeds, config.evaluation_episodes) == (7_000, 6, 20)
        algorithm = config.algorithm
        assert config.name == ("sac" if variant.endswith("sac") else "pebble")
        assert getattr(algorithm, "labels", None) == (None if variant.endswith("sac") else 50 if variant == "pebble-50" else 100)
        assert config.teacher == {"pebble-flips": "mistake", "pebble-coin": "coin"}.get(variant, "oracle")


def test_a_run_that_failed_has_a_row_that_says_so(tmp_path: Path):
    config: RunConfig = dataclasses.replace(pendulum.configuration("sac", 2, 0, 0.01), steps=1)
    with Experiment(config, tmp_path / "run") as experiment:
        learner: Any = experiment.learner
        learner.train.groups["actor"].optimizer.frozen[1] = True
        rows = judged(experiment, "gym:Pendulum-v1", "sac", episodes=1)
    append(tmp_path / "new" / "rows.jsonl", rows)
    good, bad = rows_of(tmp_path / "new" / "rows.jsonl")
    assert type(good["score"]) is float and "error" not in good
    assert bad["score"] is None and "frozen" in bad["error"] and read(tmp_path / "new" / "rows.jsonl") == rows


def test_the_list_names_commands_that_exist():
    modules = [line.split()[2] for line in RECIPES]
    assert all(line.startswith("python -m ") for line in RECIPES)
    files = Path(sys.modules["tutelage.recipes.names"].__file__ or "").parent.glob("*.py")
    runnable = {f"tutelage.recipes.{path.stem}" for path in files if "    results: Path | None = None" in path.read_text()}
    assert set(modules) == runnable
