"""What the verbs of the command line do. Imported when a verb is called; heavier rooms are imported by the verb that needs them."""

import contextlib
import dataclasses
import itertools
import json
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from tutelage.evaluate.clips import ClipError
from tutelage.evaluate.comparison import ComparisonError
from tutelage.experience.segments import SegmentError
from tutelage.experience.text import TextError
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints
from tutelage.experiment.config import ALGORITHMS, PLANNERS, STAGES, ConfigError, PlanConfig, RunConfig, TextRunConfig, nearest
from tutelage.experiment.log import LogError
from tutelage.experiment.run import RunError, groups_of, read_any_config, read_config
from tutelage.feedback.query import FeedbackError
from tutelage.games.spec import GameError
from tutelage.rewards.source import RewardError

MISTAKES = (
    GameError, ConfigError, RunError, CheckpointError, LogError, FeedbackError, SegmentError, ClipError, ComparisonError, RewardError,
    TextError, OSError,
)  # fmt: skip
"""What ends a verb in one sentence instead of a trace: bad input, and a disk or network that fails."""


def train(arguments: list[str]) -> int:
    """train NAME --game ADDRESS ...: every field of the run and of the algorithm is a flag."""
    known = ALGORITHMS | PLANNERS | STAGES
    names = ", ".join(known)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: tutelage train NAME --game ADDRESS --steps N [options]\n\nNAME is one of: {names}")
        print(f"`tutelage train NAME --help` shows its options. {', '.join(PLANNERS)} plan in a finite world, sweep by sweep.")
        print(f"{', '.join(STAGES)} train a language model: train NAME --model MODEL --data DATA --out DIR")
        return 0 if arguments else 2
    name, *rest = arguments
    if name.startswith("-"):
        raise ConfigError(f"train was given {name} first; the algorithm comes first, one of: {names}")
    if name not in known:
        raise ConfigError(f"unknown algorithm {name!r}; did you mean {nearest(name, known)}? Known are {names}")
    kind = PlanConfig if name in PLANNERS else TextRunConfig if name in STAGES else RunConfig
    with _sentences(kind is TextRunConfig):
        algorithm = known[name].config
        given = _options(train_options(algorithm, kind), f"tutelage train {name}", rest, algorithm.__doc__)
    config = kind(**{field.name: getattr(given, field.name) for field in dataclasses.fields(kind)})
    if isinstance(config, PlanConfig):
        from tutelage.experiment.planning import plan

        plan(config, given.out, given.show)
    elif isinstance(config, TextRunConfig):
        with _sentences():
            from tutelage.experiment.language import train_text

            train_text(config, given.out)
    else:
        from tutelage.experiment.train import train as run

        with contextlib.ExitStack() as opened:
            run(config, given.out, beside=given.beside, begun=_page_opener(config, opened))
    return 0


@contextlib.contextmanager
def _sentences(text: bool = True) -> Iterator[None]:
    """What is wrong with a language model, its tokenizer or its data, as one sentence; their rooms are not imported by other verbs."""
    if not text:
        yield
        return
    try:
        from tutelage.experience.text import TextError
        from tutelage.learn.language.descent import TrainingError
        from tutelage.nets.language import ModelError
    except ImportError as error:
        raise ConfigError(str(error)) from error
    try:
        yield
    except (TextError, TrainingError, ModelError) as error:
        raise ConfigError(str(error)) from error


def _page_opener(config: RunConfig, opened: contextlib.ExitStack) -> Callable[[Path], None] | None:
    """For a run that a person teaches: opens the page in a process of its own, which ends with the training."""
    if config.rater != "human":
        return None

    def begin(out: Path) -> None:
        page = Popen([sys.executable, "-m", "tutelage.cli", "rate", str(out)])
        opened.callback(page.wait)
        opened.callback(page.terminate)

    return begin


def train_options(algorithm: type, kind: type = RunConfig) -> type:
    """RunConfig or PlanConfig with this algorithm's fields at the top level, and where the run goes."""
    fields: list[Any] = [("algorithm", Annotated[algorithm, tyro.conf.arg(name="")], dataclasses.field(default_factory=algorithm))]
    told = _docstrings(kind)
    for field in dataclasses.fields(kind):
        if field.name != "algorithm":
            fields.append((field.name, Annotated[field.type, tyro.conf.arg(help=told[field.name])], _without_order(field)))
    fields.append(("out", Annotated[Path | None, tyro.conf.arg(help="The run directory. None: a new one under runs/.")], None))
    if kind is TextRunConfig:
        return dataclasses.make_dataclass("Train", fields, frozen=True, kw_only=True)
    if kind is PlanConfig:
        fields.append(("show", Annotated[bool, tyro.conf.arg(help="Draw a map with its values and arrows, sweep by sweep.")], False))
    else:
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
    for line, after in itertools.pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            found[line.target.id] = inspect.cleandoc(str(after.value.value))  # type: ignore[attr-defined]
    return found


