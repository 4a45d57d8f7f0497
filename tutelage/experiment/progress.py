"""What a person sees while a run goes on: steps, returns, labels, how well the reward is understood, time left."""

import math
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tutelage.experiment.run import Experiment

REFRESH_SECONDS = 0.2
LINE_SECONDS = 30.0
WINDOW_SECONDS = 60.0
SHORTEST_SECONDS = 1.0


class Display:
    """A live bar on a terminal; a line now and then where the output goes to a file."""

    def __init__(self, experiment: Experiment, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any origin."""
        self.experiment, self.console, self.clock = experiment, console, clock
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[words]}"),
            console=console, auto_refresh=False, transient=False,
        )  # fmt: skip
        self._task = self._progress.add_task(experiment.method, total=experiment.config.steps, completed=experiment.steps, words="")
        self._marks: deque[tuple[float, int]] = deque([(clock(), experiment.steps)])
        self._shown = -math.inf

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.show(now=True)
        if self.console.is_terminal:  # elsewhere stopping would print an empty line
            self._progress.stop()

    def show(self, now: bool = False) -> None:
        """Draw, when it is time to."""
        time_now = self.clock()
        if not now and time_now - self._shown < (REFRESH_SECONDS if self.console.is_terminal else LINE_SECONDS):
            return
        self._shown = time_now
        words = self._words(time_now)
        if self.console.is_terminal:
            self._progress.update(self._task, completed=self.experiment.steps, words=words, refresh=True)
        else:
            experiment = self.experiment
            self.console.print(
                f"{experiment.method}: {experiment.steps:,} of {experiment.config.steps:,} steps{', ' if words else ''}{words}",
                highlight=False,
            )

    def _words(self, time_now: float) -> str:
        experiment = self.experiment
        parts: list[str] = []
        totals = [own[-1][0] for own in experiment.returns if own]
        if totals:
            parts.append("return " + " ".join(f"{total:,.0f}" for total in totals[:5]) + (" ..." if len(totals) > 5 else ""))
        if experiment.config.asynchronous:
            version = experiment.learner.version  # type: ignore[attr-defined]  # RunConfig has seen to it that it has one
            parts.append(f"reward model {version}" if version >= 0 else "no reward model yet")
        elif experiment.lesson is not None:
            answered = sum(len(own) for own in experiment.lesson.judgements)
            parts.append(f"labels {answered} of {experiment.label_budget}")
            if experiment.accuracy is not None:
                parts.append(f"reward model agrees {experiment.accuracy:.0%}")
        left = self._seconds_left(time_now)
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self, time_now: float) -> float | None:
        """From the pace of the last minute: sessions and evaluations make the pace of the whole run a poor guide."""
        self._marks.append((time_now, self.experiment.steps))
        while len(self._marks) > 2 and time_now - self._marks[0][0] > WINDOW_SECONDS:
            self._marks.popleft()
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        if last <= first or ended - began < SHORTEST_SECONDS or self.experiment.finished:
            return None
        return (ended - began) / (last - first) * (self.experiment.config.steps - last)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02}"
