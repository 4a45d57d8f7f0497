"""The page of the chain: what is possible and what was reached, what was gained and lost, and the answers themselves, side by side.

Made from the curves that studies left in a folder, one JSON file per study and seed; a section without its files is left out.
"""

import html
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.experience.files import write_whole
from tutelage.experiment import text_charts
from tutelage.experiment.charts import Dots, inline, number
from tutelage.experiment.charts import strip as dots_by_method
from tutelage.experiment.document import document
from tutelage.experiment.text_charts import Marks, Spread

PAGE = "report.html"
ROLES = {"dpo": "learned", "ppo-lm": "reference", "ppo-gold": "other", "best-of": "third"}
NAMES = {"dpo": "DPO", "ppo-lm": "PPO", "ppo-gold": "PPO on gold", "best-of": "best-of-n (its KL is a bound)"}


def write_page(folder: Path) -> Path:
    """Write `folder/report.html` and return its path. Raises ChartError when matplotlib is missing."""
    studies: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        studies.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text(encoding="utf-8")))
    known = (("chain", _chain), ("frontier", _frontier), ("over-optimization", _pressure), ("alignment-tax", _tax), ("k-wise", _passes))
    sections = [make(studies[name]) for name, make in (*known, ("win-rates", _wins)) if name in studies]
    if "chain" in studies:
        sections.append(_samples(studies["chain"][0]["curves"]))
    page = folder / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    title = "From demonstrations to PPO, in a world that knows the answer"
    whole = document(title, f"<h1>{html.escape(title)}</h1>\n{''.join(sections)}\n")
    write_whole(page, whole.encode(), folder / f".{PAGE}.{os.getpid()}")
    return page


def section(title: str, words: str, body: str) -> str:
    """A heading, what the figure says, and the figure."""
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(words)}</p>{body}</section>"


def side_by_side(prompts: Sequence[str], columns: dict[str, Sequence[str]]) -> str:
    """Answers of several models to the same prompts as one table."""
    head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in columns)
    cell = lambda text: f'<td style="white-space: normal; text-align: left; vertical-align: top">{html.escape(text)}</td>'
    rows = "".join(
        f"<tr>{cell(prompt)}{''.join(cell(answers[i]) for answers in columns.values())}</tr>" for i, prompt in enumerate(prompts)
    )
    return f'<div class="table"><table><thead><tr><th>prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _key(roles: dict[str, str]) -> str:
    items = "".join(f'<li class="{role}"><i></i><span>{html.escape(name)}</span></li>' for name, role in roles.items())
    return f'<ul class="key">{items}</ul>'


