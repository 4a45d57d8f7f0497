"""Two processes are one: the same weights to rounding, and a run that loses one of them goes on where it was."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tutelage.experiment.log import read_events

PROGRAM = Path(__file__).with_name("ranks.py")


def program() -> Any:
    spec = importlib.util.spec_from_file_location("ranks_of_a_run", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two(*arguments: str) -> list[tuple[int, str]]:
    """What torchrun does, with one port of its own: both ranks' exit codes and last words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments], stderr=subprocess.PIPE, text=True, env=os.environ | told | {"RANK": str(i)}
        )
        for i in range(2)
    ]
    return [(process.returncode, errors) for process in started for _, errors in [process.communicate(timeout=120)]]


def assert_equal_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0, msg=lambda said, name=name: f"{name}: {said}")


def test_a_run_of_two_processes_survives_the_loss_of_one_and_equals_one(tmp_path: Path):
    (first, said), (second, _) = two("train", str(tmp_path / "two"), "10")
    assert second == -9
    assert first == 2 and "lost another process of the run" in said and "Traceback" not in said
    assert [code for code, _ in two("resume", str(tmp_path / "two"))] == [0, 0]
    module = program()
    module.train_text(module.the_run(), tmp_path / "one")
    assert_equal_weights(*(load_file(tmp_path / name / "model" / "model.safetensors") for name in ("two", "one")))
    events = {name: read_events(tmp_path / name / "events.jsonl") for name in ("two", "one")}
    assert [event["step"] for event in events["two"] if event["event"] == "resumed"] == [8]
    losses = {name: {e["step"]: e["loss"] for e in own if e["event"] == "update"} for name, own in events.items()}
    assert losses["one"].keys() == losses["two"].keys() and len(losses["one"]) == 20
    assert max(abs(losses["one"][step] - losses["two"][step]) for step in losses["one"]) < 1e-5
    assert not list((tmp_path / "two").glob(".rank-*"))
    # The second launch began with learners of every kind.
    assert_equal_weights(load_file(tmp_path / "two" / "learners.safetensors"), module.learners())
