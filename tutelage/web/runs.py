"""What the room knows of the runs that ask: how far they are, how well they understand, and their films."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.experiment.config import ConfigError, RunConfig
from tutelage.experiment.log import EVENTS, LogError, read_run
from tutelage.experiment.run import RunError, read_config


@dataclass(frozen=True)
class RunView:
    """One run, as its log tells it now."""

    directory: Path
    game: str
    steps: int
    """That it will take."""
    step: int
    """That it has come to."""
    budget: int
    """Answers that it may ask for, all seeds together."""
    next_session: int | None
    """At about which step it will ask again; None where it will not."""
    finished: bool
    returns: Mapping[int, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """(step, mean return) of the evaluations, by seed."""
    accuracy: Sequence[tuple[int, float]] = ()
    """(step, share of fresh answers that the reward model had foretold)."""
    labels: int = 0
    """Answers that the last fits had used."""
    films: Sequence[tuple[str, str]] = ()
    """(file, caption), oldest first."""


class Runs:
    """The runs of a server; a log is read again only when it has grown."""

    def __init__(self, directories: tuple[Path, ...], below: Path | None = None) -> None:
        """below: where more runs lie, also those that begin later."""
        self._directories, self._below = directories, below
        self._read: dict[Path, tuple[int, RunView]] = {}

    @property
    def directories(self) -> list[Path]:
        """Of all runs, in alphabetical order of those that come and go."""
        found = [] if self._below is None else sorted(path.parent for path in self._below.glob("*/config.json"))
        return [*self._directories, *found]

    def all(self) -> list[RunView]:
        """Every directory that holds a run that can be read."""
        return [view for directory in self.directories if (view := self.view(directory)) is not None]

    def of(self, group: str) -> RunView | None:
        """The run that asks under this name. A run alone in its room is known by its place, whatever it was once called."""
        views = self.all()
        named = [view for view in views if view.directory.resolve().name == group.partition("/")[0]]
        return named[0] if named else views[0] if len(views) == 1 else None

    def view(self, directory: Path) -> RunView | None:
        """None where there is no run, or none that can be read."""
        log = directory / EVENTS
        try:
            size = log.stat().st_size
            if directory not in self._read or self._read[directory][0] != size:
                self._read[directory] = size, _view(directory, read_config(directory), read_run(directory))
        except (OSError, RunError, LogError, ConfigError):
            return None
        return self._read[directory][1]

    def film(self, run: str, name: str) -> Path | None:
        """A film that the log of the run of this name speaks of; None for any other file."""
        for view in self.all():
            if view.directory.resolve().name == run and name in [file for file, _ in view.films]:
                return view.directory / name
        return None


def _view(directory: Path, config: RunConfig, events: Sequence[Mapping[str, Any]]) -> RunView:
    labels = int(getattr(config.algorithm, "labels", 0))
    returns: dict[int, list[tuple[int, float]]] = {}
    accuracy: list[tuple[int, float]] = []
    used: dict[int, int] = {}
    asked: dict[int, int] = {}
    asked_at = 0
    for event in events:
        kind, step = event["event"], event["step"]
        if kind == "evaluation" and event.get("mean") is not None:
            returns.setdefault(event.get("seed", 0), []).append((step, float(event["mean"])))
        elif kind == "calibration" and (share := _foretold(event)) is not None:
            accuracy.append((step, share))
        elif kind == "session":
            used[event.get("seed", 0)] = int(event.get("labels") or 0)
        elif kind == "queries":
            asked[event.get("seed", 0)], asked_at = int(event["queries"]), step
    step = max((event["step"] for event in events), default=0)
    return RunView(
        directory,
        config.game,
        config.steps,
        step,
        labels * config.seeds,
        _next_session(config, asked, asked_at, step),
        any(event["event"] == "end" for event in events),
        returns,
        accuracy,
        sum(used.values()),
        [(event["file"], event.get("caption", "")) for event in events if event["event"] == "clip" and isinstance(event.get("file"), str)],
    )


def _next_session(config: RunConfig, asked: Mapping[int, int], asked_at: int, step: int) -> int | None:
    algorithm: Any = config.algorithm
    if not hasattr(algorithm, "session_every"):
        return None
    if not asked:
        following = int(algorithm.sac.random_steps + algorithm.pretraining_steps)
    elif min(asked.values()) >= algorithm.labels:
        return None
    else:
        following = asked_at + int(algorithm.session_every)
    return max(following, step) if following <= config.steps else None


def _foretold(event: Mapping[str, Any]) -> float | None:
    """Share of fresh answers on the side that the model had thought more likely, from the calibration's bins."""
    bins = list(zip(event.get("probability") or [], event.get("frequency") or [], event.get("count") or [], strict=False))
    right = sum(n * (f if p >= 0.5 else 1.0 - f) for p, f, n in bins if n and p is not None and f is not None)
    total = sum(n for p, f, n in bins if n and p is not None and f is not None)
    return right / total if total else None