def _rows(seeds: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By method."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for row in seed["rows"]:
            found.setdefault(row["method"], []).append(row)
    return found


def _spread(name: str, role: str, rows: list[dict[str, Any]]) -> Spread:
    return Spread(name, role, [(row["score"], row["numbers"]["low"], row["numbers"]["high"]) for row in rows])


def _chain(seeds: list[dict[str, Any]]) -> str:
    rows = _rows(seeds)
    spreads = [_spread(NAMES[name], ROLES[name], rows[name]) for name in ("dpo", "ppo-lm")]
    kl = {name: number(float(np.mean([row["numbers"]["kl"] for row in rows[name]]))) for name in ("dpo", "ppo-lm")}
    chart = inline(partial(text_charts.win_rates, spreads), "chain", "Win rates of DPO and PPO over SFT", 150)
    words = f"Preferred by gold to the SFT model's answers; DPO at {kl['dpo']} and PPO at {kl['ppo-lm']} nats from it, means over seeds."
    return section("Better than SFT", words, chart)


def _frontier(seeds: list[dict[str, Any]]) -> str:
    best = []
    for seed in seeds:
        first, known = seed["curves"]["frontier"][0], [p for p in seed["curves"]["frontier"] if p["effective_draws"] >= 50.0]
        gold = [first["gold"] - first["beta"] * first["kl"], *(p["gold"] for p in known)]
        best.append((np.array([0.0, *(p["kl"] for p in known)]), np.array(gold)))
    points = [point for seed in seeds for point in seed["curves"]["points"]]
    marks = [
        Marks(NAMES[name], role, [(p["kl"], p["gold"]) for p in points if p["method"].startswith(name)], "^" if name == "best-of" else "o")
        for name, role in ROLES.items()
    ]
    furthest = 1.15 * max(float(x[-1]) for x, _ in best) or 1.0
    chart = inline(
        partial(text_charts.frontier, best, marks, furthest), "frontier", "Gold score over KL for every method and the optimum", 380, 330
    )
    words = (
        "The line is the best that any policy can do at this distance from SFT, computed from the SFT model's own answers; it ends "
        "where fewer than 50 of them count. Each dot is one seed at one price of a nat."
    )
    return section(
        "What is possible, and what was reached", words, _key({"the optimum": "ink"} | {NAMES[n]: r for n, r in ROLES.items()}) + chart
    )


def _pressure(seeds: list[dict[str, Any]]) -> str:
    panels = {}
    for method, name in (("single", "one reward model"), ("disagreement", "five, less their disagreement")):
        curves = [seed["curves"][method] for seed in seeds]
        steps = np.arange(1.0, min(len(curve["gold"]) for curve in curves) + 1)
        panels[name] = [tuple((steps, np.array(curve[kind][: len(steps)])) for kind in ("proxy", "gold")) for curve in curves]
    chart = inline(partial(text_charts.over_optimization, panels), "pressure", "Proxy and gold score over iterations of PPO", 320, 520)
    fall = {
        name: number(float(np.median([row["numbers"]["fall"] for row in own]))) for name, own in _rows(seeds).items() if name != "best-of-n"
    }
    words = (
        f"The reward model's score (dashed) and the true one, with few labels. From its peak gold falls by {fall['ppo-lm-single']} "
        f"with one reward model and by {fall['ppo-lm-disagreement']} with five whose disagreement is taken off, medians over seeds."
    )
    return section("When the proxy is optimized too far", words, _key({"gold": "learned", "the reward model's score": "reference"}) + chart)


def _tax(seeds: list[dict[str, Any]]) -> str:
    rows = _rows(seeds)
    dots = [
        Dots(name, role, [100.0 * row["numbers"]["tax"] for row in rows[method]])
        for method, name, role in (("ppo-lm", "PPO", "reference"), ("ppo-ptx", "PPO-ptx", "learned"))
    ]
    wins = {method: number(float(np.mean([row["score"] for row in own]))) for method, own in rows.items()}
    chart = inline(partial(_losses, dots), "tax", "Increase of the loss on held-out text", 150)
    words = f"Win rates over SFT: PPO {wins['ppo-lm']}, PPO-ptx {wins['ppo-ptx']}. What each lost of the language itself:"
    return section("The alignment tax", words, chart)


def _losses(dots: Sequence[Dots], figure: Any, narrow: bool) -> None:
    dots_by_method(dots, figure, narrow)
    below = "more loss on held-out text than SFT, %" if not narrow else "more loss than SFT, %"
    figure.axes[0].set_xlabel(below, loc="right")


def _passes(seeds: list[dict[str, Any]]) -> str:
    lines = {}
    for method, name, role in (("per-prompt", "a prompt is one element", "learned"), ("shuffled-pairs", "pairs shuffled", "reference")):
        curves = [np.array(seed["curves"][method]) for seed in seeds]
        lines[name] = (role, [tuple((np.arange(1.0, len(c) + 1), c[:, kind]) for kind in (0, 1)) for c in curves])
    chart = inline(partial(text_charts.passes, lines), "passes", "Loss of a reward model over passes", 300)
    words = "The same rankings of six answers; shuffled, each answer is learned from five times per pass."
    return section("All pairs of a prompt at once", words, _key({name: role for name, (role, _) in lines.items()}) + chart)


def _wins(seeds: list[dict[str, Any]]) -> str:
    rows = _rows(seeds)
    names = (("pretrained", "pretrained", "untrained"), ("sft", "SFT", "other"), ("dpo", "DPO", "learned"), ("ppo-lm", "PPO", "reference"))
    chart = inline(
        partial(text_charts.win_rates, [_spread(name, role, rows[method]) for method, name, role in names]),
        "wins", "Win rates against people's answers", 240,
    )  # fmt: skip
    return section("Against people's answers", "Preferred by gold to the demonstration for the same prompt.", chart)


def _samples(curves: dict[str, Any]) -> str:
    return section(
        "Answers side by side",
        "The first seed's models on the first prompts that they are evaluated on.",
        side_by_side(curves["prompts"], curves["samples"]),
    )
