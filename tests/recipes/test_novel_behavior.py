"""Behavior that no game pays for: the hand-written comparisons are right, and the whole path over HTTP has run."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.experiment.log import read_events
from tutelage.feedback.store import Store, file_url
from tutelage.games import make as addresses
from tutelage.games.atari import AtariGame
from tutelage.recipes.enduro import pace
from tutelage.recipes.novel_behavior import WORLDS, Recipe, backflip, configuration, front_foot_height, one_leg

mujoco: Any = importlib.import_module("mujoco")
ROOT = Path(__file__).parents[2]
make: Any = addresses.make  # Any: a test knows which world it made


def test_a_backflip_is_backward_spin():
    observation, action = torch.zeros(2, 11), torch.ones(2, 3)
    observation[:, 0], observation[:, 5], observation[:, 7] = 1.5, 2.0, torch.tensor([-3.0, 3.0])
    observation[:, 8:11] = torch.tensor([1.0, -2.0, 4.0])
    # 3 (1 + 0.3 1.5 + 0.1 3 - 0.05 2) = 3 * 1.65
    assert backflip(observation, action).tolist() == pytest.approx([4.95, -4.95])


def test_the_front_foot_is_where_the_simulator_has_it():
    game = make(WORLDS["one-leg"][0], 1)
    game.reset(seed=[3])
    core = game._envs[0].unwrapped
    foot = mujoco.mj_name2id(core.model, mujoco.mjtObj.mjOBJ_GEOM, "ffoot")
    chance = np.random.default_rng(0)
    for _ in range(50):
        observation: Any = game.step(torch.tensor(chance.uniform(-1, 1, (1, 6)), dtype=torch.float32)).observation
        mujoco.mj_kinematics(core.model, core.data)
        assert float(front_foot_height(observation)[0]) == pytest.approx(core.data.geom_xpos[foot][2], abs=1e-5)
    game.close()


def test_on_one_leg_speed_counts_while_the_foot_is_up():
    standing, lifted = torch.zeros(17), torch.zeros(17)
    standing[0], lifted[0] = -0.1, 0.3
    for observation in (standing, lifted):
        observation[8] = 4.0
    assert one_leg(torch.stack([standing, lifted]), torch.zeros(2, 6)).tolist() == [0.0, 4.0]


def test_the_endless_hopper_does_not_end_where_it_falls():
    game = make(WORLDS["backflip"][0], 1)
    game.reset(seed=[0])
    ended = [bool(game.step(torch.tensor([[1.0, -1.0, 1.0]])).boundary[0]) for _ in range(300)]
    assert not any(ended) and game.snapshot(0) is not None
    game.close()


def test_the_budgets_are_the_papers():
    assert {task: novel.labels for task, novel in WORLDS.items()} == {"backflip": 900, "one-leg": 800, "enduro": 1_300}
    for task, novel in WORLDS.items():
        config = configuration(Recipe(task))  # type: ignore[arg-type]
        assert config.algorithm.labels == novel.labels and config.steps * config.copies == novel.steps
    assert [configuration(Recipe(task, taught=False)).name for task in WORLDS] == ["sac", "sac", "a2c"]  # type: ignore[arg-type]


def test_enduro_pays_for_the_others_speed():
    assert pace([0, 6, -6, -24, 24, 40]) == [1.0, 0.75, 0.75, 0.0, 0.0, 0.0]
    game = make(f"{WORLDS['enduro'].game}?max_frames=1200", 1)
    game.reset(seed=[0])
    own, others, fire = lambda: int(game.memory(0)[22]), 24, game.action_names.index("FIRE")
    paid = [float(game.step(torch.tensor([fire])).reward[0]) for _ in range(9)]
    assert 0.0 < paid[0] < paid[-1] < 1.0 and own() < others  # it is picking up speed
    for _ in range(60):  # the motor holds the speed that it has; a touch of it now and then
        step = game.step(torch.tensor([fire if own() < others else 0]))
    passed = sum(float(AtariGame.step(game, torch.tensor([fire if own() < others else 0])).reward[0]) for _ in range(100))
    assert own() == others and float(step.reward[0]) == 1.0 and passed == 0.0  # nobody falls behind
    for _ in range(200):
        step = game.step(torch.tensor([fire]))
        assert float(step.reward[0]) == pytest.approx(max(1.0 - abs(own() - others) / others, 0.0))
        if bool(step.boundary[0]):
            break
    assert bool(step.boundary[0]) and not bool(step.terminated[0])
    game.close()


@pytest.mark.parametrize(("task", "scale", "method"), [("backflip", "0.005", "pebble-8"), ("enduro", "0.001", "christiano-8")])
def test_a_script_teaches_over_http(task: str, scale: str, method: str, tmp_path: Path):
    words = ["--task", task, "--scale", scale, "--errors", "0.1", "--ties", "0.2"]
    words += ["--out", str(tmp_path), "--results", str(tmp_path / "rows.jsonl")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tutelage.recipes.novel_behavior", *words]
    for _ in range(2):  # the second time it is all there
        told = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
        assert told.returncode == 0, told.stderr[-2000:]
    (row,) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert row["task"] == f"{task}/hidden" and row["method"] == f"{method}-errors01-ties02" and row["score"] >= 0.0
    with Store(file_url(run / "feedback.sqlite")) as store:
        answers = [judgement.answer for judgement in store.judgements()]
    assert len(answers) >= 4 and set(answers) <= {"left", "right", "tie"}
    events = read_events(run / "events.jsonl")
    assert sum(event["event"] == "session" for event in events) >= 1
    for counted in [event["counted"] for event in events if event["event"] == "rotations"]:
        assert task == "backflip" and len(counted) == 2 and math.fsum(counted) / 2 == row["score"]
