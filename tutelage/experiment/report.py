"""The page a person reads after a run: one HTML file, no network, no scripts, every number from `events.jsonl`.

`write_report` reads the run's log (and those of runs beside it), `Story` says what can be told from it, and each section is
a function from the story to HTML. A section without its events is left out or says why it is empty; nothing is made up.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.evaluate.comparison import Result, compare
from tutelage.experiment import charts
from tutelage.experiment.charts import Curves, Dots, Lines, Points, number
from tutelage.experiment.document import document
from tutelage.experiment.log import EVENTS
from tutelage.experiment.story import SHOWN_EPISODES, Event, Story, is_number, pair, points, thinned

REPORT = "report.html"
NO_CLIP = "no clip was made"
"""How a warning begins that is about a clip: it is shown where the clip would be."""
CLIP_LIMIT = 4 * 2**20
"""Bytes; a longer clip stays in the run directory, so that the page can still be sent around."""
SHOWN_POINTS, SHOWN_METRICS, SHOWN_SESSIONS = 300, 12, 60
"""Dots per seed in the scatter, small charts of the learner, marks on the learning curves (none if there would be more)."""


@dataclass(frozen=True)
class Goal:
    """What reaching a return means to somebody who watches."""

    least: float
    reached: str
    missed: str


GOALS = {
    "gym:Pendulum-v1": Goal(-200.0, "the pendulum swings up", "the pendulum does not swing up"),
    "dm:walker-walk": Goal(700.0, "the walker walks", "the walker does not walk"),
    "gym:HalfCheetah-v5": Goal(2000.0, "the cheetah runs", "the cheetah does not run"),
}
"""Only where the run is judged by the game's own reward; other games are told by their numbers."""


def write_report(run: Path, beside: Sequence[Path] = ()) -> Path:
    """Write `run/report.html` and return its path.

    beside: directories of other runs of the same game to show next to this one; a run without answers learned from the true
    reward and becomes the reference. Raises LogError when a log cannot be read, ChartError when matplotlib is missing.
    """
    story = Story.read(run, beside)
    page = run / REPORT
    unfinished = page.with_suffix(".html.part")
    unfinished.write_text(render(story), encoding="utf-8")
    unfinished.replace(page)
    return page


def render(story: Story) -> str:
    """The whole page."""
    sections = [section(story) for section in (_clips, _returns, _answers, _judgement, _every_seed, _details)]
    title = headline(story)
    body = f"""<header>
<p class="eyebrow">{_e(_eyebrow(story))}</p>
<h1>{_headline(story)}</h1>
<p class="deck">{_e(_deck(story))}</p>
{_notes(story)}</header>
{"".join(sections)}{_footer(story)}"""
    return document(title, body, clips=True)


def _eyebrow(story: Story) -> str:
    log = story.log
    day = datetime.fromtimestamp(log.start["time"], UTC) if "time" in log.start else None
    when = f"{day.day} {day:%B %Y}" if day else ""
    end = log.last("end")
    took = _duration(end["seconds"]) if end and isinstance(end.get("seconds"), int | float) else ""
    seeds = f"{len(log.seeds)} seed{'s' * (len(log.seeds) != 1)}"
    return "  ·  ".join(part for part in (log.title, story.task, seeds, f"{log.steps:,} steps per seed", took, when) if part)


def headline(story: Story) -> str:
    """What was learned, in words; the numbers follow in `_headline`."""
    log, scores = story.log, story.scores
    if not scores:
        return f"{log.title} on {story.task} has not finished an episode yet"
    mean, n = _mean(scores), len(scores)
    if story.answers:
        after = f"After {_count(story.answers.values())} answers"
    else:
        after = f"After {log.steps:,} steps{'' if log.learns_from_answers else ' with the true reward'}"
    goal = GOALS.get(log.game) if log.lesson is None else None
    if goal:
        reached = sum(score >= goal.least for score in scores.values())
        if reached == 0:
            return f"{after} {goal.missed}{'' if log.finished else ' yet'}"
        return f"{after} {goal.reached}" + ("" if reached == n else f" in {reached} of {n} seeds")
    what = story.task
    if story.reference and story.untrained and log.learns_from_answers:
        gap = _mean(story.reference.scores) - _mean(story.untrained)
        share = (mean - _mean(story.untrained)) / gap if gap > 0 else float("nan")
        for least, words in (
            (0.95, f"the agent is as good at {what} as with the true reward"),
            (0.75, f"the agent is nearly as good at {what} as with the true reward"),
            (0.25, f"the agent has learned part of {what}"),
            (0.10, f"the agent has begun to learn {what}"),
        ):
            if share >= least:
                return f"{after} {words}"
        if gap > 0:
            return f"{after} the agent has not learned {what}"
    if story.untrained:
        moved = "better" if mean > max(story.untrained.values()) else "no better"
        return f"{after} the agent is {moved} at {what} than untrained"
    return f"{after} the agent plays {what}"