def _options(kind: type, prog: str, arguments: list[str], description: str | None = None) -> Any:
    """The options of a verb, a value of `kind`. Raises ConfigError for one that it does not have; about values tyro speaks itself."""
    known = ["--help", *_flags(kind)]
    for word in arguments:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and not flag.startswith("--tyro-") and flag not in known:
            raise ConfigError(f"{prog} has no option {flag}; did you mean {nearest(flag, known)}?")
    return tyro.cli(kind, prog=prog, args=arguments, description=description)


def _flags(kind: type, prefix: str = "--") -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        plain, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        flag = name.replace("_", "-")
        if dataclasses.is_dataclass(plain):
            yield from _flags(typing.cast(type, plain), prefix if name == "algorithm" else f"{prefix}{flag}.")
        elif not set(marks) & set(_POSITIONAL):
            yield prefix + flag
            if plain is bool:
                start, dot, last = (prefix + flag).rpartition(".")
                yield f"{start}{dot}no-{last}" if dot else f"--no-{flag}"


_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1:]


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its newest valid checkpoint."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    beside: tuple[Path, ...] = ()
    """Other runs to show in the report."""


def resume(arguments: list[str]) -> int:
    """resume DIR"""
    given = _options(Resume, "tutelage resume", arguments)
    config = read_any_config(given.run)
    if isinstance(config, PlanConfig):
        from tutelage.experiment.planning import resume_plan

        resume_plan(given.run)
    elif isinstance(config, TextRunConfig):
        with _sentences():
            from tutelage.experiment.language import resume_text

            resume_text(given.run)
    else:
        from tutelage.experiment.train import resume as run

        with contextlib.ExitStack() as opened:
            run(given.run, given.beside, begun=_page_opener(config, opened))
    return 0


@dataclass(frozen=True)
class Evaluate:
    """Play noise-free episodes with the newest policy of a run; or measure a language model on what its run held out."""

    run: tyro.conf.Positional[Path]
    """The run directory."""
    episodes: int = 100
    """Per seed; of a language model, prompts to answer."""
    json: bool = False
    """Print JSON."""


def evaluate(arguments: list[str]) -> int:
    """evaluate DIR --episodes N --json"""
    given = _options(Evaluate, "tutelage evaluate", arguments)
    if given.episodes < 1:
        raise ConfigError(f"--episodes {given.episodes} was given; at least 1 is needed")
    if isinstance(read_any_config(given.run), TextRunConfig):
        with _sentences():
            from tutelage.experiment.text_policy import evaluate_text_run

            found = evaluate_text_run(given.run, given.episodes)
        print(json.dumps(found) if given.json else "\n".join(f"{name}: {_shown(value)}" for name, value in found.items()))
        return 0
    from tutelage.experiment.policy import evaluate_run

    step, results = evaluate_run(given.run, given.episodes)
    if given.json:
        rows = [
            {"seed": s, "mean": r.mean, "returns": r.returns.tolist(), "lengths": r.lengths.tolist(), "success_rate": r.success_rate}
            for s, r in results.items()
        ]
        print(json.dumps({"run": str(given.run), "step": step, "seeds": rows}))
        return 0
    for seed, result in results.items():
        spread = f", from {result.returns.min():.1f} to {result.returns.max():.1f}"
        rate = "" if result.success_rate is None else f"; success rate {result.success_rate:.0%}"
        print(f"seed {seed}: mean return {result.mean:.1f} over {given.episodes} episodes at step {step:,}{spread}{rate}")
    return 0


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Generate:
    """Let a language model answer prompts."""

    model: tyro.conf.Positional[str]
    """A run, a folder or a hub name."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Prompts. None: those of --data."""
    data: Path | None = None
    """A file of rows whose prompts are answered."""
    max_new_tokens: int = 64
    """Longest answer."""
    temperature: float = 1.0
    """Divides the logits."""
    greedy: bool = False
    """Always the most probable token."""
    samples: int = 1
    """Answers to each prompt."""
    best_of: int = 1
    """Draw so many for each answer, and keep the one that --reward scores highest."""
    reward: str | None = None
    """A run or folder of a reward model, a world, or py:module:function; prints its scores too."""
    seed: int = 0
    """Of the draws."""
    json: bool = False
    """Print JSON lines."""


