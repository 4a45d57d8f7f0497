"""The tables of `tutelage.recipes.many_agents` as the lecture prints them, the thesis' numbers beside ours, its findings put to the test.

`tutelage compare benchmarks/results/many_agents.jsonl` prints the tables, `python -m tutelage.recipes.thesis --runs runs/many_agents
--out docs/images` draws the learning curves in the manner of figures 6.4 to 6.7, from the directories of the runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import tyro

from tutelage.experiment.log import EVENTS, read_events
from tutelage.recipes.many_agents import COPIES, METHODS, REFERENCE, TASKS, THESIS, team_return
from tutelage.recipes.rows import Row, read

FEWEST_SEEDS = 5
"""Below this every run is printed, and no spread."""
Runs = Mapping[tuple[str, str, int], Mapping[int, float]]
"""(task, method, steps) -> seed -> score."""


def runs_of(rows: Sequence[Row]) -> Runs:
    """What every run reached; those that failed are left out."""
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for row in rows:
        if row.score is not None and row.library is None:
            found.setdefault((row.task, row.method, row.steps), {})[row.seed] = row.score
    return found


def tables(path: Path) -> str:
    """All four tables, for a file of rows."""
    rows = read(path)
    parts = [part for task in TASKS if (part := thesis_table(task, rows))]
    return "\n\n".join([*parts, findings_table(rows)]) if parts else "No row has been trained yet."


def thesis_table(task: str, rows: Sequence[Row]) -> str:
    """One table: a line per learner and scheme, the best first; empty where no row of the task is there.

    Ours with five seeds or more: the mean and twice the standard deviation over seeds; with fewer every run. The thesis' "+-" is as printed
    there, undefined. For Simple Confuse also the mean over the frozen panel of adversaries.
    """
    runs = runs_of(rows)
    steps = sorted({key[2] for key in runs if key[0] == task and key[1] != REFERENCE})
    if not steps:
        return ""
    others = sorted({key[0] for key in runs if key[0].startswith(f"{task}/")})
    final = {method: runs.get((task, method, steps[-1]), {}) for method in METHODS}
    order = sorted((m for m in METHODS if final[m]), key=lambda m: -mean(final[m].values()))
    more = " against the frozen panel |" if others else ""
    lines = [
        f"| {task} | " + " | ".join(f"step {step // 1000}" for step in steps) + " |" + more + " thesis, steps 1000, 1500, 2000 |",
        "|---" * (len(steps) + (3 if others else 2)) + "|",
    ]
    for method in order:
        cells = [_cell(runs.get((task, method, step), {})) for step in steps]
        if others:
            cells.append(_cell(_mean_over([runs.get((other, method, steps[-1]), {}) for other in others])))
        cells.append(", ".join(f"{value:.0f} ± {spread:.0f}" for value, spread in THESIS[task][method]))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    ceiling = [(key[0].removeprefix(f"{task}/"), own[0]) for key, own in runs.items() if key[1] == REFERENCE and key[0].startswith(task)]
    told = ", ".join(f"{value:.0f}" + ("" if name == task else f" against the {name}") for name, value in ceiling)
    return "\n".join([*lines, "", f"Hand-written policies reach {told}." if told else ""])


def _cell(scores: Mapping[int, float]) -> str:
    values = list(scores.values())
    if len(values) >= FEWEST_SEEDS:
        return f"{mean(values):.0f} ± {2 * float(np.std(values, ddof=1)):.0f}"
    return ", ".join(f"{value:.0f}" for value in values) or "-"


def _mean_over(worlds: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Seed by seed, where every world has the seed."""
    seeds = set.intersection(*(set(world) for world in worlds))
    return {seed: mean(world[seed] for world in worlds) for seed in sorted(seeds)}


@dataclass(frozen=True)
class Finding:
    """That one family of rows does better than another, on some tasks."""

    claim: str
    tasks: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    at_least: bool = False
    """The claim is "not worse" instead of "better"."""


def _family(scheme: str, *starts: str) -> tuple[str, ...]:
    return tuple(m for m in METHODS if m.endswith(f"/{scheme}") and m.partition("/")[0] in starts)


TARGET, CONFUSE = tuple(TASKS)[:2], tuple(TASKS)[2:]
FINDINGS = (
    Finding(
        "twin critics beat one critic under ct-de", TARGET[:1],
        _family("ct-de", "matd3", "soft-matd3", "matd4", "soft-matd4"), _family("ct-de", "maddpg", "soft-maddpg"),
    ),
    Finding("concurrent beats shared nets on Simple Target", TARGET, _family("concurrent", "td3", "td4"), _family("shared", "td3", "td4")),
    Finding(
        "centralized does not learn with discrete actions: concurrent beats it", (TARGET[1], CONFUSE[1]),
        _family("concurrent", "td3", "td4"), _family("centralized", "td3", "td4"),
    ),
    Finding(
        "FORK hurts concurrent learners with continuous actions", (TARGET[0], CONFUSE[0]),
        _family("concurrent", "td3", "td4"), _family("concurrent", "td3-fork", "td4-fork"),
    ),
    Finding(
        "the smaller critic is at least as good to climb on Simple Confuse", CONFUSE,
        _family("ct-de", "matd4", "soft-matd4"), _family("ct-de", "matd3", "soft-matd3"), at_least=True,
    ),
)  # fmt: skip
"""The five that survive not knowing the thesis' scales."""


