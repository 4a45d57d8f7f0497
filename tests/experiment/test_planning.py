"""A plan as a run: it goes on where it was interrupted, draws its map, and refuses in a sentence."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tutelage.experiment import planning
from tutelage.experiment.checkpoint import CheckpointError
from tutelage.experiment.config import PLANNERS, ConfigError, PlanConfig, from_json, to_json
from tutelage.experiment.log import read_events
from tutelage.experiment.planning import load_plan, make_planner, plan, resume_plan
from tutelage.experiment.run import RunError, read_any_config, read_config
from tutelage.games.spec import GameError
from tutelage.learn.tabular import policy_evaluation, value_iteration

WALL_CLOCK = {"time", "seconds"}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def config_of(name: str) -> PlanConfig:
    return PlanConfig(PLANNERS[name].config(), "grid:lecture", checkpoint_every=3)


def sweeps(run: Path) -> list[tuple[int, float]]:
    return [(event["step"], event["change"]) for event in read_events(run / "events.jsonl") if event["event"] == "sweep"]


@pytest.mark.parametrize("name", PLANNERS)
def test_an_interrupted_plan_ends_with_the_bits_of_one_that_was_not(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    config = config_of(name)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    whole = plan(config, tmp_path / "whole", console=quiet())
    cut = 2 if "policy-iteration" in name else 7  # those need few sweeps
    live = PLANNERS[name].learner.sweep

    def die(self):
        if self.sweeps == cut:
            raise KeyboardInterrupt
        return live(self)

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(PLANNERS[name].learner, "sweep", die)
        plan(config, tmp_path / "cut", console=quiet())
    assert resume_plan(tmp_path / "cut", console=quiet()) == tmp_path / "cut"
    ended: list[torch.Tensor] = []
    for run in (whole, tmp_path / "cut"):
        planner, _ = make_planner(config)
        load_plan(run, planner)
        assert planner.finished
        ended.append(planner.value)
    assert torch.equal(ended[0], ended[1]) and sweeps(whole) == sweeps(tmp_path / "cut")
    restored = [event["step"] for event in read_events(tmp_path / "cut" / "events.jsonl") if event["event"] == "resumed"]
    assert restored == [cut // 3 * 3]


def test_the_lectures_grid_is_drawn_sweep_by_sweep(tmp_path: Path):
    console = quiet()
    config = PlanConfig(value_iteration.Config(horizon=3), "grid:lecture")
    plan(config, tmp_path / "run", show=True, console=console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.index("V_1") < text.index("V_2") < text.index("V_3") and "0.72" in text and "0.78" in text
    assert sorted(path.name for path in (tmp_path / "run" / "sweeps").iterdir()) == [f"sweep-0000{k}.png" for k in (1, 2, 3)]


def test_max_sweeps_ends_a_plan_and_says_so(tmp_path: Path):
    console = quiet()
    plan(PlanConfig(policy_evaluation.Config(), "grid:lecture", max_sweeps=2), tmp_path / "run", console=console)
    assert isinstance(console.file, io.StringIO) and "ended it before the values had settled" in console.file.getvalue()
    assert read_events(tmp_path / "run" / "events.jsonl")[-1]["finished"] is False


def test_what_cannot_be_planned_is_refused(tmp_path: Path):
    with pytest.raises(GameError, match="has no arrays"):
        plan(PlanConfig(value_iteration.Config(), "gird:lecture"), tmp_path / "none", console=quiet())
    assert not (tmp_path / "none").exists()
    with pytest.raises(GameError, match="has no map to draw"):
        plan(PlanConfig(value_iteration.Config(), "mdp:random"), tmp_path / "none", show=True, console=quiet())
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="max_sweeps=0 was given; a plan needs at least 1"):
        PlanConfig(value_iteration.Config(), "grid:lecture", max_sweeps=0)
    run = plan(config_of("value-iteration"), tmp_path / "run", console=quiet())
    with pytest.raises(RunError, match="already holds a run"):
        plan(config_of("value-iteration"), run, console=quiet())
    with pytest.raises(RunError, match="holds a plan of value-iteration; this needs a run that learned by playing"):
        read_config(run)
    assert isinstance(read_any_config(run), PlanConfig)
    other, _ = make_planner(PlanConfig(PLANNERS["policy-iteration"].config(), "grid:lecture"))
    with pytest.raises(CheckpointError, match="does not fit this plan"):
        load_plan(run, other)
    assert planning.load_plan(tmp_path / "nowhere", other) == 0
