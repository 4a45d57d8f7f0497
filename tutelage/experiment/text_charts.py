"""Charts of language models, in the manner of `charts`: what is possible at a distance, what a proxy hides, who wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.experiment.charts import STANDS_FOR, Points, captions, mean_line, number, plain_axes, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is imported when the first chart is drawn


@dataclass(frozen=True)
class Marks:
    """One method's dots."""

    name: str
    role: str
    points: Sequence[tuple[float, float]]
    shape: str = "o"


@dataclass(frozen=True)
class Spread:
    """One row of intervals: a method and (estimate, low, high) of each seed."""

    name: str
    role: str
    intervals: Sequence[tuple[float, float, float]]


def frontier(best: Sequence[Points], methods: Sequence[Marks], furthest: float, figure: Figure, narrow: bool) -> None:
    """Gold over the distance from SFT: one line per seed for what is possible, one dot per seed and setting for what was reached."""
    axes = plain_axes(figure)
    for x, y in best:
        axes.plot(x, y, color=STANDS_FOR["ink"], linewidth=1.0, alpha=0.35, zorder=2)
    axes.plot(*mean_line(best), color=STANDS_FOR["ink"], linewidth=2.2, zorder=3)
    beyond = 0
    for method in methods:
        shown = [point for point in method.points if point[0] <= furthest]
        beyond += len(method.points) - len(shown)
        axes.plot(
            [x for x, _ in shown], [y for _, y in shown], method.shape, color=STANDS_FOR[method.role], markersize=8, alpha=0.75,
            markeredgewidth=0, zorder=4,
        )  # fmt: skip
    axes.set_xlim(0, furthest)
    axes.xaxis.grid(True)
    left_out = f" ({beyond} dots lie further right)" if beyond else ""
    captions(axes, "gold score", f"{'KL' if narrow else 'KL from SFT'}, nats per answer{left_out}")


def over_optimization(panels: Mapping[str, Sequence[tuple[Points, Points]]], figure: Figure, narrow: bool) -> None:
    """For each reward the proxy (dashed) and gold (whole) of each seed over iterations, and their medians. panels: (proxy, gold) pairs."""
    rows, columns = (len(panels), 1) if narrow else (1, len(panels))
    drawn = []
    for place, (name, seeds) in enumerate(panels.items(), start=1):
        axes = plain_axes(figure, (rows, columns, place))
        for kind, role, dashes in ((0, "reference", (0, (4, 2))), (1, "learned", "-")):
            for seed in seeds:
                axes.plot(*seed[kind], color=STANDS_FOR[role], linewidth=0.9, alpha=0.35, linestyle=dashes)
            steps = seeds[0][kind][0]
            axes.plot(steps, np.median([seed[kind][1] for seed in seeds], 0), color=STANDS_FOR[role], linewidth=2.4, linestyle=dashes)
        captions(axes, name, "" if narrow and place < len(panels) else "iterations of PPO")
        drawn.append(axes)
    limits = [axes.get_ylim() for axes in drawn]
    for axes in drawn:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def win_rates(rows: Sequence[Spread], figure: Figure, narrow: bool) -> None:
    """One row per method: each seed's interval, and the mean of the estimates, which is also written out."""
    axes = plain_axes(figure, vertical=True)
    axes.axvline(0.5, color=STANDS_FOR["muted"], linewidth=1.2, linestyle=(0, (5, 4)), zorder=2)
    for i, row in enumerate(rows):
        color, step = STANDS_FOR[row.role], 0.18
        for k, (estimate, low, high) in enumerate(row.intervals):
            at = i + step * (k - 0.5 * (len(row.intervals) - 1))
            axes.plot([low, high], [at, at], color=color, linewidth=2.0, alpha=0.6, zorder=3)
            axes.plot([estimate], [at], "o", color=color, markersize=6, markeredgewidth=0, zorder=4)
    means = [float(np.mean([estimate for estimate, _, _ in row.intervals])) for row in rows]
    names = [f"{shortened(row.name, 14 if narrow else 28)}\u2002{number(mean)}" for row, mean in zip(rows, means, strict=True)]
    axes.set_yticks(range(len(rows)), names)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(STANDS_FOR[row.role])
        label.set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.0)
    captions(axes, "", "win rate, 95 % intervals" if narrow else "share of prompts where the answer is preferred, 95 % intervals")


def passes(lines: Mapping[str, tuple[str, Sequence[tuple[Points, Points]]]], figure: Figure, narrow: bool) -> None:
    """Loss after each pass over the same data, learned (dashed) and unseen (whole). lines: name -> (role, per seed both)."""
    axes = plain_axes(figure)
    for role, seeds in lines.values():
        for kind, dashes in ((0, (0, (4, 2))), (1, "-")):
            for seed in seeds:
                axes.plot(*seed[kind], color=STANDS_FOR[role], linewidth=0.9, alpha=0.35, linestyle=dashes)
            axes.plot(*mean_line([seed[kind] for seed in seeds]), color=STANDS_FOR[role], linewidth=2.4, linestyle=dashes)
    steps = max(len(seed[1][0]) for _, seeds in lines.values() for seed in seeds)
    axes.set_xticks(range(1, steps + 1))
    captions(axes, "loss per pair" if narrow else "loss per pair, learned (dashed) and unseen", "passes over the rankings")
