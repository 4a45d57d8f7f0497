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
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tutelage.experiment.fingerprint import commit, hardware

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed.jsonl"
OURS = "tutelage"
# library -> environment and name of its list
PEERS = {"stable-baselines3": "sb3", "sb3-contrib": "sb3", "sbx": "sbx", "imitation": "imitation"}
SCRIPTS = {  # and, after a space, what it is told before the number of threads
    ("sac", "stable-baselines3"): "sb3_sac.py",
    ("sac", "sbx"): "sbx_sac.py",
    ("td3", "stable-baselines3"): "sb3_td3.py",
    ("td3", "sbx"): "sbx_td3.py",
    ("dqn", "stable-baselines3"): "sb3_dqn.py",
    ("ppo", "stable-baselines3"): "sb3_ppo.py CartPole-v1 8",
    ("ppo", "sbx"): "sbx_ppo.py CartPole-v1 8",
    ("ppo-cheetah", "stable-baselines3"): "sb3_ppo.py HalfCheetah-v5 1",
    ("trpo", "sb3-contrib"): "sb3_trpo.py HalfCheetah-v5 1",
    ("reward-epoch", "imitation"): "imitation_rewards.py",
}


def macs(sizes: Sequence[int]) -> int:
    """Multiply-adds of one row through linear layers of these widths."""
    return sum(a * b for a, b in pairwise(sizes))


def sac_update_flops(observation: int = 3, action: int = 1, hidden: tuple[int, ...] = (256, 256), batch: int = 256) -> int:
    """Of the matrix products of one update.

    Forward: the actor at s and s', the twin critics at (s, a), at (s, pi(s)) and as targets. Backward: to weights and inputs of actor and
    critics, but not to the inputs of their first layers; and through the critics to the action, without their weights.
    """
    actor, critic = (observation, *hidden, 2 * action), (observation + action, *hidden, 1)
    forward = 2 * macs(actor) + 3 * 2 * macs(critic)
    own = 2 * macs(actor) - macs(actor[:2]) + 2 * (2 * macs(critic) - macs(critic[:2]))
    return 2 * batch * (forward + own + 2 * macs(critic))


def td3_update_flops(observation: int = 3, action: int = 1, hidden: tuple[int, ...] = (400, 300), batch: int = 256) -> float:
    """The same, the mean of two updates, of which one moves the actor.

    Forward: the target actor at s', the twin critics at (s, a) and as targets; for the actor, itself at s and one critic.
    Backward as for SAC.
    """
    actor, critic = (observation, *hidden, action), (observation + action, *hidden, 1)
    critics = macs(actor) + 2 * 2 * macs(critic) + 2 * (2 * macs(critic) - macs(critic[:2]))
    moves = macs(actor) + 2 * macs(critic) + 2 * macs(actor) - macs(actor[:2])
    return 2 * batch * (critics + moves / 2)


def dqn_step_flops(
    observation: int = 4, actions: int = 2, hidden: tuple[int, ...] = (64, 64), batch: int = 32, update_every: int = 4
) -> float:
    """Of one step of the game: the net at one observation, and the share of an update."""
    net = (observation, *hidden, actions)
    return 2 * (macs(net) + batch * (4 * macs(net) - macs(net[:2])) / update_every)


def ppo_step_flops(observation: int, outputs: int, hidden: tuple[int, ...] = (64, 64), epochs: int = 10) -> int:
    """Of one step of one copy: the policy that plays it, policy and value of the full window, and forward and backward in each epoch."""
    policy, value = (observation, *hidden, outputs), (observation, *hidden, 1)
    learned = sum(3 * macs(net) - macs(net[:2]) for net in (policy, value))
    return 2 * (2 * macs(policy) + macs(value) + epochs * learned)


def trpo_step_flops(observation: int, outputs: int, hidden: tuple[int, ...] = (64, 64), products: int = 16, epochs: int = 10) -> int:
    """The same, with a gradient, products with the Fisher matrix (the tangent forward, its transpose backward) and one step searched."""
    policy, value = (observation, *hidden, outputs), (observation, *hidden, 1)
    backward = {net: 2 * macs(net) - macs(net[:2]) for net in (policy, value)}
    moves = macs(policy) + backward[policy] + products * (macs(policy) + backward[policy]) + macs(policy)
    return 2 * (2 * macs(policy) + macs(value) + moves + epochs * (macs(value) + backward[value]))


REWARD_NET, MEMBERS = (17 + 6, 256, 256, 256, 1), 3
EPOCH_FLOPS = 2 * MEMBERS * (500 * 2 * 50) * (3 * macs(REWARD_NET) - macs(REWARD_NET[:2]))
RELABEL_FLOPS = 2 * MEMBERS * 1_000_000 * macs(REWARD_NET)
PRODUCT_FLOPS = 2 * 1024**3


