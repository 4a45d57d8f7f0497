"""Single-file editions: they run where the package is not, and learn the same bits."""

import ast
import builtins
import dataclasses
import json
import os
import re
import subprocess
import symtable
import sys
from pathlib import Path
from typing import Any

import pytest

from tutelage import cli
from tutelage.experiment import alone
from tutelage.experiment.config import ALGORITHMS, PLANNERS, ConfigError, RunConfig
from tutelage.experiment.edition import Edition, show
from tutelage.experiment.run import Experiment
from tutelage.games.worlds import make_world

SMALL: dict[str, Any] = {
    "hidden": (16, 16), "batch_size": 16, "random_steps": 40, "window": 32, "epochs": 2, "value_epochs": 2, "critic_steps": 2,
    "sac.hidden": (16, 16), "sac.batch_size": 16, "sac.random_steps": 40, "pretraining_steps": 60, "session_every": 40, "session_labels": 6,
    "update_every": 20, "labels": 12, "segment_length": 10, "poll_every": 5, "reward_model.epochs": 3, "reward_model.hidden": (16,),
    "initial_steps": 50, "trpo.window": 32, "ppo.window": 32, "meta.every": 30,
}  # fmt: skip
"""Settings under which something is learned at once; an algorithm takes those that it has."""
CONTINUOUS = {"sac", "td3", "ddpg", *(name for name, algorithm in ALGORITHMS.items() if algorithm.taught)}
WORLD = "grid:lecture?slip=0.2"
STEPS, SEED = 230, 3  # an episode of Pendulum, and some of the next

# Runs every edition in one process that can import neither the package nor what checks its shapes, and prints what each printed last.
FOREIGN = """
import contextlib, io, json, runpy, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tutelage", "jaxtyping", "beartype"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Forbidden())
last = {}
for name, *arguments in json.load(sys.stdin):
    sys.argv = arguments
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(arguments[0], run_name="__main__")
    last[name] = said.getvalue().splitlines()[-1]
print(json.dumps(last))
"""


def settings_of(name: str) -> dict[str, Any]:
    return {setting: value for setting, value in SMALL.items() if setting in alone.names_of(ALGORITHMS[name].config())}


def game_of(name: str) -> str:
    if ".tabular." in ALGORITHMS[name].config.__module__:
        return "gym:FrozenLake-v1"
    if ALGORITHMS[name].many:
        return "particle:simple_spread?agents=2"
    return "gym:Pendulum-v1" if name in CONTINUOUS else "gym:CartPole-v1"


@pytest.fixture(scope="module")
def learned_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("editions")
    commands: list[list[str]] = []
    for name in [*ALGORITHMS, *PLANNERS]:
        path = folder / f"{name}_edition.py"
        path.write_text(show(name))
        given = ["--game", WORLD]
        if name in ALGORITHMS:
            settings = [f"{setting}={value!r}" for setting, value in settings_of(name).items()]
            given = ["--game", game_of(name), "--steps", str(STEPS), "--seed", str(SEED), "--set", *settings]
        commands.append([name, str(path), *given])
    scrubbed = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", FOREIGN]
    done = subprocess.run(command, input=json.dumps(commands), capture_output=True, text=True, timeout=300, env=scrubbed, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_edition_learns_the_bits_of_the_package(name: str, learned_alone: dict[str, str], tmp_path: Path) -> None:
    config = ALGORITHMS[name].config()
    for setting, value in settings_of(name).items():
        config = alone.with_setting(config, setting, repr(value))
    run = RunConfig(config, game_of(name), STEPS, seed=SEED, clips=0, evaluation_episodes=1, checkpoint_every=STEPS)
    metrics: dict[str, Any] = {}
    with Experiment(run, tmp_path / "edition") as experiment:
        update = experiment.learner.update
        experiment.learner.update = lambda *given: (metrics.update(found := update(*given)), found)[1]  # type: ignore[method-assign]
        while not experiment.finished:
            experiment.step()
        assert learned_alone[name] == f"learned {alone.digest(experiment.learner)}"
    assert metrics, "nothing was learned, or this shows nothing"


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planners_edition_finds_the_values_of_the_package(name: str, learned_alone: dict[str, str]) -> None:
    planner = PLANNERS[name].learner(PLANNERS[name].config(), make_world(WORLD))
    while not planner.finished:
        planner.sweep()
    assert planner.sweeps > 1
    assert learned_alone[name] == f"learned {alone.digest(planner)}"


@pytest.mark.parametrize("name", [*ALGORITHMS, *PLANNERS])
def test_an_edition_defines_every_name_once_and_keeps_the_words(name: str) -> None:
    edition = Edition(name)
    text = edition.text()
    assert set(edition.needs()) <= {"torch", "numpy", "gymnasium", *(["safetensors"] if edition.lesson else [])}
    assert not re.search(r"^\s*(from|import) (tutelage|jaxtyping)", text, re.MULTILINE)
    defined = [
        name
        for node in ast.parse(text).body
        for name in ([node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else [])
        or ([target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else [])
    ]
    assert len(defined) == len(set(defined))
    table = symtable.symtable(text, name, "exec")
    known = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()}
    known |= set(dir(builtins)) | {"__name__", "__file__"}
    missing = {symbol.get_name() for part in parts(table) for symbol in part.get_symbols() if symbol.is_global()} - known
    assert missing == set()
    for line in edition.own.lines:  # comments and docstrings of the algorithm
        if '"""' in line or line.lstrip().startswith("#"):
            assert line in text


def parts(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    return [table, *(part for child in table.get_children() for part in parts(child))]


def test_names_that_clash_are_changed_wherever_they_are_mentioned() -> None:
    text = show("pebble")
    assert 'class Config:\n    """Settings of PEBBLE.' in text
    assert 'class SACConfig:\n    """Settings of SAC.' in text
    assert "reward_model: learned_Config = field(default_factory=learned_Config)" in text
    assert "sac: SACConfig = field(default_factory=lambda: SACConfig(" in text


def test_an_edition_leaves_out_what_it_does_not_use() -> None:
    text = show("sac")
    for absent in ("class VectorGame", "def relabel", "def k_center", "class OracleRater", "mujoco"):
        assert absent not in text


def test_settings_come_from_the_command_line() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        kind: str = "none"

    @dataclasses.dataclass(frozen=True)
    class Outer:
        hidden: tuple[int, ...] = ()
        inner: Inner = dataclasses.field(default_factory=Inner)

    config = alone.with_setting(alone.with_setting(Outer(), "hidden", "(3, 4)"), "inner.kind", "gru")
    assert config == Outer((3, 4), Inner("gru"))
    assert alone.names_of(config) == ["hidden", "inner.kind"]


def test_the_verb_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "value-iteration"]) == 0
    assert capsys.readouterr().out == show("value-iteration")


def test_an_unknown_algorithm() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'sacc'; did you mean sac\\?"):
        show("sacc")
