"""The README: its numbers are the results', its Python compiles, its commands exist."""

import json
import re
import shlex
from pathlib import Path

import tyro

from tutelage import cli
from tutelage.experiment.config import ALGORITHMS, PLANNERS, STAGES, PlanConfig, TextRunConfig
from tutelage.recipes.rows import RESULTS
from tutelage.recipes.tables import MARK, TABLES, render, table_of
from tutelage.verbs import train_options

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_number_is_rendered_from_the_results() -> None:
    assert render(README) == README, "run: python -m tutelage.recipes.tables README.md"
    shown = {found[1] for found in MARK.findall(README)}
    for page in (Path(__file__).parents[1] / "docs").glob("*.md"):
        shown |= set(re.findall(r"```\{results\} (\w+)", page.read_text()))
    assert shown == {name for name in TABLES if (RESULTS / f"{name}.jsonl").exists()}
    assert {path.stem for path in RESULTS.glob("*.jsonl")} <= set(TABLES)


def test_a_changed_result_changes_the_page(tmp_path: Path) -> None:
    for name in TABLES:
        (tmp_path / f"{name}.jsonl").write_text("")
    row = '{"task": "gym:Pendulum-v1", "method": "pebble-100", "seed": 0, "steps": 7000, "score": null, "seconds": 66.0, '
    row += '"hardware": "h", "commit": "c", "error": "e"}'
    (tmp_path / "pendulum.jsonl").write_text(row + "\n" + row.replace("null", "-151.4").replace('"error": "e"', '"error": null') + "\n")
    assert "| gym:Pendulum-v1 | pebble-100 | 7,000 | -151 | failed, -151 | 1.1 | c |" in render(README, tmp_path)


def test_the_commands_exist() -> None:
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[0] != "tutelage":
                continue
            assert words[1] in cli.VERBS
            if words[1] == "train" and words[2] in PLANNERS:
                assert tyro.cli(train_options(PLANNERS[words[2]].config, PlanConfig), args=words[3:]).game
            elif words[1] == "train" and words[2] in STAGES:
                assert tyro.cli(train_options(STAGES[words[2]].config, TextRunConfig), args=words[3:]).data
            elif words[1] == "train":
                assert tyro.cli(train_options(ALGORITHMS[words[2]].config), args=words[3:]).steps > 0


def test_the_python_compiles() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target


def test_a_table_of_texts_has_every_seed_and_the_medians_of_the_rest(tmp_path: Path) -> None:
    rows = [
        {"task": "text:valence", "method": "dpo", "seed": s, "score": x, "kl": k, "seconds": 30.0, "hardware": "h", "commit": "c"}
        for s, x, k in ((10, 0.9, 1.0), (11, 0.8, 3.0), (12, None, 2.0))
    ]
    (tmp_path / "language.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert table_of(tmp_path / "language.jsonl").splitlines()[2:] == [
        "| text:valence | dpo | 0.850 | 0.900, 0.800, failed | kl 2 | 0.5 | c |"
    ]
