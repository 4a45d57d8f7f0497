"""Result rows: one JSON line per seed, written by a command and never by hand."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from tutelage.experiment.config import ConfigError, RunConfig, nearest
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.log import EVENTS
from tutelage.experiment.run import Experiment
from tutelage.experiment.train import resume, train

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
SCORE_EPISODES = 100
LAST = ("seconds", "hardware", "commit", "error", "library")
"""The fields that close a row."""


@dataclass(frozen=True)
class Row:
    """One seed of one method on one task."""

    task: str
    method: str
    seed: int
    steps: int
    """Of the game, all copies of a seed together."""
    score: float | None
    """Mean return of the final policy over 100 noise-free episodes; None for a run that failed."""
    seconds: float
    """Of training, all stacked seeds together."""
    hardware: str
    commit: str
    error: str | None = None
    """Why there is no score."""
    library: str | None = None
    """A peer's name; None for this library."""


@dataclass(frozen=True)
class TextResult:
    """One seed of one method on one task of a language model."""

    task: str
    method: str
    seed: int
    score: float
    """What the task is about; for the chain the win rate over SFT."""
    numbers: Mapping[str, float]
    """What stands beside the score, each a column of its own: KL, gold and the bounds of an interval, say."""
    seconds: float
    """Of the study that the row belongs to, as far as this method needed it."""
    hardware: str
    commit: str


def append(path: Path, rows: Sequence[Row | TextResult]) -> None:
    """Add rows to a file of results, all or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(_flat(row)) + "\n" for row in rows)
    with path.open("a") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _flat(row: Row | TextResult) -> dict[str, object]:
    fields = {name: value for name, value in asdict(row).items() if value is not None or name == "score"}
    numbers: dict[str, object] = dict(row.numbers) if isinstance(row, TextResult) else {}
    first = {name: value for name, value in fields.items() if name not in (*LAST, "numbers")}
    return first | numbers | {name: fields[name] for name in LAST if name in fields}


def read(path: Path) -> list[Row]:
    """The rows of a file, oldest first; none when it does not exist."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]


def directory_of(task: str) -> str:
    """A task as part of a directory's name."""
    return task.replace(":", "-").replace("/", "-")


def number(score: float) -> str:
    """Whole where its decimals would say nothing."""
    return f"{score:.0f}" if abs(score) >= 10.0 else f"{score:.2f}"


def seed_rows(experiment: Experiment, task: str, method: str, means: Sequence[float]) -> list[Row]:
    """Rows of a finished run, one for each seed's mean return; a seed with a net that froze has no score."""
    frozen = {i for members in experiment.frozen().values() for i in members.nonzero().flatten().tolist()}
    steps = experiment.steps * experiment.config.copies
    return [
        Row(
            task, method, seed, steps, None if i in frozen else round(mean, 2), round(experiment.seconds, 1),
            hardware(experiment.config.device), commit(), "a net was frozen: its gradient was not finite" if i in frozen else None,
        )
        for i, (seed, mean) in enumerate(zip(experiment.seeds, means, strict=True))
    ]  # fmt: skip


def judged(experiment: Experiment, task: str, method: str, episodes: int = SCORE_EPISODES) -> list[Row]:
    """Rows of a finished run: the final policy of every seed over `episodes` noise-free episodes."""
    return seed_rows(experiment, task, method, [sum(own) / len(own) for own in experiment.evaluate(episodes=episodes)])


def train_or_resume(config: RunConfig, out: Path, console: Console) -> None:
    """Start the run, or continue it where it stopped."""
    if (out / EVENTS).exists():
        resume(out, console=console)
    else:
        train(config, out, console=console)


def lines(table: Iterable[tuple[str, str]], task: str | None, method: str | None) -> list[tuple[str, str]]:
    """The lines (task, method) of a table that are asked for; None: all. Raises ConfigError, naming the nearest, when there is none."""
    known = list(table)
    chosen = [line for line in known if task in (None, line[0]) and method in (None, line[1])]
    if not chosen:
        asked = f"{task or 'every task'} with {method or 'every method'}"
        closest = nearest(asked, {f"{own} with {other}" for own, other in known})
        raise ConfigError(f"{asked} was asked for; the table does not have it, the nearest line is {closest}")
    return chosen


Judge = Callable[[Experiment, str, str, int], list[Row]]
"""(finished run, task, method, episodes) -> its rows."""


def add_rows(
    config: RunConfig, out: Path, task: str, method: str, results: Path | None, episodes: int, console: Console, judge: Judge = judged
) -> None:
    """Run or resume, judge the final policies and add their rows to `results` (None: nowhere); nothing, where they are there already."""
    wanted = (task, method, config.seed, config.steps * config.copies, None)
    if results is not None and any((row.task, row.method, row.seed, row.steps, row.library) == wanted for row in read(results)):
        return
    train_or_resume(config, out, console)
    with Experiment(config, out) as experiment:
        experiment.restore()
        rows = judge(experiment, task, method, episodes)
    if results is not None:
        append(results, rows)
