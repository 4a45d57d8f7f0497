"""The progress display, with a clock of its own: how long it will take, and what is shown where."""

import io
from collections import deque
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tutelage.experiment.config import RunConfig
from tutelage.experiment.progress import LINE_SECONDS, REFRESH_SECONDS, Display
from tutelage.experiment.run import Experiment
from tutelage.learn.deep import sac


class Pretended(Experiment):
    """Only what the display looks at."""

    def __init__(self, steps: int, lesson: Any = None) -> None:
        self.config = RunConfig(sac.Config(), "gym:Pendulum-v1", steps)
        self.rollout: Any = SimpleNamespace(steps=0)
        self.returns = [deque(), deque()]
        self.lesson, self.accuracy = lesson, None

    def close(self) -> None:
        """Nothing was opened."""


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def screen(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None, legacy_windows=False)


def shown(console: Console) -> str:
    file: Any = console.file
    return file.getvalue()


def live(experiment: Pretended, display: Display, clock: Clock, steps: int, pace: float) -> None:
    """`steps` steps that take 1 / `pace` seconds each."""
    for _ in range(steps):
        clock.now += 1.0 / pace
        experiment.rollout.steps += 1
        display.show()


def test_the_time_left_is_what_is_left_at_this_pace():
    experiment, clock, console = Pretended(2_000), Clock(), screen(False)
    display = Display(experiment, console, clock)
    live(experiment, display, clock, 1_000, pace=10.0)
    display.show(now=True)
    assert shown(console).splitlines()[-1] == "sac: 1,000 of 2,000 steps, 1:40 left"


def test_the_pace_is_that_of_the_last_minute():
    experiment, clock, console = Pretended(30_000), Clock(), screen(False)
    display = Display(experiment, console, clock)
    live(experiment, display, clock, 10_000, pace=100.0)  # random steps: fast
    live(experiment, display, clock, 1_000, pace=10.0)
    display.show(now=True)
    assert shown(console).splitlines()[-1] == "sac: 11,000 of 30,000 steps, 31:40 left"
    live(experiment, display, clock, 2_000, pace=1.0)
    display.show(now=True)
    assert shown(console).splitlines()[-1] == "sac: 13,000 of 30,000 steps, 4 h 43 min left"


def test_a_resumed_run_counts_from_where_it_was_resumed():
    experiment, clock, console = Pretended(1_000), Clock(), screen(False)
    experiment.rollout.steps = 900
    display = Display(experiment, console, clock)
    live(experiment, display, clock, 50, pace=10.0)
    display.show(now=True)
    assert shown(console).splitlines()[-1] == "sac: 950 of 1,000 steps, 0:05 left"


def test_nothing_is_said_of_time_before_it_is_known_and_after_the_end():
    experiment, clock, console = Pretended(100), Clock(), screen(False)
    with Display(experiment, console, clock) as display:
        display.show()
        live(experiment, display, clock, 100, pace=10.0)
    assert [line for line in shown(console).splitlines() if "left" in line] == []
    assert shown(console).splitlines()[-1] == "sac: 100 of 100 steps"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_redrawn_often_and_a_file_gets_a_line_now_and_then(terminal: bool):
    experiment, clock, console = Pretended(4_001), Clock(), screen(terminal)
    drawn: list[float] = []
    with Display(experiment, console, clock) as display:
        for _ in range(4_000):
            before = len(shown(console))
            live(experiment, display, clock, 1, pace=40.0)
            if len(shown(console)) > before:
                drawn.append(clock.now)
    gaps = [later - earlier for earlier, later in pairwise(drawn)]
    assert min(gaps) >= (REFRESH_SECONDS if terminal else LINE_SECONDS) - 1e-9
    assert max(gaps) <= (REFRESH_SECONDS if terminal else LINE_SECONDS) + 0.03
    if not terminal:
        lines = shown(console).splitlines()
        assert len(drawn) == 4 and len(lines) == 5 and all(line.startswith("sac: ") for line in lines) and "\x1b" not in shown(console)


def test_a_terminal_sees_a_bar_with_steps_returns_labels_and_time():
    lesson: Any = SimpleNamespace(judgements=[{"a": 1, "b": 2}, {"c": 3}])
    experiment, clock, console = Pretended(1_000, lesson), Clock(), screen(True)
    with Display(experiment, console, clock) as display:
        experiment.returns = [deque([(-1234.4, 200), (-600.0, 200)]), deque([(-150.2, 200)])]
        experiment.accuracy = 0.875
        live(experiment, display, clock, 500, pace=10.0)
    last = shown(console).splitlines()[-2]  # the very last gives the cursor back
    assert "500/1000" in last.replace(" ", "") and "return -600 -150, labels 3 of 0, reward model agrees 88%, 0:50 left" in last
    assert shown(console).count("\x1b[2K") > 100  # the same line again and again


def test_what_fails_is_still_told_how_far_it_came():
    experiment, clock, console = Pretended(100), Clock(), screen(False)
    with pytest.raises(KeyboardInterrupt), Display(experiment, console, clock) as display:
        live(experiment, display, clock, 40, pace=10.0)
        raise KeyboardInterrupt
    assert shown(console).splitlines()[-1] == "sac: 40 of 100 steps, 0:06 left"
