"""What the verbs of the command line do. Imported when a verb is called; heavier rooms are imported by the verb that needs them."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from tutelage.evaluate.clips import ClipError
from tutelage.experience.segments import SegmentError
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints
from tutelage.experiment.config import ALGORITHMS, ConfigError, RunConfig, nearest
from tutelage.experiment.log import LogError
from tutelage.experiment.run import RunError, read_config
from tutelage.feedback.query import FeedbackError
from tutelage.games.spec import GameError

MISTAKES = (GameError, ConfigError, RunError, CheckpointError, LogError, FeedbackError, SegmentError, ClipError, OSError)
"""What ends a verb in one sentence instead of a trace: bad input, and a disk or network that fails."""


def train(arguments: list[str]) -> int:
    """train NAME --game ADDRESS ...: every field of the run and of the algorithm is a flag."""
    names = ", ".join(ALGORITHMS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: tutelage train NAME --game ADDRESS --steps N [options]\n\nNAME is one of: {names}\n`tutelage train NAME --help` shows its options."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {name!r}; did you mean {nearest(name, ALGORITHMS)}? Known are {names}")
    given = tyro.cli(train_options(ALGORITHMS[name]), prog=f"tutelage train {name}", args=rest, description=ALGORITHMS[name].__doc__ or "")
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(RunConfig)}
    config = RunConfig(**values)
    from tutelage.experiment.train import train as run

    run(config, given.out or _fresh_directory(config), beside=given.beside)
    return 0


def train_options(algorithm: type) -> type:
    """RunConfig with this algorithm's fields at the top level, and where the run goes."""
    fields: list[Any] = [("algorithm", Annotated[algorithm, tyro.conf.arg(name="")], dataclasses.field(default_factory=algorithm))]
    for field in dataclasses.fields(RunConfig):
        if field.name != "algorithm":
            fields.append((field.name, Annotated[field.type, tyro.conf.arg(help=_HELP[field.name])], _without_order(field)))
    fields.append(("out", Annotated[Path | None, tyro.conf.arg(help="The run directory. None: a new one under runs/.")], None))
    fields.append(("beside", Annotated[tuple[Path, ...], tyro.conf.arg(help="Other runs to show in the report.")], ()))
    return dataclasses.make_dataclass("Train", fields, frozen=True, kw_only=True)


def _without_order(field: dataclasses.Field[Any]) -> Any:
    return dataclasses.field() if field.default is dataclasses.MISSING else dataclasses.field(default=field.default)