def generate(arguments: list[str]) -> int:
    """generate MODEL "PROMPT" ... --samples N"""
    given = _options(Generate, "tutelage generate", arguments)
    for name in ("max_new_tokens", "samples", "best_of"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(given, name)} was given; at least 1 is needed")
    if bool(given.prompts) == (given.data is not None):
        raise ConfigError(
            f"generate was given {'both prompts and --data' if given.prompts else 'neither prompts nor --data'}; one is needed"
        )
    if given.best_of > 1 and given.reward is None:
        raise ConfigError(f"--best-of {given.best_of} was given without --reward, which says what best means")
    with _sentences():
        from tutelage.experiment.text_policy import generate as answers

        for row in answers(**{field.name: getattr(given, field.name) for field in dataclasses.fields(given) if field.name != "json"}):
            print(json.dumps(row, ensure_ascii=False) if given.json else _told(row), flush=True)
    return 0


def _told(row: dict[str, Any]) -> str:
    scores = row.get("scores") or [None] * len(row["answers"])
    lines = [answer if score is None else f"[{score:.2f}] {answer}" for answer, score in zip(row["answers"], scores, strict=True)]
    return "\n".join([f"> {row['prompt']}", *lines])


@dataclass(frozen=True)
class Compare:
    """Put runs side by side: every run, and intervals from five seeds on. Or print the table that a file of results is for."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, or one file of results such as benchmarks/results/many_agents.jsonl."""
    json: bool = False
    """Print JSON."""


def compare(arguments: list[str]) -> int:
    """compare DIR DIR ..., or compare FILE.jsonl"""
    given = _options(Compare, "tutelage compare", arguments)
    if not given.runs:
        raise RunError("compare was given no run; at least one run directory is needed")
    if files := [path for path in given.runs if path.is_file()]:
        if len(given.runs) > 1 or given.json:
            beside = "--json" if len(given.runs) == 1 else f"{len(given.runs) - 1} more"
            raise RunError(f"compare was given {files[0]} and {beside}; a file of results is JSON lines already and stands alone")
        from tutelage.recipes.tables import table_of

        print(table_of(files[0]))
        return 0
    from tutelage.evaluate.comparison import compare as put_side_by_side
    from tutelage.evaluate.comparison import table
    from tutelage.experiment.story import final_results

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
    given = _options(Watch, "tutelage watch", arguments)
    for name in ("steps", "size", "fps"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name} {getattr(given, name)} was given; at least 1 is needed")
    from tutelage.evaluate.clips import encode, record_episode
    from tutelage.experiment.policy import load_policy
    from tutelage.experiment.run import play

    policy = load_policy(given.run, given.seed)
    with contextlib.closing(play(read_config(given.run), 1)) as game:
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


def _holds_language_model(run: Path) -> bool:
    """A report needs a log and no configuration."""
    try:
        return isinstance(read_any_config(run), TextRunConfig)
    except RunError:
        return False


def report(arguments: list[str]) -> int:
    """report DIR --beside DIR"""
    given = _options(Report, "tutelage report", arguments)
    if _holds_language_model(given.run):
        from tutelage.experiment.text_report import write_text_report

        print(write_text_report(given.run))
        return 0
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
    given = _options(Labels, "tutelage labels", arguments)
    from tutelage.feedback.exchange import export_labels, export_rows, import_labels
    from tutelage.feedback.query import Judgement, Query, from_row
    from tutelage.feedback.store import Store, file_url

    url: Any = given.store
    groups: list[str] | None = None
    if "://" not in given.store:
        run = Path(given.store)
        config = read_config(run)
        url = config.store or file_url(run / "feedback.sqlite")
        groups = groups_of(config, run) if config.store else None  # others may use that store; the run's own is its alone
        if given.action == "import" and config.rater == "oracle":
            raise RunError(f"{run} asks a scripted teacher and would never read these labels; runs with --rater store do")
        if config.rater == "oracle":
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
            print(f"{export_labels(store, given.file, groups)} rows: {given.file}")
            return 0
        outcome = import_labels(given.file, store)
    print(outcome, file=sys.stderr if outcome.errors else sys.stdout)
    return 1 if outcome.errors else 0


@dataclass(frozen=True)
class Rate:
    """Open the rating room: for one person at home (rate RUN), or for a lab (rate --store URL --accounts)."""

    run: tyro.conf.Positional[Path | None] = None
    """The run directory of a run with --rater store or human."""
    store: str | None = None
    """URL of a label store that several runs share, such as postgresql+psycopg://... None: the run's own."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs --accounts."""
    port: int | None = None
    """Port to listen on. None: 8765, or a free one where that is taken."""
    accounts: bool = False
    """Whether raters have accounts; the first start prints a link, good once, by which the owner makes the first."""
    tls_cert: Path | None = None
    """Certificate (PEM), for https."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    runs: Path = Path("runs")
    """With --store: the directory below which the runs lie whose clips are drawn."""
    clips: Path | None = None
    """Where drawn clips are kept. None: beside the run's own, or below --runs."""
    clip_quota: float = 2.0
    """GiB of clips kept."""
    browser: bool = True
    """Whether to open the page; at home only."""


