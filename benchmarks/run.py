"""Speed beside the peers, in one run: `make bench`, or `.venv/bin/python benchmarks/run.py --only sac --rounds 3`.

Each peer lives in an environment of its own, built from peers/*.txt under benchmarks/.venvs. Every library is a process that waits
until it is its turn (A B A B), so that whatever else the machine does hits all of them; each gets the number of threads
that it is fastest with. Ratios are medians over rounds of ratios within a round. A product of two 1024 x 1024 matrices takes its
turn as well: the share of the limit is the floating-point operations of the matrix products that the work cannot do
without, per second, over that rate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from measures import FAMILIES, MATRIX, MEASURES, OURS, PEERS, SCRIPTS, append
from rich.console import Console
from rich.table import Table

from tutelage.experiment.fingerprint import commit, hardware

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed.jsonl"
HELP_SECONDS = 0.5


@dataclass(frozen=True)
class Row:
    """A line of results/speed.jsonl."""

    measure: str
    library: str
    variant: str
    value: float
    unit: str
    ratio: float | None
    """Speed over that of the measure's first peer or other reference; None where there is none."""
    threads: int | None
    matrix_gflops: float | None
    share_of_limit: float | None
    hardware: str = field(default_factory=hardware)
    commit: str = field(default_factory=commit)


def build(name: str, console: Console) -> Path:
    """The interpreter of a peer's environment, made when it is missing or its list has changed."""
    listed, place = HERE / "peers" / f"{name}.txt", HERE / ".venvs" / name
    python, done = place / "bin" / "python", place / "installed.txt"
    if not done.exists() or done.read_text() != listed.read_text():
        console.print(f"building {place.relative_to(HERE.parent)} from {listed.relative_to(HERE.parent)}")
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", str(listed)], check=True)
        done.write_text(listed.read_text())
    return python


class Worker:
    """A process that does one kind of work, in turns."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        """Returns when it has warmed up. Raises RuntimeError with its last words when it ends before."""
        self.threads, self._errors = threads, tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by close()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
        self._process = subprocess.Popen(
            [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        while self._answer() != "ready\n":  # what libraries print while they are imported
            pass

    def seconds(self, count: int) -> float:
        """Of `count` units of work."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(json.loads(self._answer())["seconds"])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended:\n{self._errors.read()[-2000:]}")  # pyright: ignore[reportArgumentType]
        return line

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()
        self._errors.close()


def fastest(command: Sequence[str], threads: Sequence[int], count: int) -> Worker:
    """The worker with the best number of threads; the others are closed."""
    workers = [Worker(command, n) for n in threads]
    if len(workers) > 1:
        turns = [[worker.seconds(count) for worker in workers] for _ in range(2)]
        best = [min(own) for own in zip(*turns, strict=True)]
        workers.sort(key=lambda worker: best[threads.index(worker.threads)])
    for worker in workers[1:]:
        worker.close()
    return workers[0]


def measure(name: str, rounds: int, threads: Sequence[int], console: Console) -> list[Row]:
    """All contestants of one measure, in turns."""
    work = MEASURES[name]
    ours, program = [sys.executable, str(HERE / "ours.py")], HERE / "peers"
    commands = {(OURS, variant): [*ours, name, variant] for variant in work.ours}
    for library in work.peers:
        script, *told = SCRIPTS[name, library].split()
        commands[library, "default"] = [str(build(PEERS[library], console)), str(program / script), *told]
    workers: dict[tuple[str, str], Worker] = {}
    matrix = fastest([*ours, "matrix", "eager"], threads, MATRIX.per_block)
    for key, command in commands.items():
        with console.status(f"{name}: {' '.join(key)} warms up"):
            workers[key] = fastest(command, threads, work.per_block)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in workers}
    products: list[float] = []
    for number in range(rounds):
        with console.status(f"{name}: round {number + 1} of {rounds}"):
            products.append(matrix.seconds(MATRIX.per_block))
            for key, worker in workers.items():
                seconds[key].append(worker.seconds(work.per_block) / work.per_block)
    assert MATRIX.flops is not None
    gflops = MATRIX.per_block * MATRIX.flops / median(products) / 1e9
    reference = (work.peers[0], "default") if work.peers else (OURS, work.over)
    rows: list[Row] = []
    for (library, variant), own in seconds.items():
        per_unit = median(own)
        ratio = median(a / b for a, b in zip(seconds[reference], own, strict=True)) if reference in seconds else None
        value = round(1.0 / per_unit if work.rate else per_unit, 3)
        share = None if work.flops is None else round(work.flops / per_unit / 1e9 / gflops, 3)
        ratio = None if ratio is None else round(ratio, 3)
        rows.append(Row(name, library, variant, value, work.unit, ratio, workers[library, variant].threads, round(gflops, 1), share))
    for worker in (matrix, *workers.values()):
        worker.close()
    return rows


def measure_help(rounds: int) -> list[Row]:
    """How long `tutelage --help` takes, from the shell and back."""
    command = [str(Path(sys.executable).with_name("tutelage")), "--help"]
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return [Row("help", OURS, "eager", round(median(taken), 3), "s", None, None, None, None)]


def verdicts(name: str, rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Each target of a measure in words, and whether it was met."""
    if name == "help":
        return [(f"at most {HELP_SECONDS} s", rows[0].value <= HELP_SECONDS)]
    found: list[tuple[str, bool]] = []
    by: Mapping[tuple[str, str], Row] = {(row.library, row.variant): row for row in rows}
    for target in MEASURES[name].targets:
        row = by[OURS, target.variant]
        if target.kind == "share":
            found.append(
                (f"{target.variant}: {row.share_of_limit} of the limit, {target.bound} wanted", (row.share_of_limit or 0.0) >= target.bound)
            )
            continue
        if target.kind == "value":
            found.append((f"{target.variant}: {row.value:g} {row.unit}, {target.bound:g} wanted", row.value >= target.bound))
            continue
        than = by[target.than, "default"] if target.than in MEASURES[name].peers else by[OURS, target.than]
        ratio = (row.ratio or 0.0) / (than.ratio or 1.0)
        found.append((f"{target.variant}: {ratio:.2f} times {target.than}, {target.bound:.3g} wanted", ratio >= target.bound))
    return found


def main() -> None:
    """Measure, print, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[*MEASURES, *FAMILIES, "help"], default=[*MEASURES, "help"], help="measures to take (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each library (default: 7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to choose from (default: 1 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to (default: benchmarks/results/speed.jsonl)")
    options = parser.parse_args()
    console = Console()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for name in (member for given in options.only for member in FAMILIES.get(given, [given])):
        rows = measure_help(options.rounds) if name == "help" else measure(name, options.rounds, options.threads, console)
        append(options.results, map(asdict, rows))
        table = Table("library", "variant", "value", "ratio", "threads", "share of limit", title=name)
        for row in rows:
            cells = (row.ratio, row.threads, row.share_of_limit)
            table.add_row(row.library, row.variant, f"{row.value:g} {row.unit}", *("" if cell is None else f"{cell:g}" for cell in cells))
        console.print(table)
        for sentence, met in verdicts(name, rows):
            console.print(f"{'met' if met else 'MISSED'}: {sentence}", highlight=False)


if __name__ == "__main__":
    main()