def _headline(story: Story) -> str:
    words = _e(headline(story))
    if not story.scores:
        return f"{words}."
    others = []
    if story.reference:
        how = "with the true reward" if story.log.learns_from_answers else f"of {story.reference.name}"
        others.append(f'<b class="reference">{number(_mean(story.reference.scores))}</b> {_e(how)}')
    if story.untrained:
        others.append(f'<b class="untrained">{number(_mean(story.untrained))}</b> untrained')
    against = f" against {' and '.join(others)}" if others else ""
    return f'{words}: <b class="learned">{number(_mean(story.scores))}</b>{against}.'


def _deck(story: Story) -> str:
    log, scores = story.log, story.scores
    if not scores:
        return "The numbers will appear here once the first episode is over; run the report again then."
    event = log.last("evaluation", policy="learned")
    if event:
        played = len(event.get("returns") or [])
        what = f"the {'final' if log.finished else 'latest'} policy" + (f" in {played} noise-free episodes" if played else "")
    else:
        what = "the last five training episodes, for this run has no evaluation yet"
    low, high = number(min(scores.values())), number(max(scores.values()))
    seeds = f"; every one of {len(scores)} seeds lies between {low} and {high}" if low != high else f", {len(scores)} seeds at {low}"
    text = f"Mean return of {what}{seeds if len(scores) > 1 else ', one seed'}. Higher is better."
    if log.learns_from_answers:
        teacher = f"a simulated teacher ({log.config.get('teacher', 'oracle')})"
        rater = {"oracle": teacher, "store": "people", "human": "people"}.get(str(log.config.get("rater")), "its teacher")
        text += f" The agent never saw the true reward: it asked {rater} which of two short clips is better."
    return text


def _notes(story: Story) -> str:
    log = story.log
    notes = [
        f"Seed {e.get('seed', '?')} stopped learning at step {e['step']:,}: its {e.get('what', 'net')} was no longer finite and was frozen."
        for e in log.of("frozen_member")
    ]
    notes += [text for e in log.of("warning") if not (text := str(e.get("message"))).startswith(NO_CLIP)]
    if not log.finished:
        notes.append(f"This run is not finished: its log ends at step {log.steps:,}.")
    if not notes:
        return ""
    items = "".join(f"<li>{_e(note)}</li>" for note in dict.fromkeys(notes))
    return f'<aside class="notes" aria-label="Warnings"><ul>{items}</ul></aside>\n'


