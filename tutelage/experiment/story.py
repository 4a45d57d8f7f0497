"""What can be told about a run: its log, what is asked of it, and the runs beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.evaluate.comparison import Result
from tutelage.experiment.charts import Points
from tutelage.experiment.log import LogError, read_run

SHOWN_EPISODES = 200
"""Per seed in a line; beyond that neighbors are averaged."""

Event = Mapping[str, Any]


def final_results(run: Path) -> list[Result]:
    """What each seed of a run reached in its last evaluation, for `compare`. Raises LogError when the log cannot be read.

    The score is None for a seed that has a frozen member, or whose last evaluation is older than that of the others.
    """
    log = Log(run.resolve().name, read_run(run))
    task = log.game if log.lesson is None else f"{log.game}/{log.lesson}"  # as in result rows: other rewards, other scores
    last = {seed: log.last("evaluation", seed, policy="learned") for seed in log.seeds}
    steps = max((event["step"] for event in last.values() if event), default=0)
    frozen = {event.get("seed") for event in log.of("frozen_member")}
    return [
        Result(task, log.method, seed, steps, event["mean"] if event and event["step"] == steps and seed not in frozen else None)
        for seed, event in last.items()
    ]


@dataclass(frozen=True)
class Log:
    """One run's events and what is asked of them most."""

    name: str
    events: Sequence[Event]

    def of(self, kind: str, seed: int | None = None, **wanted: Any) -> list[Event]:
        """Events of a kind, in order; `policy="learned"` also takes evaluations that name no policy."""
        default = {"policy": "learned"}
        return [
            e
            for e in self.events
            if e["event"] == kind
            and (seed is None or e.get("seed") == seed)
            and all(e.get(name, default.get(name)) == value for name, value in wanted.items())
        ]

    def last(self, kind: str, seed: int | None = None, **wanted: Any) -> Event | None:
        """The newest event of a kind, chosen as by `of`; None when there is none."""
        return next(reversed(self.of(kind, seed, **wanted)), None)

    @property
    def start(self) -> Event:
        """The first event, with configuration and fingerprint; empty where it is missing."""
        return self.last("start") or {}

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the run was started with."""
        return self.start.get("config") or {}

    @property
    def method(self) -> str:
        """As result rows name it."""
        return str(self.config.get("method") or self.config.get("name") or self.name)

    @property
    def title(self) -> str:
        """The method as the field writes it."""
        return title_of(self.method)

    @property
    def game(self) -> str:
        """Its address."""
        return str(self.config.get("game") or "an unnamed game")

    @property
    def lesson(self) -> str | None:
        """The function that a run was judged by in place of the game's own reward: the last part of its address."""
        reward = str(self.config.get("true_reward") or "game")
        return None if reward == "game" else reward.split(":")[-1]

    @property
    def seeds(self) -> list[int]:
        """All seeds that were announced or that an event names."""
        own = {e["seed"] for e in self.events if e.get("seed") is not None and e["event"] != "baseline"}
        return sorted(own.union(self.start.get("seeds") or []))

    @property
    def steps(self) -> int:
        """The last step of the run itself."""
        return max((e["step"] for e in self.events if e["event"] != "baseline"), default=0)

    @property
    def learns_from_answers(self) -> bool:
        """Whether somebody is asked, or the game itself pays."""
        settings = self.config.get("algorithm")
        return bool(self.of("session")) or (isinstance(settings, Mapping) and "labels" in settings)

    @property
    def finished(self) -> bool:
        """Ended, and not taken up again since."""
        ends = [e["event"] for e in self.events if e["event"] in ("end", "resumed")]
        return ends[-1:] == ["end"]

    def scores(self, policy: str = "learned") -> dict[int, float]:
        """Mean return of each seed's last evaluation."""
        found = {seed: self.last("evaluation", seed, policy=policy) for seed in self.seeds}
        return {seed: e["mean"] for seed, e in found.items() if e and e.get("mean") is not None}

    @property
    def curves_are_evaluations(self) -> bool:
        """Whether every seed was evaluated often enough to draw a line."""
        return min((len(points(self.of("evaluation", s, policy="learned"), "mean")[0]) for s in self.seeds), default=0) >= 3

    def curves(self) -> dict[int, Points]:
        """Returns over steps: evaluations where there are at least three per seed, training episodes otherwise."""
        if self.curves_are_evaluations:
            return {s: points(self.of("evaluation", s, policy="learned"), "mean") for s in self.seeds}
        episodes = {s: thinned(points(self.of("episode", s), "return")) for s in self.seeds}
        return {s: line for s, line in episodes.items() if len(line[0])}


