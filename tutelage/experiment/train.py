"""Training from start, or from where it stopped, to the report."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tutelage.experiment.config import PlanConfig, RunConfig, TextRunConfig
from tutelage.experiment.log import EVENTS
from tutelage.experiment.processor import refuse_device
from tutelage.experiment.progress import Display
from tutelage.experiment.report import write_report
from tutelage.experiment.run import Experiment, RunError, read_any_config, read_config
from tutelage.feedback.raters import Rater

RUNS = Path("runs")
"""Where runs without a directory of their own go, below the current one."""


def train(
    config: RunConfig | TextRunConfig,
    out: Path | str | None = None,
    beside: Sequence[Path] = (),
    raters: Callable[[int], Rater] | None = None,
    console: Console | None = None,
    begun: Callable[[Path], None] | None = None,
) -> Path:
    """Train a new run in the directory `out` (None: a fresh one under runs/) and write its report; returns the directory.

    beside: other runs to show in the report. raters: makes the rater of a seed, in place of a scripted teacher.
    console: where progress is shown. begun: called with the directory as soon as there is something to look at in it.
    Raises RunError when `out` already holds a run or is in use, ConfigError for a device
    that is not there.
    """
    refuse_device(config.device)
    if isinstance(config, TextRunConfig):
        from tutelage.experiment.language import train_text  # only these runs need transformers

        return train_text(config, out, console)
    out = fresh_directory(config) if out is None else Path(out)
    if (out / EVENTS).exists():
        raise RunError(f"{out} already holds a run; `tutelage resume {out}` continues it, another --out starts anew")
    with Experiment(config, out, raters) as experiment:
        experiment.begin()
        if begun is not None:
            begun(out)
        return _to_the_end(experiment, beside, console or Console())


def resume(
    out: Path | str,
    beside: Sequence[Path] = (),
    raters: Callable[[int], Rater] | None = None,
    console: Console | None = None,
    begun: Callable[[Path], None] | None = None,
) -> Path:
    """Continue the run in `out` from its newest valid checkpoint, and say what was restored; returns `out`.

    Raises RunError when there is no run or it is in use, CheckpointError when no checkpoint is valid.
    """
    out, console = Path(out), console or Console()
    if isinstance(read_any_config(out), TextRunConfig):
        from tutelage.experiment.language import resume_text

        return resume_text(out, console)
    config = read_config(out)
    refuse_device(config.device)
    with Experiment(config, out, raters) as experiment:
        for sentence in experiment.restore():
            console.print(sentence, highlight=False, soft_wrap=True)
        if begun is not None and not experiment.finished:
            begun(out)
        if experiment.finished:
            console.print(f"all {config.steps:,} steps had been taken; nothing is left to learn", highlight=False)
        return _to_the_end(experiment, beside, console)


def _to_the_end(experiment: Experiment, beside: Sequence[Path], console: Console) -> Path:
    with contextlib.ExitStack() as opened:
        companions = None
        if experiment.config.asynchronous:
            from tutelage.experiment.apart import Companions  # only these runs need a database

            companions = opened.enter_context(Companions(experiment.out))
        with Display(experiment, console) as display:
            pace, began, taken = experiment.config.steps_per_second, time.monotonic(), 0
            while not experiment.finished:
                experiment.step()
                display.show()
                taken += 1
                if pace is not None:
                    time.sleep(max(began + taken / pace - time.monotonic(), 0.0))
                if companions is not None:
                    companions.keep_alive()
        experiment.finish()
    report = write_report(experiment.out, beside)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return experiment.out


def fresh_directory(config: RunConfig | PlanConfig) -> Path:
    """One under runs/ that is not there yet, named after the algorithm and the game."""
    suffix = f"-{config.seed}" if isinstance(config, RunConfig) else ""
    name = f"{config.name}-{config.game.replace(':', '-').replace('/', '-')}{suffix}"
    for number in range(1, 10_000):
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise RunError(f"{RUNS} already holds 9,999 runs called {name}; choose a directory")