def findings_table(rows: Sequence[Row]) -> str:
    """Each finding, the difference here with its 95 % interval (bootstrap over rows and, within a row, seeds), and the verdict."""
    lines = ["| finding of the thesis | difference here | 95 % interval | verdict |", "|---|---|---|---|"]
    for finding in FINDINGS:
        difference = bootstrap(finding, rows)
        if difference is None:
            lines.append(f"| {finding.claim} | - | - | rows are missing |")
            continue
        middle, low, high = difference
        agrees = low > 0.0 or (finding.at_least and middle >= 0.0)
        verdict = "agrees" if agrees else "disagrees" if high < 0.0 else "open"
        lines.append(f"| {finding.claim} | {middle:.0f} | {low:.0f} to {high:.0f} | {verdict} |")
    return "\n".join(lines)


def bootstrap(finding: Finding, rows: Sequence[Row], draws: int = 10_000, seed: int = 0) -> tuple[float, float, float] | None:
    """Difference of the family means over the finding's tasks at the last printed step, and its 95 % interval. None: a row is missing."""
    runs, generator = runs_of(rows), np.random.default_rng(seed)
    middle, drawn = 0.0, np.zeros(draws)
    for task in finding.tasks:
        steps = max((key[2] for key in runs if key[0] == task), default=0)
        for sign, family in ((1.0, finding.better), (-1.0, finding.worse)):
            scores = [np.array(list(runs.get((task, method, steps), {}).values())) for method in family]
            if any(not len(own) for own in scores):
                return None
            middle += sign * float(np.mean([own.mean() for own in scores])) / len(finding.tasks)
            chosen = generator.integers(len(scores), size=(draws, len(scores)))
            means = np.stack([own[generator.integers(len(own), size=(draws, len(scores), len(own)))].mean(-1) for own in scores])
            own = np.take_along_axis(means, chosen[None], axis=0)[0]
            drawn += sign * own.mean(1) / len(finding.tasks)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return middle, float(low), float(high)


@dataclass(frozen=True)
class Figures:
    """Draw the figures."""

    runs: Path = Path("runs/many_agents")
    """Directories that the curves are read from."""
    out: Path = Path("docs/images")
    """Where pictures go."""


def curves(runs: Path, task: str) -> dict[str, list[tuple[float, float]]]:
    """(thousands of steps, mean return over seeds) of every row of a task whose run is there."""
    found: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        for path in sorted(runs.glob(f"{task}-{method}-*".replace("/", "-"))):
            by_step: dict[int, list[float]] = {}
            for event in read_events(path / EVENTS):
                if event["event"] == "evaluation":
                    by_step.setdefault(event["step"], []).append(team_return(task, event["mean"]))
            found[method] = [(step * COPIES / 1000, mean(values)) for step, values in sorted(by_step.items())]
    return found


def figure(task: str, lines: Mapping[str, Sequence[tuple[float, float]]], out: Path) -> Path:
    """One picture of all rows: a color per learner, a line style per scheme, the best row on top of the legend."""
    from matplotlib.figure import Figure

    styles = {"ct-de": "-", "concurrent": "--", "shared": ":", "centralized": "-."}
    learners = sorted({method.partition("/")[0].removeprefix("soft-").replace("ma", "") for method in METHODS})
    colors = {name: f"C{i}" for i, name in enumerate(learners)}
    picture = Figure(figsize=(10, 6), layout="constrained")
    axes = picture.subplots()
    for method, points in sorted(lines.items(), key=lambda item: -item[1][-1][1]):
        name, _, scheme = method.partition("/")
        color = colors[name.removeprefix("soft-").replace("ma", "")]
        axes.plot(*zip(*points, strict=True), styles[scheme], color=color, linewidth=2.2 if name.startswith("soft-") else 1.2, label=method)
    axes.set_xlabel("Step (1,000 steps of the environment)")
    axes.set_ylabel("Return mean")
    axes.set_title(task)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{task.replace('/', '_')}.png"
    picture.savefig(path, dpi=110)
    return path


def main(given: Figures) -> None:
    """One picture for each task of which a run is there."""
    for task in TASKS:
        if lines := curves(given.runs, task):
            print(figure(task, lines, given.out))


if __name__ == "__main__":
    main(tyro.cli(Figures, description=__doc__))
