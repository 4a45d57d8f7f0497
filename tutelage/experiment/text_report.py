"""The page a person reads after a run of a language model: one HTML file, every number from `events.jsonl`."""

import html
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.experiment import charts
from tutelage.experiment.document import document
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.report import REPORT, flat
from tutelage.experiment.story import Event, is_number, points, thinned
from tutelage.experiment.text_page import section, side_by_side

SHOWN_METRICS = 18


def write_text_report(run: Path, more: Sequence[str] = ()) -> Path:
    """Write `run/report.html` and return its path. more: sections of HTML by others. Raises LogError, ChartError."""
    page = run / REPORT
    unfinished = page.with_suffix(".html.part")
    unfinished.write_text(render_text_report(run, more), encoding="utf-8")
    unfinished.replace(page)
    return page


def render_text_report(run: Path, more: Sequence[str] = ()) -> str:
    """The whole page."""
    events = read_events(run / EVENTS)
    start = next((event for event in events if event["event"] == "start"), {})
    config: dict[str, Any] = start.get("config") or {}
    title = _title(config, events)
    sections = [
        _series(events, "evaluation", "On what was held out"),
        _samples(events),
        *more,
        _series(events, "update", "While it learned"),
    ]
    body = f"""<header>
<p class="eyebrow">{_e(str(config.get("name", "")))}  ·  {_e(str(config.get("data", "")))}  ·  seed {_e(str(config.get("seed", "")))}</p>
<h1>{_e(title)}.</h1>
{_notes(events)}</header>
{"".join(sections)}{_details(start)}
<footer><p>Every number on this page is read from the {len(events):,} events in <code>{_e(run.resolve().name)}/{EVENTS}</code>.</p></footer>
"""
    return document(title, body)


def _title(config: dict[str, Any], events: Sequence[Event]) -> str:
    updates = [event for event in events if event["event"] == "update"]
    measured = [event for event in events if event["event"] == "evaluation"]
    name = str(config.get("name", "a language model"))
    if not updates:
        return f"{name} has not learned yet"
    said = f"{name} after {updates[-1]['step']:,} updates"
    for name, words in (("accuracy", "held-out accuracy"), ("loss", "held-out loss")):
        ends = [event[name] for event in (measured[:1] + measured[-1:]) if is_number(event.get(name))]
        if len(ends) == 2:
            return f"{said}: {words} {ends[1]:.3g}, {ends[0]:.3g} before"
    if is_number(updates[-1].get("score")):
        return f"{said}: score {updates[-1]['score']:.2f} at {updates[-1].get('kl', 0.0):.2f} nats from the reference"
    return said


def _notes(events: Sequence[Event]) -> str:
    notes = [str(event.get("message")) for event in events if event["event"] == "warning"]
    if not any(event["event"] == "end" for event in events):
        notes.append("This run is not finished.")
    items = "".join(f"<li>{_e(note)}</li>" for note in dict.fromkeys(notes))
    return f'<aside class="notes" aria-label="Warnings"><ul>{items}</ul></aside>\n' if items else ""


def _series(events: Sequence[Event], kind: str, title: str) -> str:
    """Small charts of every number of one kind of event."""
    own = [event for event in events if event["event"] == kind]
    names = dict.fromkeys(
        name
        for event in own
        for name, value in event.items()
        if name not in ("event", "time", "step", "seed", "seconds") and is_number(value)
    )
    series = {name: {0: line} for name in [*names][:SHOWN_METRICS] if len((line := thinned(points(own, name)))[0]) > 1}
    if not series:
        return ""
    described = f"Over updates: {', '.join(series)}."
    drawn = charts.inline(
        partial(charts.metrics, series), kind, described, 150 * -(-len(series) // 3) + 10, 140 * -(-len(series) // 2) + 10
    )
    return f"<section><h2>{title}</h2><p>Over updates.</p><figure>{drawn}</figure></section>\n"


def _samples(events: Sequence[Event]) -> str:
    """One row per prompt."""
    last = next((event for event in reversed(events) if event["event"] == "samples"), None)
    if last is None or not last.get("rows"):
        return ""
    rows: list[dict[str, str]] = last["rows"]
    columns: dict[str, Sequence[str]] = {name: [row.get(name, "") for row in rows] for name in rows[0] if name != "prompt"}
    words = "The most probable words after the same prompts, before training and after it."
    return section("What it writes", words, side_by_side([row["prompt"] for row in rows], columns))


def _details(start: Event) -> str:
    parts: list[str] = []
    told = (("Configuration", "config"), ("Fingerprint", "fingerprint"), ("Inputs", "inputs"), ("Rows", "rows"))
    for title, name in told:
        pairs = flat(start.get(name) or {})
        if pairs:
            rows = "".join(f"<div><dt>{_e(key)}</dt><dd>{_e(value)}</dd></div>" for key, value in pairs)
            parts.append(f'<details open><summary>{title}</summary><dl class="pairs">{rows}</dl></details>')
    return f"<section><h2>For whoever repeats it</h2>{''.join(parts)}</section>\n"


def _e(text: str) -> str:
    return html.escape(text, quote=True)