@dataclass(frozen=True)
class Reference:
    """Another way to the same task."""

    name: str
    role: str
    true_reward: bool
    scores: Mapping[int, float]
    curves: Mapping[int, Points]


@dataclass(frozen=True)
class Story:
    """Everything the page tells."""

    run: Path
    log: Log
    references: Sequence[Reference]

    @staticmethod
    def read(run: Path, beside: Sequence[Path] = ()) -> "Story":
        """The story of a run directory. Raises LogError for a log that cannot be read and for runs that cannot stand side by side."""
        run = run.resolve()
        log = Log(run.name, read_run(run))
        found: list[tuple[str, bool, dict[int, float], dict[int, Points]]] = []
        for folder in beside:
            other = Log(folder.resolve().name, read_run(folder))
            if (other.game, other.lesson) != (log.game, log.lesson):
                raise LogError(
                    f"{folder} is a run of {other.game} judged by {other.lesson or 'its own reward'}, beside one of {log.game} judged by "
                    f"{log.lesson or 'its own reward'}; only runs of one game and one judge can be shown together"
                )
            found.append((other.method, not other.learns_from_answers, other.scores(), other.curves()))
        for method in dict.fromkeys(str(e.get("method")) for e in log.of("baseline")):
            events = [e for e in log.of("baseline") if str(e.get("method")) == method]
            lines = {s: points([e for e in events if e.get("seed", 0) == s], "mean") for s in sorted({e.get("seed", 0) for e in events})}
            scores = {s: float(y[-1]) for s, (_, y) in lines.items() if len(y)}
            if method not in {name for name, *_ in found}:
                found.append((method, True, scores, {s: line for s, line in lines.items() if len(line[0]) > 1}))
        found.sort(key=lambda other: not other[1])  # the true reward first: it is what the headline compares with
        roles = ["reference", "other", *["third"] * len(found)]
        references = [
            Reference(title_of(name), role, true_reward, scores, curves)
            for role, (name, true_reward, scores, curves) in zip(roles, found, strict=False)
        ]
        return Story(run, log, references)

    @property
    def untrained(self) -> dict[int, float]:
        """By seed: the mean return of the policy before it learned."""
        return self.log.scores("untrained")

    @property
    def reference(self) -> Reference | None:
        """The first run on the true reward that has scores."""
        return next((r for r in self.references if r.true_reward and r.scores), None)

    @property
    def scores(self) -> dict[int, float]:
        """By seed: the last evaluation, or the mean of the last five training episodes where there was none."""
        if scores := self.log.scores():
            return scores
        episodes = {s: points(self.log.of("episode", s), "return")[1] for s in self.log.seeds}
        return {s: float(y[-5:].mean()) for s, y in episodes.items() if len(y)}

    @property
    def answers(self) -> dict[int, int]:
        """Labels each seed has, by seed."""
        last = {s: self.log.last("session", s) for s in self.log.seeds}
        return {s: e["labels"] for s, e in last.items() if e and e.get("labels") is not None}

    @property
    def task(self) -> str:
        """The game without its family, and the lesson where it is not the game's own."""
        game = self.log.game.split(":")[-1]
        return game if self.log.lesson is None else f"{self.log.lesson} on {game}"


def points(events: Sequence[Event], field: str) -> Points:
    """(steps, values) of the events that have a finite number in the field."""
    kept = [e for e in events if is_number(e.get(field))]
    return np.array([e["step"] for e in kept], dtype=float), np.array([e[field] for e in kept], dtype=float)


def pair(event: Event, x: str, y: str) -> Points:
    """Two lists of an event as points; entries in which either is no number are left out."""
    kept = [(a, b) for a, b in zip(event.get(x) or [], event.get(y) or [], strict=False) if is_number(a) and is_number(b)]
    return np.array([a for a, _ in kept], dtype=float), np.array([b for _, b in kept], dtype=float)


def thinned(line: Points) -> Points:
    """Means of neighbors, so that a long run's line stays readable and the file small."""
    groups = min(len(line[0]), SHOWN_EPISODES)
    if groups == len(line[0]):
        return line
    x, y = (np.array([part.mean() for part in np.array_split(values, groups)]) for values in line)
    return x, y


def title_of(method: str) -> str:
    """Acronyms as the field writes them: SAC, PEBBLE-100; longer names as they are."""
    name, dash, variant = method.partition("-")
    return f"{name.upper()}{dash}{variant}" if name.isalpha() and len(name) <= 6 else method


def is_number(value: object) -> bool:
    """Whether JSON would call this a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