@dataclass(frozen=True)
class Target:
    """What issues 2 and 3 ask for."""

    variant: str
    kind: str
    """"ratio" to `than`, "share" of the matrix-product limit, or "seconds" at most."""
    bound: float
    than: str = ""


@dataclass(frozen=True)
class Measure:
    """One kind of work and who does it; the first peer is the reference of ratios."""

    unit: str
    per_block: int
    """Units of work in one turn."""
    flops: float
    """Of the products in one unit."""
    ours: tuple[str, ...]
    peers: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    rate: bool = False
    """Whether the value is units per second; else seconds per unit."""


MEASURES = {
    "sac": Measure(
        "steps/s", 200, sac_update_flops(), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 1.6, "stable-baselines3"),
            Target("eager", "ratio", 1.0, "sbx"),
            Target("compiled", "ratio", 2.0, "stable-baselines3"),
        ),
    ),
    "td3": Measure(
        "steps/s", 200, td3_update_flops(), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 1.4, "stable-baselines3"),
            Target("compiled", "ratio", 1.8, "stable-baselines3"),
            Target("compiled", "ratio", 1.0, "sbx"),
        ),
    ),
    "dqn": Measure(
        "steps/s", 2000, dqn_step_flops(), ("eager", "compiled"), ("stable-baselines3",), rate=True,
        targets=(Target("compiled", "ratio", 2.0, "stable-baselines3"),),
    ),
    "ppo": Measure(
        "steps/s", 8 * 2048, ppo_step_flops(4, 2), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 2.5, "stable-baselines3"),
            Target("eager", "ratio", 1.5, "sbx"),
            Target("compiled", "ratio", 2.5, "stable-baselines3"),
            Target("compiled", "ratio", 1.5, "sbx"),
        ),
    ),
    "ppo-cheetah": Measure(
        "steps/s", 2 * 2048, ppo_step_flops(17, 6), ("eager", "compiled"), ("stable-baselines3",), rate=True,
        targets=(Target("eager", "ratio", 2.0, "stable-baselines3"), Target("compiled", "ratio", 2.0, "stable-baselines3")),
    ),
    "trpo": Measure(
        "steps/s", 2 * 2048, trpo_step_flops(17, 6), ("eager",), ("sb3-contrib",), rate=True,
        targets=(Target("eager", "ratio", 2.0, "sb3-contrib"),),
    ),
    "reward-epoch": Measure("s/epoch", 1, EPOCH_FLOPS, ("eager",), ("imitation",), (Target("eager", "ratio", 2.5, "imitation"),)),
    "relabel": Measure("s/million", 1, RELABEL_FLOPS, ("eager",), targets=(Target("eager", "share", 0.5),)),
}  # fmt: skip
MATRIX = Measure("products", 40, PRODUCT_FLOPS, ("eager",))
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
    """Speed over that of the measure's first peer; None where there is none."""
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
        self._answer()

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
    gflops = MATRIX.per_block * PRODUCT_FLOPS / median(products) / 1e9
    rows: list[Row] = []
    for (library, variant), own in seconds.items():
        per_unit = median(own)
        ratio = median(a / b for a, b in zip(seconds[work.peers[0], "default"], own, strict=True)) if work.peers else None
        value = round(1.0 / per_unit if work.rate else per_unit, 3)
        share = round(work.flops / per_unit / 1e9 / gflops, 3)
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
        ratio = (row.ratio or 0.0) / (by[target.than, "default"].ratio or 1.0)
        found.append((f"{target.variant}: {ratio:.2f} times {target.than}, {target.bound} wanted", ratio >= target.bound))
    return found


def main() -> None:
    """Measure, print, and add the rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[*MEASURES, "help"], default=[*MEASURES, "help"], help="measures to take (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each library (default: 7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to choose from (default: 1 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to (default: benchmarks/results/speed.jsonl)")
    options = parser.parse_args()
    console = Console()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        rows = measure_help(options.rounds) if name == "help" else measure(name, options.rounds, options.threads, console)
        with options.results.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
        table = Table("library", "variant", "value", "ratio", "threads", "share of limit", title=name)
        for row in rows:
            cells = (row.ratio, row.threads, row.share_of_limit)
            table.add_row(row.library, row.variant, f"{row.value:g} {row.unit}", *("" if cell is None else f"{cell:g}" for cell in cells))
        console.print(table)
        for sentence, met in verdicts(name, rows):
            console.print(f"{'met' if met else 'MISSED'}: {sentence}", highlight=False)


if __name__ == "__main__":
    main()
