"""The pages: they build without a warning, every block runs, every algorithm has its page and its place, no number is typed."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from tutelage import cli
from tutelage.experiment.config import ALGORITHMS, PLANNERS, STAGES, TextRunConfig
from tutelage.verbs import train_options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md")) + sorted((DOCS / "algorithms").glob("*.md"))  # tests/test_tutorials.py runs the tutorials
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
RUNNABLE = {"python", "bash", "text"}  # text is pseudocode

_spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
assert _spec is not None and _spec.loader is not None
pages: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)


def module_of(name: str) -> Path:
    return ROOT / ((PLANNERS | ALGORITHMS | STAGES)[name].config.__module__.replace(".", "/") + ".py")


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "--builder",
        "html",
        str(DOCS),
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    shown = (tmp_path / "algorithms" / "pebble.html").read_text()
    parts = ["Lee, Smith", "segment_length", "Answers to ask for in all", "gym:Pendulum-v1/spin", "class Pebble"]
    for part in [*parts, "def preference_probability"]:
        assert part in re.sub(r"<[^>]+>", "", shown), part
    assert "PEBBLE" in (tmp_path / "landscape.html").read_text()


def test_the_python_of_every_page_runs(tmp_path: Path) -> None:
    blocks = {f"{page.name}, block {i}": text for page in PAGES for i, (kind, text) in enumerate(blocks_of(page)) if kind == "python"}
    assert len(blocks) > 5
    script = "import json, sys\nfor name, text in json.load(sys.stdin).items():\n    exec(compile(text, name, 'exec'), {'__name__': name})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=json.dumps(blocks), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def blocks_of(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for page in PAGES for kind, _ in blocks_of(page)} <= RUNNABLE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_every_page_have_options_that_exist(page: Path) -> None:
    for kind, text in blocks_of(page):
        for line in text.splitlines() if kind == "bash" else []:
            words = shlex.split(line, comments=True)
            if words[0] == "torchrun":
                words = words[words.index("-m") + 1 :]
            assert words[0] == "tutelage" and words[1] in cli.VERBS, line
            if words[1] == "train":
                if words[2] in STAGES:
                    assert tyro.cli(train_options(STAGES[words[2]].config, TextRunConfig), args=words[3:]).model
                    continue
                assert tyro.cli(train_options(ALGORITHMS[words[2]].config), args=words[3:]).steps > 0
            if words[1] == "show":
                assert words[2] in ALGORITHMS | PLANNERS


def test_every_algorithm_has_its_page_with_every_part() -> None:
    assert {path.stem for path in pages.algorithms()} == {page.stem for page in (DOCS / "algorithms").glob("*.md")}
    for path in pages.algorithms():
        text, file = (DOCS / "algorithms" / f"{path.stem}.md").read_text(), path.relative_to(pages.LEARN).as_posix()
        for part in ("facts", "settings", "functions", "equations", "source"):
            assert f"```{{{part}}} {file}\n" in text, f"{path.stem}.md lacks {part}"
        assert f"```{{measured}} {path.stem.replace('_', '-')}\n" in text and "## Pseudocode\n\n```text\n" in text


def test_every_page_is_in_the_contents() -> None:
    listed = set(re.findall(r"^(\w+/\w+|\w+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    pages_there = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")} - {"index"}
    assert listed == {page for page in pages_there if not page.startswith("_build")}


@pytest.mark.parametrize("name", [*PLANNERS, *ALGORITHMS, *STAGES])
def test_every_algorithm_says_where_it_stands(name: str) -> None:
    place = pages.place(module_of(name))
    assert place is not None, f"the header of {module_of(name).name} has no line that begins with Landscape:"
    assert (place.policy == "planning") == (name in PLANNERS)


def test_the_landscape_is_read() -> None:
    assert pages.place(module_of("sac")) == ("deep", "model-free", "off-policy", "online", "continuous")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Landscape: model-based, planning; discrete actions; scale: tabular",
         ("tabular", "model-based", "planning", "planning", "discrete")),
        ("Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep",
         ("deep", "model-free", "on-policy", "online", "continuous and discrete")),
        ("Left out: nothing.", None),
    ],
)  # fmt: skip
def test_the_line_of_the_landscape(line: str, expected: tuple[str, ...] | None, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(f'"""X: what it is.\n\nMore.\n{line}\n"""\n')
    assert pages.place(path) == expected


@pytest.mark.parametrize(
    "line", ["Landscape: model-free, on-policy; discrete actions; scale: deep", "Landscape: free, online", "Landscape deep"]
)
def test_a_line_that_nobody_can_read_is_an_error(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(f'"""X: what it is.\n\n{line}\n"""\n')
    with pytest.raises(ValueError, match=r"x\.py: the line that begins with Landscape:"):
        pages.place(path)


def test_settings_are_the_fields_of_the_config() -> None:
    rows = {name: (default, told) for name, default, told in pages.settings(module_of("sac"))}
    assert list(rows) == list(ALGORITHMS["sac"].config.__dataclass_fields__)
    assert rows["discount"] == ("0.99", "Of the next state's value (paper: 0.99).")
    assert all(told for _, told in rows.values())


def test_results_are_those_of_the_algorithm_and_its_peers(tmp_path: Path) -> None:
    row = {"task": "t", "seed": 0, "steps": 1, "score": 1.0, "seconds": 1.0, "hardware": "h", "commit": "c"}
    methods = ["sac", "discrete-sac", "sac-small/shared", "sacs", "pebble-100"]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row | {"method": method}) + "\n" for method in methods))
    (tmp_path / "speed.jsonl").write_text(json.dumps({"measure": "sac", "value": 2.0}) + "\n" + json.dumps({"measure": "help"}) + "\n")
    assert [found.method for found in pages.rows_of("sac", tmp_path)] == ["sac", "sac-small/shared"]
    assert [found["value"] for found in pages.speeds_of("sac", tmp_path)] == [2.0]
    assert pages.rows_of("ppo", tmp_path) == pages.speeds_of("ppo", tmp_path) == []


def test_no_measured_number_is_typed_into_a_page() -> None:
    for page in (DOCS / "algorithms").glob("*.md"):
        measured = page.read_text().partition("## Measured")[2].partition("## The file")[0]
        assert re.fullmatch(r"\s*```\{measured\} [\w-]+\n```\s*", measured), page.name
