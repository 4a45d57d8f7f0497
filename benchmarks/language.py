"""Language models beside TRL and transformers, in one run: `.venv/bin/python benchmarks/language.py --only sft --rounds 3`.

A GPT-2 of 6 layers, 384 wide, 8,192 words; prompts and answers of 64 tokens, batches of 8; one thread unless told. On a GPU
(`--device cuda`): 124 million weights in bf16. Workers take turns (A B A B) as in run.py, whose environments and rows are used; a row also
holds the largest memory. TRL 1.16 has no PPO any more, so that PPO is measured beside TRL 1.12's.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from language_work import BATCH, LENGTH, SAMPLES
from measures import append
from rich.console import Console
from rich.table import Table
from run import Row, Worker, build

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "language_speed.jsonl"


@dataclass(frozen=True)
class Measure:
    """One kind of work, and what it is held to."""

    peer: str
    environment: str | None
    """Of the peer; None: ours."""
    tokens: int
    """In one unit; 0: the unit is an iteration, and its value seconds."""
    per_turn: int
    least: float
    """Times the peer's speed; of "dpo-50k", the most memory over the peer's."""


TEXT = 2 * LENGTH
MEASURES = {
    "sft": Measure("trl 1.16", "trl", BATCH * TEXT, 4, 1.3),
    "reward-model": Measure("trl 1.16", "trl", 2 * BATCH * TEXT, 2, 1.1),
    "dpo": Measure("trl 1.16", "trl", 2 * BATCH * TEXT, 2, 1.25),
    "dpo-cached": Measure("trl 1.16", "trl", 2 * 64 * TEXT, 1, 1.5),
    "dpo-50k": Measure("trl 1.16", "trl", 2 * BATCH * TEXT, 1, 0.6),
    "ppo-iteration": Measure("trl 1.12", "trl_ppo", 0, 1, 1.25),
    "sampling": Measure("transformers", None, SAMPLES * LENGTH, 1, 1.5),
}


class Measured(Worker):
    """A worker that also says how much memory it took."""

    peak_mb = 0.0

    def _answer(self) -> str:
        line = super()._answer()
        if line.startswith("{"):
            self.peak_mb = json.loads(line)["peak_mb"]
        return line


def measure(name: str, rounds: int, threads: int, device: str, console: Console) -> list[dict[str, Any]]:
    """Both contestants of one measure, in turns."""
    work = MEASURES[name]
    ours = [sys.executable, str(HERE / "language_ours.py")]
    other = (
        [*ours, "generate"]
        if work.environment is None
        else [str(build(work.environment, console)), str(HERE / "peers" / "trl_language.py"), name]
    )
    workers = {"tutelage": Measured([*ours, name, device], threads), work.peer: Measured([*other, device], threads)}
    seconds: dict[str, list[float]] = {library: [] for library in workers}
    for number in range(rounds):
        for library, worker in workers.items():
            with console.status(f"{name}: round {number + 1} of {rounds}: {library}"):
                seconds[library].append(worker.seconds(work.per_turn) / work.per_turn)
    ratio = median(theirs / own for theirs, own in zip(seconds[work.peer], seconds["tutelage"], strict=True))
    rows: list[dict[str, Any]] = []
    for library, own in seconds.items():
        value = work.tokens / median(own) if work.tokens else median(own)
        unit = "tokens per second" if work.tokens else "seconds"
        row = Row(name, library, device, round(value, 3), unit, round(ratio, 3) if library == "tutelage" else None, threads, None, None)
        rows.append(asdict(row) | {"peak_mb": round(workers[library].peak_mb, 1)})
    for worker in workers.values():
        worker.close()
    return rows


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to")
    given = parser.parse_args()
    console = Console()
    table = Table("measure", "library", "value", "unit", "ratio", "at least", "peak MB")
    for name in given.only:
        rows = measure(name, given.rounds, given.threads, given.device, console)
        append(given.results, rows)
        for row in rows:
            shown = "" if row["ratio"] is None else str(row["ratio"])
            table.add_row(
                name, str(row["library"]), f"{row['value']:,.0f}", str(row["unit"]), shown, str(MEASURES[name].least), str(row["peak_mb"])
            )
    console.print(table)


if __name__ == "__main__":
    main()
