"""Tables of results: `tutelage compare FILE.jsonl` prints one, `python -m tutelage.recipes.tables README.md` renders them into a page.

A page marks where a table goes with `<!-- results: NAME -->` and `<!-- end -->`; what lies between is written by this command from
benchmarks/results/NAME.jsonl, and a test compares the two.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tutelage.experiment.config import ConfigError
from tutelage.recipes import preference_figures
from tutelage.recipes.rows import RESULTS, Row, number, read
from tutelage.recipes.thesis import tables

MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def scores(path: Path) -> str:
    """As `score_table`, for a file of rows."""
    return score_table(read(path))


def score_table(results: Sequence[Row]) -> str:
    """One line per task and method: the median and every run, failures included."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in results:
        method = row.method if row.library is None else f"{row.method} ({row.library})"
        groups.setdefault((row.task, method, row.steps), []).append(row)
    lines = ["| task | method | steps | median | every seed | minutes | commit |", "|---|---|---|---|---|---|---|"]
    for (task, method, steps), rows in groups.items():
        finished = [row.score for row in rows if row.score is not None]
        every = ", ".join("failed" if row.score is None else number(row.score) for row in rows)
        middle = number(median(finished)) if finished else "-"
        minutes = f"{max(row.seconds for row in rows) / 60:.1f}"
        lines.append(f"| {task} | {method} | {steps:,} | {middle} | {every} | {minutes} | {rows[0].commit} |")
    return "\n".join(lines)


def plain(path: Path) -> str:
    """As `plain_table`, for a file of rows."""
    return plain_table([json.loads(line) for line in path.read_text().splitlines() if line.strip()])


def plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, one column per field."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name)) for name in names) + " |")
    return "\n".join(lines)


def text_scores(path: Path) -> str:
    """One line per task and method: every seed's score, and the medians of all that was measured beside it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in (json.loads(line) for line in path.read_text().splitlines() if line.strip()):
        groups.setdefault((row["task"], row["method"]), []).append(row)
    lines = ["| task | method | median | every seed | beside it, medians | minutes | commit |", "|---|---|---|---|---|---|---|"]
    for (task, method), rows in groups.items():
        apart = ("task", "method", "seed", "score", "seconds", "hardware", "commit", "error")
        names = [name for name in rows[0] if name not in apart and all(isinstance(row.get(name), int | float) for row in rows)]
        beside = ", ".join(f"{name.replace('_', ' ')} {median(row[name] for row in rows):.3g}" for name in names)
        finished = [row["score"] for row in rows if row["score"] is not None]
        every = ", ".join("failed" if row["score"] is None else f"{row['score']:.3f}" for row in rows)
        minutes = f"{max(row['seconds'] for row in rows) / 60:.1f}"
        middle = f"{median(finished):.3f}" if finished else "-"
        lines.append(f"| {task} | {method} | {middle} | {every} | {beside} | {minutes} | {rows[0]['commit']} |")
    return "\n".join(lines)


def counts(path: Path) -> str:
    """One line per row: what was done how often, and everything that was counted, in words."""
    lines = ["| what | kills | counted | seconds | commit |", "|---|---|---|---|---|"]
    for row in (json.loads(line) for line in path.read_text().splitlines() if line.strip()):
        apart = ("task", "kills", "seconds", "hardware", "commit")
        counted = ", ".join(
            f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:,}'}"
            for name, value in row.items()
            if name not in apart
        )
        lines.append(f"| {row['task'].replace('_', ' ')} | {row['kills']} | {counted} | {row['seconds']:.0f} | {row['commit']} |")
    return "\n".join(lines)


def facts(path: Path) -> str:
    """One line per thing that was measured, one column per row of the file."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(["measured", *(str(row["commit"]) for row in rows)]) + " |", "|" + "---|" * (len(rows) + 1)]
    lines += [
        f"| {name.replace('_', ' ')} | " + " | ".join(_cell(row.get(name)) for row in rows) + " |" for name in names if name != "commit"
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}" if isinstance(value, float) and abs(value) < 1_000 else f"{value:,.0f}" if isinstance(value, float) else str(value)
    )


TABLES: dict[str, Callable[[Path], str]] = {
    "pendulum": scores,
    "pebble_control": scores,
    "reward_learning": scores,
    "preferences": preference_figures.table,
    "deep_control": scores,
    "many_agents": tables,
    "simple_spread": scores,
    "simple_tag": scores,
    "language": text_scores,
    "real_data": text_scores,
    "speed": plain,
    "profiles": plain,
    "language_speed": plain,
    "reliability": counts,
    "rating_room": facts,
}


def table_of(path: Path) -> str:
    """The table that a file of results is for, by the file's name; one of an unknown name is printed row by row.

    Raises ConfigError for a file that holds no results.
    """
    try:
        return TABLES.get(path.stem, plain)(path)
    except (ValueError, TypeError, KeyError, AttributeError) as mistake:
        raise ConfigError(f"{path} is no file of results: {mistake}; JSON lines with one row for each seed were expected") from mistake


def render(page: str, results: Path = RESULTS) -> str:
    """The page with every marked table made anew. Raises KeyError for a mark without a table, OSError without its results."""
    return MARK.sub(lambda found: f"{found[1]}{TABLES[found[2]](results / f'{found[2]}.jsonl')}\n{found[3]}", page)


def main(pages: list[str]) -> None:
    """Rewrite the pages in place."""
    for name in pages:
        path = Path(name)
        path.write_text(render(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
