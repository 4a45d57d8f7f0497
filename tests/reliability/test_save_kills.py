"""kill -9 of a process that is saving: the old or the new checkpoint loads, whole."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tutelage.experiment.checkpoint import Checkpoints

KILLS = int(os.environ.get("TUTELAGE_SAVE_KILLS", "3"))
SAVER = Path(__file__).with_name("saver.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SAVER.parents[2])}

spec = importlib.util.spec_from_file_location("saver", SAVER)
assert spec is not None and spec.loader is not None
saver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saver)


def test_the_old_or_the_new_checkpoint_loads(tmp_path: Path, record_property: Callable[[str, object], None]):
    chance = random.Random(5)
    counts = dict.fromkeys(("bit_equal", "started_past_zero", "half_written", "new"), 0)
    server = subprocess.Popen(
        [sys.executable, str(SAVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=ENVIRONMENT
    )
    assert server.stdin is not None and server.stdout is not None
    acknowledged, seconds = 0, 0.02
    for kill in range(KILLS):
        kept = 1 + kill % 2
        server.stdin.write(f"{tmp_path} {acknowledged + 1} {kept}\n")
        saves = []
        child = None
        wanted = chance.randrange(1, 4) if kill else 1
        while child is None or len(saves) < wanted:
            word, number = server.stdout.readline().split()
            if word == "child":
                child = int(number)
            else:
                saves.append(time.perf_counter())
                acknowledged = int(number)
        if len(saves) > 1:
            seconds = 0.8 * seconds + 0.2 * (saves[-1] - saves[-2])
        time.sleep(chance.uniform(0.0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        while (line := server.stdout.readline()) != "dead\n":
            acknowledged = int(line.split()[1])

        counts["half_written"] += any(path.name.startswith(".partial-") for path in tmp_path.rglob("*"))
        loaded = Checkpoints(tmp_path, kept).load_newest()
        counts["started_past_zero"] += loaded.step > 0
        counts["new"] += loaded.step > acknowledged
        expected = saver.state(loaded.step)
        rows = saver.chunks(loaded.step)
        whole = (
            loaded.step in (acknowledged, acknowledged + 1)
            and loaded.state["nested"] == expected["nested"]
            and torch.equal(loaded.state["weights"], expected["weights"])
            and len(loaded.chunks) == len(rows)
            and all(torch.equal(a["rows"], row["rows"]) for (a, _), (_, _, row, _) in zip(loaded.chunks, rows, strict=True))
            and all(torch.equal(b["reward"], paid["reward"]) for (_, b), (*_, paid) in zip(loaded.chunks, rows, strict=True))
        )
        counts["bit_equal"] += whole and not loaded.passed_over
        acknowledged = loaded.step
    server.stdin.close()
    assert server.wait(30) == 0
    for name, value in {"kills": KILLS, **counts}.items():
        record_property(name, value)
    assert counts["bit_equal"] == KILLS
    assert counts["half_written"] >= KILLS // 6, "the kills missed the saving"
    # Nothing but the newest checkpoints is kept: the next save clears away what the killed ones left.
    Checkpoints(tmp_path, 1).save(acknowledged + 1, saver.state(acknowledged + 1), saver.Slots(acknowledged + 1))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert len(list((tmp_path / "replay").iterdir())) == 2 * len(saver.chunks(acknowledged + 1))