def _clips(story: Story) -> str:
    events = story.log.of("clip")
    by_seed: dict[Any, list[Event]] = {}
    for event in events:
        by_seed.setdefault(event.get("seed"), []).append(event)
    own = sorted(max(by_seed.values(), key=len), key=lambda e: e["step"]) if by_seed else []
    chosen = own if len(own) <= 3 else [own[0], own[len(own) // 2], own[-1]]
    shown, reasons = [], []
    planned = story.log.config.get("steps")
    whole = planned if isinstance(planned, int) else story.log.steps
    for event in chosen:
        data, reason = _clip_bytes(story.run, event)
        if data is None:
            reasons.append(reason)
            continue
        step, caption = event["step"], str(event.get("caption") or "")
        when = "Before" if step <= 0.05 * whole else "After" if step >= 0.95 * whole else "During"
        said = caption.removeprefix(when) if caption.startswith(when) else f", step {step:,}. {caption}"
        source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        shown.append(
            f'<figure><video src="{source}" autoplay loop muted playsinline controls aria-label="{_e(caption or when)}"></video>'
            f"<figcaption><b>{when}</b>{_e(said)}</figcaption></figure>"
        )
    reasons += [text for e in story.log.of("warning") if (text := str(e.get("message"))).startswith(NO_CLIP)]
    if not events and not reasons:
        reasons = ["This run recorded no clips."]
    more = len(events) - len(chosen)
    rest = f"<p>{more} more in <code>clips/</code>.</p>" if shown and more else ""
    missing = "".join(f'<p class="missing">{_e(reason)}</p>' for reason in dict.fromkeys(reasons))
    body = f'<div class="clips">{"".join(shown)}</div>' if shown else ""
    return f"<section><h2>What it looks like</h2>{body}{rest}{missing}</section>\n"


def _clip_bytes(run: Path, event: Event) -> tuple[bytes | None, str]:
    """The clip's bytes, or the reason why there are none."""
    if not event.get("file"):
        return None, f"No clip: {event.get('reason') or event.get('caption') or 'the run did not say why'}."
    name = str(event["file"])
    path = (run / name).resolve()
    if not path.is_relative_to(run):  # a log from elsewhere must not pull this machine's files into a page that is sent around
        return None, f"{name} is not shown: it lies outside the run directory."
    if not path.is_file():
        return None, f"{name} is not shown: the file is missing from the run directory."
    if path.stat().st_size > CLIP_LIMIT:
        return None, f"{name} is not shown: it has {path.stat().st_size / 2**20:.0f} MB, and {CLIP_LIMIT // 2**20} MB are embedded at most."
    data = path.read_bytes()
    if data[4:8] != b"ftyp":
        return None, f"{name} is not shown: it is no mp4 file."
    return data, ""


def _returns(story: Story) -> str:
    log, curves = story.log, story.log.curves()
    if not story.scores:
        return ""
    own = "learned from answers" if log.learns_from_answers else f"{log.title}, this run"
    methods, key = [Lines("learned", curves)], [_key("learned", own)]
    levels = []
    for reference in story.references:
        label = f"{reference.name} on the true reward" if reference.true_reward else reference.name
        if reference.curves:
            methods.append(Lines(reference.role, reference.curves))
            key.append(_key(reference.role, label))
        elif reference.scores:
            levels.append((reference.role, _mean(reference.scores)))
            key.append(_key(reference.role, f"{label}, at its end", "dashed"))
    if story.untrained:
        levels.append(("untrained", _mean(story.untrained)))
        key.append(_key("untrained", "untrained policy", "dashed"))
    asked = sorted({e["step"] for e in log.of("queries") or log.of("session")})
    asked = asked if len(asked) <= SHOWN_SESSIONS else []
    if asked:
        key.append(_key("ink", "answers asked for", "mark"))
    end = max([log.steps, *(int(x[-1]) for r in story.references for x, _ in r.curves.values() if len(x))])
    data = Curves(methods, levels, asked, end)
    how = " A thin line is one seed, the bold line their mean." if len(log.seeds) > 1 else ""
    evaluated = log.curves_are_evaluations
    kind = "Mean return of noise-free evaluations along the way." if evaluated else "Return of the training episodes, noise included."
    if not evaluated and max((len(log.of("episode", s)) for s in log.seeds), default=0) > SHOWN_EPISODES:
        kind += " Neighboring episodes are averaged."
    drawn = '<p class="missing">No episode of this run ended during training.</p>'
    if curves:
        described = f"Return over environment steps. {headline(story)}."
        drawn = charts.inline(partial(charts.learning_curves, data), "curves", described, 340, 300)
    rows = [Dots(log.title, "learned", list(story.scores.values()))]
    rows += [Dots(r.name, r.role, list(r.scores.values())) for r in story.references if r.scores]
    rows += [Dots("untrained", "untrained", list(story.untrained.values()))] if story.untrained else []
    height = 62 + 40 * len(rows)
    means = "; ".join(f"{row.name}: {', '.join(number(s) for s in row.scores)}" for row in rows)
    final = charts.inline(partial(charts.strip, rows), "strip", f"Return at the end, one dot per seed. {means}.", height)
    explained = "One dot per seed; the bar and the number are their mean."
    return (
        f"<section><h2>How it learned</h2><p>{kind}{how}</p>"
        f'<ul class="key">{"".join(key)}</ul><figure>{drawn}</figure></section>\n'
        f"<section><h2>Where it ended</h2><p>{explained}</p><figure>{final}</figure></section>\n"
    )


def _answers(story: Story) -> str:
    log = story.log
    if not log.learns_from_answers:
        return ""
    labels = {s: line for s in log.seeds if len((line := points(log.of("session", s), "labels"))[0])}
    # Seeds are usually asked at the same steps: one line then, not one on top of the other.
    distinct = {(x.tobytes(), y.tobytes()): (s, (x, y)) for s, (x, y) in labels.items()}
    quality, key = [], []
    for name, role, text in (
        ("accuracy", "learned", "accuracy on the answers"),
        ("correlation", "other", "correlation with the true return"),
    ):
        lines = {s: line for s in log.seeds if len((line := points(log.of("session", s), name))[0])}
        if lines:
            quality.append(Lines(role, lines))
            key.append(_key(role, text, "dashed" if quality[1:] else ""))
    if not labels:
        return ""
    sessions = max(len(x) for x, _ in labels.values())
    samplers = dict.fromkeys(str(e["sampler"]) for e in [*log.of("queries"), *log.of("session")] if e.get("sampler"))
    chosen = f", the pairs picked by {', then by '.join(samplers)} sampling" if samplers else ""
    height = 360 if quality else 200
    described = "Answers received over environment steps, and how well the reward model fits them."
    drawn = charts.inline(partial(charts.answers, dict(distinct.values()), quality, log.steps), "answers", described, height)
    return (
        f"<section><h2>What it was told</h2><p>{_count(story.answers.values())} answers per seed in {sessions} "
        f"session{'s' * (sessions != 1)}{_e(chosen)}.</p>"
        f'<ul class="key">{"".join(key)}</ul><figure>{drawn}</figure></section>\n'
    )


def _judgement(story: Story) -> str:
    """The learned reward against the true one, and its probabilities against what happened."""
    log = story.log
    figures = []
    pairs = {s: pair(e, "true", "learned") for s in log.seeds if (e := log.last("scatter", s))}
    pairs = {s: both for s, both in pairs.items() if len(both[0])}
    if pairs:
        known = [r for both in pairs.values() if (r := correlation(*both)) is not None]
        said = f"Correlation {_range(known)}." if known else "Correlation is not defined: one side does not vary."
        thin = {s: (x[:: 1 + len(x) // SHOWN_POINTS], y[:: 1 + len(x) // SHOWN_POINTS]) for s, (x, y) in pairs.items()}
        drawn = charts.inline(partial(charts.scatter, thin), "scatter", f"Learned against true return. {said}", 330, 300, width=344)
        figures.append(
            f"<figure><h3>Learned against true return</h3>{drawn}<figcaption><b>{said}</b> Each dot is a segment; learned returns have no "
            "unit and are shown in standard deviations of their seed.</figcaption></figure>"
        )
    pooled = _pooled_calibration([e for s in log.seeds if (e := log.last("calibration", s))])
    if pooled:
        (predicted, observed), count = pooled
        error = float((count * np.abs(predicted - observed)).sum() / count.sum())
        described = f"Calibration. Mean error {100 * error:.0f} percentage points."
        drawn = charts.inline(partial(charts.calibration, pooled), "calibration", described, 330, 300, width=344)
        figures.append(
            f"<figure><h3>Does it know how sure to be?</h3>{drawn}<figcaption><b>Off by {100 * error:.0f} percentage points on average</b> "
            f"over {int(count.sum()):,} comparisons of all seeds; a bigger dot stands for more of them. On the dashed line it would be "
            "exact.</figcaption></figure>"
        )
    if not figures:
        return ""
    return f'<section><h2>What it learned to want</h2><div class="pair">{"".join(figures)}</div></section>\n'


def _every_seed(story: Story) -> str:
    log, reference = story.log, story.reference
    if not story.scores:
        return ""
    columns: list[tuple[str, Mapping[int, Any]]] = [("mean return", {s: number(x) for s, x in story.scores.items()})]
    returns = {s: e["returns"] for s in log.seeds if (e := log.last("evaluation", s, policy="learned")) and e.get("returns")}
    worst = {s: min(filter(is_number, own), default=None) for s, own in returns.items()}
    columns.append(("worst episode", {s: number(x) for s, x in worst.items() if x is not None}))
    if reference:
        columns.append((reference.name, {s: number(x) for s, x in reference.scores.items()}))
    if story.untrained:
        columns.append(("untrained", {s: number(x) for s, x in story.untrained.items()}))
    last = {s: e for s in log.seeds if (e := log.last("session", s))}
    if last:
        columns.append(("answers", {s: e["labels"] for s, e in last.items() if e.get("labels") is not None}))
        for name in ("accuracy", "correlation"):
            columns.append((name, {s: f"{e[name]:.2f}".replace("-", "−") for s, e in last.items() if e.get(name) is not None}))
    columns = [(name, values) for name, values in columns if values]
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name, _ in columns)
    cells = {s: "".join(f"<td>{_e(str(values.get(s, '–')))}</td>" for _, values in columns) for s in log.seeds}
    body = "".join(f'<tr><th scope="row">{s}</th>{row}</tr>' for s, row in cells.items())
    return (
        f'<section><h2>Every seed</h2><div class="table" tabindex="0" role="region" aria-label="Results of every seed"><table><thead><tr>'
        f'<th scope="col">seed</th>{head}</tr></thead><tbody>{body}</tbody></table></div>{_intervals(story)}</section>\n'
    )


def _intervals(story: Story) -> str:
    """Interquartile means and who beats whom, from five seeds on."""
    results = [Result(story.task, story.log.title, s, 0, float(score)) for s, score in story.log.scores().items()]
    names = {story.log.title}
    for reference in story.references:
        if reference.name not in names:
            names.add(reference.name)
            results += [Result(story.task, reference.name, s, 0, float(score)) for s, score in reference.scores.items()]
    said = []
    comparison = compare(results)
    for row in comparison.rows:
        if iqm := row.interquartile_mean:
            said.append(f"{row.method}: interquartile mean {number(iqm.estimate)} [{number(iqm.low)}, {number(iqm.high)}].")
    for duel in comparison.duels:
        p = duel.probability
        said.append(f"{duel.method} beats {duel.other} with probability {p.estimate:.2f} [{p.low:.2f}, {p.high:.2f}].")
    if said:
        return f"<p>{_e(' '.join(said))} Brackets: 95 % bootstrap over seeds.</p>"
    few = len(story.scores)
    return f"<p>Fewer than five seeds ({few}): every run is listed and no interval is given.</p>" if few else ""


def _details(story: Story) -> str:
    log = story.log
    parts = []
    names = dict.fromkeys(
        name for e in log.of("update") for name, value in e.items() if name not in ("event", "time", "step", "seed") and is_number(value)
    )
    series = {
        n: {s: line for s in log.seeds if len((line := thinned(points(log.of("update", s), n)))[0])} for n in [*names][:SHOWN_METRICS]
    }
    if series:
        rows, narrow_rows = -(-len(series) // 3), -(-len(series) // 2)
        described = f"Over environment steps: {', '.join(series)}."
        drawn = charts.inline(partial(charts.metrics, series), "metrics", described, 150 * rows + 10, 140 * narrow_rows + 10)
        hidden = f", the first {SHOWN_METRICS} of {len(names)}" if len(names) > SHOWN_METRICS else ""
        hint = f"losses and measures, one line per seed{hidden}"
        parts.append(f"<details><summary>The learner, step by step <small>{hint}</small></summary>{drawn}</details>")
    for title, hint, values in (
        ("Configuration", "what the run was told", log.config),
        ("Fingerprint", "where it ran, and with what", log.start.get("fingerprint") or {}),
    ):
        pairs = flat(values)
        if pairs:
            rows = "".join(f"<div><dt>{_breakable(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in pairs)
            parts.append(f'<details open><summary>{title} <small>{hint}</small></summary><dl class="pairs">{rows}</dl></details>')
    return f"<section><h2>For whoever repeats it</h2>{''.join(parts)}</section>\n" if parts else ""


def _footer(story: Story) -> str:
    again = ""
    for event in story.log.of("resumed"):
        restored = "; ".join(str(sentence) for sentence in event.get("restored") or [])
        again += f" The run was interrupted and went on from step {event['step']:,}{f' ({_e(restored)})' if restored else ''}."
    others = " and those of the runs beside it" if story.references else ""
    source = f"the {len(story.log.events):,} events in <code>{_e(story.log.name)}/{EVENTS}</code>{others}"
    return f"<footer><p>Every number on this page is read from {source}.{again}</p></footer>\n"


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation, or None where one side does not vary."""
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _pooled_calibration(events: Sequence[Event]) -> tuple[Points, np.ndarray] | None:
    """Bins of all seeds together, weighted by their counts; empty bins are left out."""
    total: dict[int, np.ndarray] = {}
    for event in events:
        for i, (p, f, n) in enumerate(zip(event.get("probability", []), event.get("frequency", []), event.get("count", []), strict=False)):
            if n and p is not None and f is not None:
                total[i] = total.get(i, np.zeros(3)) + np.array([n * p, n * f, n])
    if not total:
        return None
    sums = np.stack([total[i] for i in sorted(total)])
    return (sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2]), sums[:, 2]


def _mean(scores: Mapping[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _count(values: Any) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{v:.2f}".replace("-", "−") for v in (min(values), max(values)))
    return low if len(values) == 1 or low == high else f"{low} to {high} over seeds"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names and printed values; what the run itself was told comes before the settings of its parts."""
    pairs: list[tuple[str, str]] = []
    for name, value in sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)):
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return pairs


def _key(role: str, text: str, shape: str = "") -> str:
    inside = "▲" if shape == "mark" else ""
    return f'<li class="{role}"><i class="{shape}" aria-hidden="true">{inside}</i><span>{_e(text)}</span></li>'


def _breakable(name: str) -> str:
    """A long dotted name may go on in the next line after a dot or an underscore, and only there."""
    return _e(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _e(text: str) -> str:
    return html.escape(text, quote=True)