def rate(arguments: list[str]) -> int:
    """rate RUN, or rate --store URL --accounts"""
    given = _options(Rate, "tutelage rate", arguments)
    from tutelage.web.server import check, serve

    check(given.host, given.accounts, given.tls_cert, given.tls_key)
    if (given.run is None) == (given.store is None):
        raise ConfigError(
            "rate was given " + ("neither a run nor --store" if given.run is None else "a run and --store") + "; one is needed"
        )
    if not 0.0 < given.clip_quota < float("inf"):
        raise ConfigError(f"--clip-quota {given.clip_quota} was given; a positive number of GiB is needed")
    from tutelage.web.app import Settings

    if given.run is not None:
        from tutelage.feedback.store import file_url

        config = read_config(given.run)
        if config.rater == "oracle":
            raise RunError(f"{given.run} asks a scripted teacher and hears nobody else; a run with --rater human (or store) can be taught")
        url = config.store or file_url(given.run / "feedback.sqlite").render_as_string(hide_password=False)
        runs, below, clips = (given.run,), None, given.run / "clips" / "rated"
        groups = tuple(groups_of(config, given.run)) if config.store else ()  # others may use that store; the run's own is its alone
    else:
        url, runs, below, clips, groups = given.store, (), given.runs, given.runs / ".clips", ()
    tls = given.tls_cert is not None
    settings = Settings(url, given.clips or clips, runs, below, groups, given.accounts, tls, round(given.clip_quota * 2**30))
    serve(settings, given.host, given.port, given.tls_cert, given.tls_key, given.browser)
    return 0


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
    given = _options(Track, "tutelage track", arguments)
    from tutelage.experiment.log import write_tensorboard, write_trackio

    written: Sequence[object] = (
        write_tensorboard(given.run, given.out or given.run / "tensorboard")
        if given.to == "tensorboard"
        else write_trackio(given.run, given.project)
    )
    print("\n".join(map(str, written)))
    return 0


@dataclass(frozen=True)
class Preflight:
    """Look at text data with the tokenizer and the model that are to learn from it, and say what would go wrong."""

    data: tyro.conf.Positional[Path]
    """JSON, JSON lines, Parquet, plain text, or a folder saved by `datasets`."""
    model: str
    """A run, a folder, a hub name, or a kind with its sizes such as gpt2?layers=6&width=384."""
    tokenizer: str | None = None
    """A folder or a hub name, or bpe:SIZE to train one on the data. None: the model's own."""
    context: int | None = None
    """Tokens that a text may have. None: as many as the model can read."""
    too_long: Literal["refuse", "drop", "cut_prompt", "cut_answer", "cut"] = "drop"
    """What training will do with rows that the context does not hold."""
    split: str | None = None
    """Of a folder saved by `datasets`. None: the only one, or train."""
    sample: int = 2_000
    """Rows that are put into tokens."""
    json: bool = False
    """Print JSON."""


def preflight(arguments: list[str]) -> int:
    """preflight DATA --model M. Exit code 1 when something stands against learning from this."""
    given = _options(Preflight, "tutelage preflight", arguments)
    from tutelage.experience.preflight import preflight as look
    from tutelage.experience.text_data import read_text
    from tutelage.experience.text_models import model_facts, read_tokenizer

    data = read_text(given.data, given.split)
    with _sentences():
        from tutelage.experiment.text_materials import model_address

        model = model_address(given.model)
    tokenizer = read_tokenizer(model, given.tokenizer, data.rows)
    found = look(data, tokenizer, model_facts(model, tokenizer, given.context), given.sample, given.too_long)
    print(found.to_json() if given.json else found.told())
    return 1 if found.refused else 0


def list_(arguments: list[str]) -> int:
    """list"""
    from tutelage.games.make import known_games
    from tutelage.recipes.names import RECIPES

    if arguments:
        raise ConfigError(f"list was given {' '.join(arguments)}; it takes nothing")
    for title, names in (
        ("algorithms", [*PLANNERS, *ALGORITHMS, *STAGES]),
        ("recipes", RECIPES),
        ("games", [*known_games(), "py:module:Class"]),
    ):
        print(f"{title}:")
        print("".join(f"  {name}\n" for name in names))
    return 0


@dataclass(frozen=True)
class Show:
    """Print a single-file edition of an algorithm: its file and all that it uses, which runs where tutelage is not installed."""

    name: tyro.conf.Positional[str]
    """One of those that `tutelage list` names."""


def show(arguments: list[str]) -> int:
    """show NAME"""
    given = _options(Show, "tutelage show", arguments)
    from tutelage.experiment.edition import show as edition

    print(edition(given.name), end="")
    return 0


def doctor(arguments: list[str]) -> int:
    """doctor"""
    if arguments:
        raise ConfigError(f"doctor was given {' '.join(arguments)}; it takes nothing")
    from tutelage.experiment.doctor import main

    return main(Path.cwd(), Console())
