"""The recipes of many agents, small; their tables by hand-made rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tutelage.experiment.config import ConfigError
from tutelage.recipes import many_agents, simple_spread, simple_tag
from tutelage.recipes.many_agents import MEDIAN, METHODS, REFERENCE, TASKS, THESIS, Recipe, configuration, median_adversary
from tutelage.recipes.rows import Row, read
from tutelage.recipes.thesis import FINDINGS, bootstrap, figure, findings_table, thesis_table


def quiet() -> Console:
    return Console(quiet=True)


def row(task: str, method: str, seed: int, score: float | None, steps: int = 500_000) -> Row:
    return Row(task, method, seed, steps, score, 1.0, "h", "c", None if score is not None else "e")


def test_the_twenty_five_rows_are_those_of_the_thesis():
    assert len(METHODS) == 25
    for task in TASKS:
        assert set(THESIS[task]) == set(METHODS)
    soft = configuration(Recipe(), "simple_target/continuous", "soft-matd4-fork/ct-de").algorithm
    assert (soft.scheme, soft.soft, soft.fork, soft.minimum_actor, soft.twin_critics, soft.policy_delay) == (
        "ct-de",
        True,
        True,
        True,
        True,
        2,
    )
    ddpg = configuration(Recipe(full=True), "simple_confuse/discrete", "ddpg/shared")
    assert (ddpg.algorithm.twin_critics, ddpg.algorithm.policy_delay, ddpg.algorithm.target_noise) == (False, 1, 0.0)
    assert (ddpg.steps * ddpg.copies, ddpg.seeds) == (2_000_000, 5)


@pytest.mark.parametrize(
    ("task", "worlds"), [("simple_target/discrete", [""]), ("simple_confuse/continuous", ["", "/midpoint", "/follower"])]
)
def test_a_row_is_run_once_and_printed_at_three_points(task: str, worlds: list[str], tmp_path: Path):
    results = tmp_path / "rows.jsonl"
    recipe = Recipe(task, "soft-matd3/ct-de", seed=4, scale=0.0008, out=tmp_path / "runs", results=results)
    many_agents.main(recipe, quiet())
    rows = read(results)
    found = {(r.task.removeprefix(task), r.steps, r.seed) for r in rows}
    assert found == {("", steps, seed) for steps in (200, 300, 400) for seed in (4, 5)} | {(w, 400, s) for w in worlds for s in (4, 5)}
    assert all(r.method == "soft-matd3/ct-de" and r.score is not None and r.seconds > 0.0 for r in rows)
    many_agents.main(recipe, quiet())
    assert read(results) == rows


def test_the_median_adversary_is_that_of_the_middle_row_and_seed():
    task, names = "simple_confuse/discrete", list(METHODS)
    rows = [row(task, method, seed, 10.0 * (i * 7 % 25) + seed) for i, method in enumerate(names) for seed in (4, 5, 6)]
    [middle] = [method for i, method in enumerate(names) if i * 7 % 25 == 12]
    assert median_adversary(rows, task, 500_000) == (middle, 5)
    rows += [row(task, names[0], 4, 999.0, 250_000), row("other", middle, 0, 1.0)]
    assert median_adversary([r for r in rows if (r.method, r.seed) != (middle, 5)], task, 500_000) == (middle, 4)
    with pytest.raises(ConfigError, match=f"needs all 25 rows at 500,000 steps, of which 1 are missing: {names[0]}"):
        median_adversary([r for r in rows if r.method != names[0] or r.steps < 500_000], task, 500_000)


def test_cooperators_meet_the_median_adversary_when_all_rows_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task, results = "simple_confuse/continuous", tmp_path / "rows.jsonl"
    few = {name: METHODS[name] for name in ("matd3/ct-de", "td3/shared", "ddpg/concurrent")}
    monkeypatch.setattr(many_agents, "METHODS", few)
    recipe = Recipe(task, scale=0.0008, out=tmp_path / "runs", results=results)
    for method in list(few)[:2]:
        many_agents.main(replace(recipe, method=method), quiet())
    with pytest.raises(ConfigError, match="of which 1 are missing: ddpg/concurrent"):
        many_agents.main(replace(recipe, panel=True), quiet())
    many_agents.main(replace(recipe, method="ddpg/concurrent"), quiet())
    many_agents.main(replace(recipe, panel=True), quiet())
    rows = read(results)
    met = [r for r in rows if r.task == f"{task}/{MEDIAN}"]
    assert [(r.method, r.seed, r.steps) for r in met] == [(method, seed, 400) for method in few for seed in (0, 1)]
    middle, seed = median_adversary(rows, task, 400)  # who meets in it what it learned beside
    own = {r.seed: r.score for r in rows if (r.task, r.method, r.steps) == (task, middle, 400)}
    assert [r.score for r in met if (r.method, r.seed) == (middle, seed)] == [pytest.approx(own[seed], abs=0.02)]
    many_agents.main(replace(recipe, panel=True), quiet())
    assert read(results) == rows
    with pytest.raises(ConfigError, match="the run of matd3/ct-de was expected in .*elsewhere"):
        many_agents.main(replace(recipe, panel=True, out=tmp_path / "elsewhere"), quiet())
    with pytest.raises(ConfigError, match="--panel is for whole tables of Simple Confuse"):
        many_agents.main(replace(recipe, panel=True, task="simple_target/discrete"), quiet())


def test_the_reference_is_what_scripts_reach(tmp_path: Path):
    for task in ("simple_target/continuous", "simple_confuse/discrete"):
        many_agents.main(Recipe(task, REFERENCE, scale=0.5, results=tmp_path / "rows.jsonl"), quiet())
        many_agents.main(Recipe(task, REFERENCE, scale=0.5, results=tmp_path / "rows.jsonl"), quiet())
    scores = {r.task: r.score for r in read(tmp_path / "rows.jsonl")}
    assert set(scores) == {"simple_target/continuous", "simple_confuse/discrete/midpoint", "simple_confuse/discrete/follower"}
    assert len(read(tmp_path / "rows.jsonl")) == 3
    assert all(score is not None and score > 20.0 for score in scores.values())


@pytest.mark.parametrize(
    ("what", "given", "nearest"), [("task", "simple_targt/discrete", "simple_target/discrete"), ("method", "td3/ct-de", "matd3/ct-de")]
)
def test_what_the_tables_do_not_have(what: str, given: str, nearest: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"{what}={given} was given; the nearest that the tables have is {nearest}"):
        many_agents.main(Recipe(**{what: given}, scale=0.001, out=tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["mappo", "matd3"])
def test_simple_spread_is_judged_in_mpe2(method: str, tmp_path: Path):
    results = tmp_path / "rows.jsonl"
    recipe = simple_spread.Recipe(method, seed=7, scale=0.0005, out=tmp_path / "runs", results=results)  # type: ignore[arg-type]
    simple_spread.main(recipe, quiet())
    rows = read(results)
    assert [(r.task, r.method, r.seed) for r in rows] == [("mpe2:simple_spread_v3", method, 7), ("mpe2:simple_spread_v3", method, 8)]
    assert all(r.score is not None and -300.0 < r.score < -5.0 for r in rows)
    simple_spread.main(recipe, quiet())
    assert read(results) == rows


@pytest.mark.parametrize(("side", "method"), [("predators", "matd3"), ("prey", "mappo")])
def test_simple_tag_is_judged_in_mpe2_against_a_script(side: str, method: str, tmp_path: Path):
    results = tmp_path / "rows.jsonl"
    recipe = simple_tag.Recipe(side, method, seed=7, scale=0.0005, out=tmp_path / "runs", results=results)  # type: ignore[arg-type]
    for own in (recipe, replace(recipe, method="scripted")) * 2:
        simple_tag.main(own, quiet())
    task = f"mpe2:simple_tag_v3/{side}"
    rows = read(results)
    assert [(r.task, r.method, r.seed) for r in rows] == [(task, method, 7), (task, method, 8), (task, "scripted", 0)]
    assert all(r.score is not None and (r.score >= 0.0) == (side == "predators") for r in rows)


def test_a_table_prints_every_run_of_few_seeds_and_the_spread_of_many():
    task = "simple_confuse/continuous"
    few = [row(task, "matd4/ct-de", s, 100.0 + s) for s in (0, 1)] + [row(task, "td3/shared", 0, None), row(task, "td3/shared", 1, 90.0)]
    few += [row(f"{task}/{world}", "matd4/ct-de", s, score) for world, score in (("midpoint", 60.0), ("follower", 80.0)) for s in (0, 1)]
    few += [row(f"{task}/midpoint", REFERENCE, 0, 103.0, 0)]
    lines = thesis_table(task, few).splitlines()
    assert lines[0] == f"| {task} | step 500 | against the frozen panel | thesis, steps 1000, 1500, 2000 |"
    assert lines[2] == "| matd4/ct-de | 100, 101 | 70, 70 | 122 ± 33, 131 ± 30, 134 ± 27 |"
    assert lines[3].startswith("| td3/shared | 90 | - | 99 ± 128")
    assert lines[-1] == "Hand-written policies reach 103 against the midpoint."
    many = [row("simple_target/discrete", "td3/shared", s, float(s)) for s in range(5)]
    assert "| td3/shared | 2 ± 3 |" in thesis_table("simple_target/discrete", many)  # twice sqrt(2.5)
    assert thesis_table("simple_target/continuous", few) == ""


def test_a_finding_is_a_difference_of_families_with_its_interval():
    finding = FINDINGS[0]
    rows = [row(finding.tasks[0], method, s, 100.0 + s) for method in finding.better for s in (0, 1)]
    assert bootstrap(finding, rows) is None  # the other family is missing
    rows += [row(finding.tasks[0], method, s, 10.0 + s) for method in finding.worse for s in (0, 1)]
    middle, low, high = bootstrap(finding, rows) or (0.0, 0.0, 0.0)
    assert middle == pytest.approx(90.0) and 89.0 <= low <= 90.0 <= high <= 91.0
    assert f"| {finding.claim} | 90 |" in findings_table(rows) and "| agrees |" in findings_table(rows)
    turned = [Row(**{**r.__dict__, "score": -(r.score or 0.0)}) for r in rows]
    assert "| disagrees |" in findings_table(turned)
    # Rows are drawn too: two rows of one family far apart make the interval wide, though seeds agree.
    apart = [Row(**{**r.__dict__, "score": 200.0}) if r.method == finding.better[0] else r for r in rows]
    _, low, high = bootstrap(finding, apart) or (0.0, 0.0, 0.0)
    assert high - low > 40.0


def test_the_figure_has_a_line_for_each_row(tmp_path: Path):
    lines = {method: [(0.0, 1.0), (500.0, float(i))] for i, method in enumerate(METHODS)}
    path = figure("simple_target/continuous", lines, tmp_path)
    from matplotlib.image import imread

    assert path.name == "simple_target_continuous.png" and np.asarray(imread(path)).shape[0] > 400
