"""Processes that do nothing but save: each line `DIRECTORY FIRST KEPT` on the input starts one, which says `saved STEP` each time.

Children are forked, because importing torch takes longer than dying.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.experience.replay import Replay
from tutelage.experiment.checkpoint import Checkpoints

CHUNKS, STEPS_PER_CHUNK = 4, 3


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((20_000,), float(step)), "nested": [{"words": [str(step)] * 100}]}


def chunks(step: int) -> list[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
    """As a replay gives them: full chunks stay as they are, one is filling, rewards are always new."""
    number = step // STEPS_PER_CHUNK
    full = [(i, False, torch.full((500,), float(i))) for i in range(max(number - CHUNKS, 0), number)]
    rows = [*full, (number, True, torch.full((500,), -float(step)))]
    return [(i, growing, {"rows": row}, {"reward": torch.full((500,), step + 0.5 + place)}) for place, (i, growing, row) in enumerate(rows)]


class Slots(Replay):
    """A replay of which only `chunks` will be asked."""

    def __init__(self, step: int) -> None:
        self.step = step

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        yield from chunks(self.step)


def save_forever(run: Path, first: int, kept: int) -> None:
    checkpoints = Checkpoints(run, kept)
    step, again = first, False
    while True:
        checkpoints.save(step, state(step), Slots(step))
        os.write(1, f"saved {step}\n".encode())
        # Now and then the same step twice, as a run does that came back from an older checkpoint.
        again = step % 4 == 0 and not again
        step += not again


if __name__ == "__main__":
    while line := sys.stdin.readline():
        directory, first, kept = line.split()
        child = os.fork()
        if not child:
            save_forever(Path(directory), int(first), int(kept))
        os.write(1, f"child {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\n")
