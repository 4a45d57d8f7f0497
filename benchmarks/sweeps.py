"""A sweep of value iteration beside scipy's sparse product: `.venv/bin/python benchmarks/sweeps.py`; scipy comes with the extra `control`.

Million-state worlds in float32. Ours is the whole sweep (backup, maximum over actions, largest change); scipy's is its product of the same
matrix and vector alone, to which a sweep would have to add the rest. The contestants take turns (A B A B), each with each number of
threads that is asked for; a row is the median of its better one. Rows are those of run.py, in results/speed.jsonl.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from run import OURS, RESULTS, Row
from scipy import sparse
from torch import Generator

from tutelage.games.finite import FiniteMDP
from tutelage.games.grids import random_grid
from tutelage.learn.tabular.value_iteration import Config, ValueIteration

SIDE, SLIP, WALLS = 1000, 0.2, 0.1
STATES, BRANCHING = 250_000, 5
PER_TURN = 10
"""Sweeps in a turn: planning sweeps again and again, and what another contestant left in the caches is not its business."""
MOST_MILLISECONDS = 2.0
"""What issue 3 asks of a compiled sweep over the grid."""


def scattered() -> FiniteMDP:
    """A world without any order: four actions, each to five states anywhere."""
    generator = Generator().manual_seed(0)
    pairs = 4 * STATES
    count = pairs * BRANCHING
    probability = torch.rand(pairs, BRANCHING, generator=generator, dtype=torch.float64)
    return FiniteMDP(
        STATES,
        4,
        torch.arange(pairs + 1) * BRANCHING,
        torch.randint(STATES, (count,), generator=generator, dtype=torch.int32),
        (probability / probability.sum(1, keepdim=True)).flatten(),
        torch.randn(pairs, 1, generator=generator, dtype=torch.float64).expand(-1, BRANCHING).flatten(),
        torch.zeros(count, dtype=torch.bool),
        torch.full((STATES,), 1.0 / STATES, dtype=torch.float64),
        name="a scattered world",
    )


def contestants() -> dict[tuple[str, str, str], Callable[[], object]]:
    """(measure, library, variant) -> one sweep, or one product."""
    grid = random_grid(SIDE, SIDE, walls=WALLS, slip=SLIP)
    found: dict[tuple[str, str, str], Callable[[], object]] = {}
    for variant in ("compiled", "eager"):
        found["sweep-grid", OURS, variant] = ValueIteration(Config(precision="float32", compile=variant == "compiled"), grid).sweep
    for measure, mdp in (("sweep-grid", grid.mdp), ("sweep-scattered", scattered())):
        planner = ValueIteration(Config(precision="float32"), mdp)
        found[measure, OURS, "arrays"] = planner.sweep
        P = mdp.transition(torch.float32)
        matrix = sparse.csr_matrix((P.values().numpy(), P.col_indices().numpy(), P.crow_indices().numpy()), P.shape)
        vector = torch.rand(mdp.states, generator=Generator().manual_seed(1)).numpy()
        found[measure, "scipy", "product"] = lambda matrix=matrix, vector=vector: matrix @ vector
    return found


def main() -> None:
    """Measure, print, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant (default: 15)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to choose from (default: 1 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to (default: benchmarks/results/speed.jsonl)")
    options = parser.parse_args()
    console = Console()
    work = contestants()
    seconds: dict[tuple[tuple[str, str, str], int], list[float]] = {(key, n): [] for key in work for n in options.threads}
    for n in options.threads:
        torch.set_num_threads(n)
        for sweep in work.values():
            for _ in range(3):  # the first compiles
                sweep()
        for _ in range(options.rounds):
            for key, sweep in work.items():
                began = time.perf_counter()
                for _ in range(PER_TURN):
                    sweep()
                seconds[key, n].append((time.perf_counter() - began) / PER_TURN)
    rows: list[Row] = []
    for measure, library, variant in work:
        own = {n: seconds[(measure, library, variant), n] for n in options.threads}
        best = min(own, key=lambda n: median(own[n]))
        product = {n: seconds[(measure, "scipy", "product"), n] for n in options.threads}
        ratio = median(a / b for a, b in zip(product[best], own[best], strict=True))
        rows.append(Row(measure, library, variant, round(1e3 * median(own[best]), 3), "ms/sweep", round(ratio, 3), best, None, None))
    with options.results.open("a") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    table = Table("measure", "library", "variant", "value", "times scipy's product", "threads")
    for row in rows:
        table.add_row(row.measure, row.library, row.variant, f"{row.value:g} {row.unit}", f"{row.ratio:g}", str(row.threads))
    console.print(table)
    by = {(row.measure, row.library, row.variant): row for row in rows}
    compiled = by["sweep-grid", OURS, "compiled"].value
    met = {f"a compiled sweep over the grid: {compiled:g} ms, at most {MOST_MILLISECONDS:g} wanted": compiled <= MOST_MILLISECONDS}
    for measure in ("sweep-grid", "sweep-scattered"):
        ratio = by[measure, OURS, "arrays"].ratio or 0.0
        met[f"{measure}: a whole sweep on arrays is {ratio:.2f} times as fast as scipy's product, 1 wanted"] = ratio >= 1.0
    for sentence, fulfilled in met.items():
        console.print(f"{'met' if fulfilled else 'MISSED'}: {sentence}", highlight=False)


if __name__ == "__main__":
    main()
