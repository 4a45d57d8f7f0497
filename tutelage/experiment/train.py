"""Training from start, or from where it stopped, to the report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tutelage.experiment.config import RunConfig
from tutelage.experiment.log import EVENTS
from tutelage.experiment.progress import Display
from tutelage.experiment.report import write_report
from tutelage.experiment.run import Experiment, RunError, read_config
from tutelage.feedback.raters import Rater


def train(
    config: RunConfig,
    out: Path | str,
    beside: Sequence[Path] = (),
    raters: Callable[[int], Rater] | None = None,
    console: Console | None = None,
) -> Path:
    """Train a new run in the directory `out` and write its report; returns `out`.

    beside: other runs to show in the report. raters: makes the rater of a seed, in place of a scripted teacher.
    console: where progress is shown. Raises RunError when `out` already holds a run or is in use.
    """
    out = Path(out)
    if (out / EVENTS).exists():
        raise RunError(f"{out} already holds a run; `tutelage resume {out}` continues it, another --out starts anew")
    with Experiment(config, out, raters) as experiment:
        experiment.begin()
        return _to_the_end(experiment, beside, console or Console())


def resume(
    out: Path | str, beside: Sequence[Path] = (), raters: Callable[[int], Rater] | None = None, console: Console | None = None
) -> Path:
    """Continue the run in `out` from its newest valid checkpoint, and say what was restored; returns `out`.

    Raises RunError when there is no run or it is in use, CheckpointError when no checkpoint is valid.
    """
    out, console = Path(out), console or Console()
    with Experiment(read_config(out), out, raters) as experiment:
        for sentence in experiment.restore():
            console.print(sentence, highlight=False)
        return _to_the_end(experiment, beside, console)


def _to_the_end(experiment: Experiment, beside: Sequence[Path], console: Console) -> Path:
    with Display(experiment, console) as display:
        while not experiment.finished:
            experiment.step()
            display.show()
    experiment.finish()
    report = write_report(experiment.out, beside)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return experiment.out
