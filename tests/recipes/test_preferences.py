"""The tables of the preference chapter: every method runs small, and the protocol is what the page says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tutelage.experiment.config import ConfigError, RunConfig
from tutelage.experiment.log import read_events
from tutelage.recipes import preference_figures, preferences, preferences_long, reward_learning
from tutelage.recipes.rows import Row, append, read
from tutelage.recipes.tables import table_of

KINDS = {"sac": "sac", "ppo": "ppo", "combined": "pebble"}


def run(task: str, method: str, folder: Path, **changes: Any) -> Path:
    recipe = preferences.Recipe(task, method, scale=0.0005, out=folder / "runs", results=folder / "rows.jsonl", **changes)
    preferences.main(recipe, Console(quiet=True))
    preferences.main(recipe, Console(quiet=True))  # its rows are there: nothing is run again
    [out] = (folder / "runs").iterdir()
    return out


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("christiano:half-cheetah", "christiano-700"),
        *(("christiano:reacher", f"christiano-700-{name}") for name in ("no-ensemble", "no-online-queries", "no-segments", "target")),
        ("dm:walker-walk", "surf-100"),
        ("dm:walker-walk/mistake", "rime-100"),
    ],
)
def test_a_line_of_the_tables_runs_small_and_gives_its_rows_once(task: str, method: str, tmp_path: Path):
    out = run(task, method, tmp_path)
    rows, entry = read(tmp_path / "rows.jsonl"), preferences.TABLE[task, method]
    assert [(row.task, row.method, row.seed) for row in rows] == [(task, method, seed) for seed in range(entry.seeds)]
    events = read_events(out / "events.jsonl")
    last = {event["seed"]: event["mean"] for event in events if event["event"] == "evaluation"}
    assert [row.score for row in rows] == [pytest.approx(last[row.seed], abs=0.01) for row in rows]
    asked = sum(event["event"] == "session" for event in events)
    assert (asked > 0) == (method not in ("ppo", "sac"))


def test_the_papers_sizes_run_small_on_meta_world_and_report_success(tmp_path: Path):
    out = run("metaworld:button-press-v3", "meta-reward-net-100", tmp_path, long=True)
    rows = read(tmp_path / "rows.jsonl")
    assert [row.task for row in rows] == ["metaworld:button-press-v3/full"] * 5
    assert all("success_rate" in event for event in read_events(out / "events.jsonl") if event["event"] == "evaluation")


@pytest.mark.parametrize(
    ("task", "method"),
    [("christiano:hopper", "christiano-350"), ("atari:pong", "christiano-5500-target"), ("dm:walker-walk/skip", "prefppo-500")],
)
def test_the_papers_own_tables_run_small(task: str, method: str, tmp_path: Path):
    recipe = preferences.Recipe(task, method, long=True, scale=1e-5, out=tmp_path / "runs", results=tmp_path / "rows.jsonl")
    preferences.main(recipe, Console(quiet=True))
    assert [row.task for row in read(tmp_path / "rows.jsonl")] == [f"{task}/full"] * preferences.LONG[task, method].seeds
    [out] = (tmp_path / "runs").iterdir()
    assert any(event["event"] == "session" for event in read_events(out / "events.jsonl"))


def test_compiled_lines_compile_the_learner_that_is_taught_and_nothing_else():
    def of(method: str, task: str = "christiano:reacher", **changes: Any) -> Any:
        return preferences.configuration(preferences.Recipe(**changes), task, method).algorithm

    for method, task, name in (("christiano-700", "christiano:reacher", "ppo"), ("meta-reward-net-100", "dm:walker-walk", "sac")):
        plain, compiled = of(method, task), of(method, task, compile=True)
        assert compiled == dataclasses.replace(plain, **{name: dataclasses.replace(getattr(plain, name), compile=True)}) != plain
    assert of("ppo", compile=True) == dataclasses.replace(of("ppo"), compile=True)
    with pytest.raises(ConfigError, match="--compile was given, and tutelage.learn.deep.trpo has no update"):
        of("trpo", "christiano:hopper", compile=True, long=True)


def test_runs_become_pictures_and_errors_of_their_critics(tmp_path: Path):
    runs, out = tmp_path / "runs", tmp_path / "images"
    for method in ("sac", "pebble-100"):
        preferences.main(preferences.Recipe("dm:walker-walk", method, scale=0.0005, out=runs), Console(quiet=True))
    lines = preference_figures.runs_below(runs)
    assert {world: set(methods) for world, methods in lines.items()} == {"dm:walker-walk": {"sac", "pebble-100"}}
    given = preference_figures.Figures(runs, out, errors="dm:walker-walk", results=tmp_path / "errors.jsonl")
    preference_figures.main(given)
    assert (out / "preferences_dm_walker-walk.png").stat().st_size > 10_000
    rows = read(tmp_path / "errors.jsonl")
    assert [(row.task, row.method, row.seed) for row in rows] == [
        ("dm:walker-walk/q-error", method, seed) for method in ("pebble-100", "sac") for seed in range(3)
    ]
    assert all(row.score is not None and 0.0 < row.score < 4.0 for row in rows)


def test_an_error_is_that_of_what_a_reward_can_say():
    target = torch.tensor([0.0, 1.0, 2.0, 5.0])
    values = torch.stack([3.0 * target + 7.0, -target, target[[1, 0, 3, 2]]])
    found = preference_figures.standardized_error(values, target)
    unit = (target - 2.0) / 3.5**0.5
    assert found.tolist() == pytest.approx([0.0, 4.0, float((unit[[1, 0, 3, 2]] - unit).square().mean())], abs=1e-6)


def test_medians_are_held_against_the_reference_and_the_papers(tmp_path: Path):
    row = lambda task, method, seed, score: Row(task, method, seed, 100, score, 60.0, "1 core", "abc")
    rows = [row("dm:walker-walk", "sac", seed, score) for seed, score in enumerate((900.0, 1000.0, 950.0))]
    rows += [row("dm:walker-walk", "surf-100", 0, 475.0), row("dm:walker-walk/mistake/full", "pebble-500", 0, 400.0)]
    rows += [row("dm:walker-walk/full", "sac", 0, 800.0), row("christiano:reacher", "christiano-700", 0, None)]
    append(tmp_path / "preferences.jsonl", rows)
    told = [line.split(" | ") for line in table_of(tmp_path / "preferences.jsonl").splitlines()[2:]]
    assert [(cells[0][2:], cells[1], *cells[3:5]) for cells in told] == [
        ("dm:walker-walk", "sac", "1.00", ""),
        ("dm:walker-walk", "surf-100", "0.50", "0.55"),
        ("dm:walker-walk/mistake/full", "pebble-500", "0.50", "0.82"),
        ("dm:walker-walk/full", "sac", "1.00", ""),
        ("christiano:reacher", "christiano-700", "", ""),
    ]


def test_every_line_of_the_papers_tables_is_a_run_that_can_be_made():
    """Five of everything: a misspelled field or an impossible setting shows here, and not after a day."""
    assert len(preferences.LONG) == 9 * 5 + 4 + 4 * 2 * 6 * 2 + 8 * (1 + 3 + 6) + 7 * (1 + 3 + 5)
    for task, method in preferences.LONG:
        config = preferences.configuration(preferences.Recipe(long=True), task, method)
        assert config.steps * config.copies >= 500_000 and config.seeds in (3, 5), (task, method)
        if config.name not in ("sac", "ppo", "trpo", "a2c"):
            assert config.algorithm.labels == int(method.split("-")[-1] if "christiano" not in method else method.split("-")[1])


def test_the_protocol_is_that_of_the_page():
    for (task, method), entry in preferences.TABLE.items():
        config: RunConfig = preferences.configuration(preferences.Recipe(), task, method)
        kind = method.partition("-1")[0].partition("-7")[0]
        assert config.name == KINDS.get(kind, kind), method
        assert config.steps * config.copies == (500_000 if task.startswith("christiano") else 150_000)
        if config.name not in ("sac", "ppo"):
            assert config.algorithm.labels == int(method.removeprefix(kind).split("-")[1])
        assert config.teacher == (task.partition("/")[2] or "oracle") and config.seeds == entry.seeds
    assert {task.partition("/")[2] for task, _ in preferences.TABLE if task.startswith("dm:")} == {
        "", "mistake", "stoc", "skip", "equal", "myopic",
    }  # fmt: skip
    learners = {entry.algorithm.sac for (task, method), entry in preferences.TABLE.items() if task.startswith("dm:") and method != "sac"}
    assert learners == {preferences.TABLE["dm:walker-walk", "sac"].algorithm}  # the reference learns by the same settings
    assert len(preferences_long.NINE) == 9


def test_each_ablation_changes_what_it_says_and_nothing_else():
    whole: Any = preferences.TABLE["christiano:reacher", "christiano-700"].algorithm
    changed = {
        "random-queries": {"sampler"}, "no-ensemble": {"sampler", "members"}, "no-online-queries": {"online"},
        "no-regularization": {"penalty", "penalty_band"}, "no-segments": {"segment_length"}, "target": {"regress_returns"},
    }  # fmt: skip
    for name, expected in changed.items():
        config: Any = preferences.TABLE["christiano:reacher", f"christiano-700-{name}"].algorithm
        ours, theirs = (dataclasses.asdict(x) | dataclasses.asdict(x.reward_model) for x in (config, whole))
        assert {field for field in ours if field != "reward_model" and ours[field] != theirs[field]} == expected


def test_a_line_that_is_not_there_names_the_nearest():
    with pytest.raises(ConfigError, match="the nearest line is dm:walker-walk with surf-100"):
        preferences.main(preferences.Recipe("dm:walker-walk", "surf-10"))


def test_rewards_are_learned_small_and_each_score_has_its_row(tmp_path: Path):
    recipe = reward_learning.Recipe("reacher", 1, scale=0.1, results=tmp_path / "rows.jsonl")
    for _ in range(2):
        reward_learning.main(recipe, Console(quiet=True))
    rows = {row.method: row.score for row in read(tmp_path / "rows.jsonl")}
    assert set(rows) == {"correlation-70", "surprise-70-error-aware", "surprise-70-plain"} and len(read(tmp_path / "rows.jsonl")) == 3
    assert rows["correlation-70"] is not None and rows["correlation-70"] > 0.5