def _docstrings(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass: it is the `--help`."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for line, after in zip(body, body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            found[line.target.id] = inspect.cleandoc(str(after.value.value))  # type: ignore[attr-defined]
    return found


_HELP = _docstrings(RunConfig)


def _fresh_directory(config: RunConfig) -> Path:
    name = f"{config.name}-{config.game.replace(':', '-').replace('/', '-')}-{config.seed}"
    for number in range(1, 10_000):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise RunError(f"runs/ already holds 9,999 runs called {name}; give --out")


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its newest valid checkpoint."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    beside: tuple[Path, ...] = ()
    """Other runs to show in the report."""


def resume(arguments: list[str]) -> int:
    """resume DIR"""
    given = tyro.cli(Resume, prog="tutelage resume", args=arguments)
    from tutelage.experiment.train import resume as run

    run(given.run, given.beside)
    return 0


@dataclass(frozen=True)
class Evaluate:
    """Play noise-free episodes with the newest policy of a run."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    episodes: int = 100
    """Per seed."""
    json: bool = False
    """Print JSON."""


def evaluate(arguments: list[str]) -> int:
    """evaluate DIR --episodes N --json"""
    given = tyro.cli(Evaluate, prog="tutelage evaluate", args=arguments)
    if given.episodes < 1:
        raise ConfigError(f"--episodes {given.episodes} was given; at least 1 is needed")
    from tutelage.experiment.policy import evaluate_run

    step, results = evaluate_run(given.run, given.episodes)
    if given.json:
        rows = [{"seed": s, "mean": r.mean, "returns": r.returns.tolist(), "lengths": r.lengths.tolist()} for s, r in results.items()]
        print(json.dumps({"run": str(given.run), "step": step, "seeds": rows}))
        return 0
    for seed, result in results.items():
        spread = f", from {result.returns.min():.1f} to {result.returns.max():.1f}"
        print(f"seed {seed}: mean return {result.mean:.1f} over {given.episodes} episodes at step {step:,}{spread}")
    return 0


@dataclass(frozen=True)
class Compare:
    """Put runs side by side: every run, and intervals from five seeds on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    json: bool = False
    """Print JSON."""


def compare(arguments: list[str]) -> int:
    """compare DIR DIR ..."""
    given = tyro.cli(Compare, prog="tutelage compare", args=arguments)
    if not given.runs:
        raise RunError("compare was given no run; at least one run directory is needed")
    from tutelage.evaluate.comparison import compare as put_side_by_side
    from tutelage.evaluate.comparison import table
    from tutelage.experiment.report import final_results

    comparison = put_side_by_side([result for run in given.runs for result in final_results(run)])
    print(json.dumps(dataclasses.asdict(comparison)) if given.json else table(comparison))
    return 0


@dataclass(frozen=True)
class Watch:
    """Film one noise-free episode of a trained policy."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    out: Path | None = None
    """The mp4. None: clips/ of the run."""
    seed: int | None = None
    """Which stacked seed. None: the first."""
    steps: int = 1_000
    """Film at most so many."""
    size: int = 256
    """Width and height in pixels."""
    fps: int = 30
    """Frames per second."""


def watch(arguments: list[str]) -> int:
    """watch DIR --out FILE.mp4"""
    given = tyro.cli(Watch, prog="tutelage watch", args=arguments)
    from tutelage.evaluate.clips import encode, record_episode
    from tutelage.experiment.policy import load_policy
    from tutelage.games.make import make

    policy = load_policy(given.run, given.seed)
    game = make(read_config(given.run).game, 1)
    frames = record_episode(policy, game, seed=0, max_steps=given.steps, size=given.size)
    path = encode(frames, given.out or given.run / "clips" / f"watch-{policy.step:09d}.mp4", given.fps)
    print(f"{len(frames)} frames: {path}")
    return 0


@dataclass(frozen=True)
class Report:
    """Write report.html of a run again."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    beside: tuple[Path, ...] = ()
    """Other runs of the same game to show next to it."""


def report(arguments: list[str]) -> int:
    """report DIR --beside DIR"""
    given = tyro.cli(Report, prog="tutelage report", args=arguments)
    from tutelage.experiment.report import write_report

    print(write_report(given.run, given.beside))
    return 0


@dataclass(frozen=True)
class Labels:
    """Move answers in and out of a label store, as JSON lines."""

    action: tyro.conf.Positional[Literal["import", "export"]]
    """Which way."""
    store: tyro.conf.Positional[str]
    """A run directory, or the URL of a store (sqlite:///labels.sqlite, postgresql+psycopg://...)."""
    file: tyro.conf.Positional[Path]
    """The JSON-lines file."""


def labels(arguments: list[str]) -> int:
    """labels import|export RUN|URL FILE. Exit code 1 when some rows were refused."""
    given = tyro.cli(Labels, prog="tutelage labels", args=arguments)
    from tutelage.feedback.exchange import export_labels, export_rows, import_labels
    from tutelage.feedback.query import Judgement, Query, from_row
    from tutelage.feedback.store import Store, file_url

    url: Any = given.store
    if "://" not in given.store:
        run = Path(given.store)
        config = read_config(run)
        url = config.store or file_url(run / "feedback.sqlite")
        if given.action == "export" and config.rater == "oracle":
            _, state, _ = Checkpoints(run).load_state()
            lesson = state["learner"].get("lesson")
            if lesson is None:
                raise RunError(f"{run} learned from the true reward: it has no labels to export")
            rows = [
                from_row(kind, row) for kind, name in ((Query, "queries"), (Judgement, "judgements")) for own in lesson[name] for row in own
            ]
            print(f"{export_rows(rows, given.file)} rows: {given.file}")
            return 0
    with Store(url, create=given.action == "import") as store:
        if given.action == "export":
            print(f"{export_labels(store, given.file)} rows: {given.file}")
            return 0
        outcome = import_labels(given.file, store)
    print(outcome, file=sys.stderr if outcome.errors else sys.stdout)
    return 1 if outcome.errors else 0


@dataclass(frozen=True)
class Track:
    """Copy a run's numbers to another tracker."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    to: Literal["tensorboard", "trackio"] = "tensorboard"
    """Which tracker."""
    out: Path | None = None
    """TensorBoard: an empty folder for its files. None: tensorboard/ of the run."""
    project: str = "tutelage"
    """trackio: the project."""


def track(arguments: list[str]) -> int:
    """track DIR --to tensorboard|trackio"""
    given = tyro.cli(Track, prog="tutelage track", args=arguments)
    from tutelage.experiment.log import write_tensorboard, write_trackio

    written: Sequence[object] = (
        write_tensorboard(given.run, given.out or given.run / "tensorboard")
        if given.to == "tensorboard"
        else write_trackio(given.run, given.project)
    )
    print("\n".join(map(str, written)))
    return 0


def list_(arguments: list[str]) -> int:
    """list"""
    from tutelage.games.make import known_games
    from tutelage.recipes.names import RECIPES

    if arguments:
        raise ConfigError(f"list was given {' '.join(arguments)}; it takes nothing")
    for title, names in (("algorithms", list(ALGORITHMS)), ("recipes", RECIPES), ("games", [*known_games(), "py:module:Class"])):
        print(f"{title}:")
        print("".join(f"  {name}\n" for name in names))
    return 0


def doctor(arguments: list[str]) -> int:
    """doctor"""
    if arguments:
        raise ConfigError(f"doctor was given {' '.join(arguments)}; it takes nothing")
    from tutelage.experiment.doctor import main

    return main(Path.cwd(), Console())
