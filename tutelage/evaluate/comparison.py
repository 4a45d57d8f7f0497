"""Methods side by side: every run, and with five seeds or more the interquartile mean and who tends to beat whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import torch

from tutelage.equations.statistics import (
    Interval,
    interquartile_mean,
    paired_probability_of_improvement,
    probability_of_improvement,
    stratified_bootstrap_interval,
)

FEWEST_SEEDS = 5
"""Below this an interval would be a decoration (Agarwal et al. 2021, arXiv 2108.13264), so every run is printed instead."""


class ComparisonError(ValueError):
    """Results that cannot stand side by side; one sentence."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed of one method reached: the unit of every comparison is the seed, never the episode."""

    task: str
    method: str
    seed: int
    steps: int
    score: float | None
    """Mean return of the final policy, no checkpoint picked; None for a run that failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one task."""

    task: str
    method: str
    steps: int
    scores: tuple[tuple[int, float], ...]
    """(seed, score), by seed."""
    failed: tuple[int, ...]
    """Seeds without a score."""
    interquartile_mean: Interval | None
    """None for fewer than five seeds, and where a run failed: leaving the failures out would flatter the method."""

    @property
    def median(self) -> float | None:
        """Of the runs that have a score; None when none has."""
        return median(score for _, score in self.scores) if self.scores else None


@dataclass(frozen=True, slots=True)
class Duel:
    """How likely a run of `method` beats a run of `other` on the task."""

    task: str
    method: str
    other: str
    paired: bool
    """Both had the same seeds, so that run k met run k."""
    probability: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    rows: tuple[Row, ...]
    duels: tuple[Duel, ...]


def compare(results: Sequence[Result], seed: int = 0) -> Comparison:
    """Group results by task and method, in the order in which they first appear.

    seed: of the bootstrap, which draws for every row and duel on its own, so that adding a method moves no other interval.
    Raises ComparisonError when one seed of a method and task appears twice, or with different budgets.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.method), []).append(result)
    rows = tuple(_row(group, seed) for group in groups.values())
    pairs = ((a, b) for a, b in combinations(rows, 2) if a.task == b.task and a.interquartile_mean and b.interquartile_mean)
    return Comparison(rows, tuple(_duel(a, b, seed) for a, b in pairs))


def table(comparison: Comparison) -> str:
    """Plain text for a terminal."""
    lines = []
    for task in dict.fromkeys(row.task for row in comparison.rows):
        lines += [task]
        rows = [row for row in comparison.rows if row.task == task]
        width = max(len(row.method) for row in rows)
        for row in rows:
            lines += [f"  {row.method:<{width}}  {row.steps:>9,} steps  {_summary(row)}"]
        for duel in (duel for duel in comparison.duels if duel.task == task):
            p, how = duel.probability, "same seeds paired" if duel.paired else "seeds not paired"
            lines += [f"  {duel.method} beats {duel.other} with probability {p.estimate:.2f} [{p.low:.2f}, {p.high:.2f}] ({how})"]
    return "\n".join(lines)


def _summary(row: Row) -> str:
    runs = ", ".join(f"{score:.1f}" for _, score in row.scores) or "none finished"
    failed = f"; failed: seeds {', '.join(map(str, row.failed))}" if row.failed else ""
    if row.interquartile_mean is None:
        return f"runs {runs}{failed}"
    iqm = row.interquartile_mean
    return f"IQM {iqm.estimate:.1f} [{iqm.low:.1f}, {iqm.high:.1f}], median {row.median:.1f}, {len(row.scores)} seeds: {runs}"


def _row(group: list[Result], seed: int) -> Row:
    first, ordered = group[0], sorted(group, key=lambda result: result.seed)
    where = f"{first.method} on {first.task}"
    if len({r.seed for r in group}) < len(group):
        raise ComparisonError(f"{where}: a seed appears twice among {[r.seed for r in ordered]}; every seed counts once")
    if len({r.steps for r in group}) > 1:
        raise ComparisonError(f"{where}: budgets of {sorted({r.steps for r in group})} steps differ; only equal budgets are compared")
    scores = tuple((r.seed, r.score) for r in ordered if r.score is not None)
    interval = None
    if len(scores) == len(group) >= FEWEST_SEEDS:
        values = torch.tensor([[score] for _, score in scores], dtype=torch.float64)
        interval = stratified_bootstrap_interval(values, interquartile_mean, torch.Generator().manual_seed(seed))
    failed = tuple(r.seed for r in ordered if r.score is None)
    return Row(first.task, first.method, first.steps, scores, failed, interval)


def _duel(a: Row, b: Row, seed: int) -> Duel:
    paired = [s for s, _ in a.scores] == [s for s, _ in b.scores]
    x, y = (torch.tensor([[score] for _, score in row.scores], dtype=torch.float64) for row in (a, b))
    probability = paired_probability_of_improvement if paired else probability_of_improvement
    return Duel(a.task, a.method, b.method, paired, probability(x, y, torch.Generator().manual_seed(seed)))
