"""The report's charts: drawn by matplotlib, handed over as SVG that takes its colors and its typeface from the page.

Every color is a role (`learned`, `reference`, ...) that the style sheet defines once for light and once for dark. Every chart
is drawn twice, for a desk and for a phone, since scaling one drawing down would leave letters that nobody can read.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib is imported when the first chart is drawn

WIDE, NARROW = 720, 344
"""Widths of the two drawings in CSS pixels."""

ROLES = ("ink", "muted", "rule", "paper", "learned", "reference", "other", "third", "untrained")
"""What a color can mean; the style sheet has a variable of each name."""

# Colors that stand for roles until the drawing is text: near-blacks that matplotlib passes through unchanged.
STANDS_FOR = {role: f"#0{i}0{i}0{i}" for i, role in enumerate(ROLES, start=1)}

Points = tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]
"""Positions and values of one line, equally many."""


class ChartError(RuntimeError):
    """Charts cannot be drawn on this machine."""


@dataclass(frozen=True)
class Lines:
    """One method's lines, one per seed."""

    role: str
    by_seed: Mapping[int, Points]


@dataclass(frozen=True)
class Dots:
    """One row of the strip: a method and what each of its seeds reached."""

    name: str
    role: str
    scores: Sequence[float]


@dataclass(frozen=True)
class Curves:
    """What the learning-curve chart shows."""

    methods: Sequence[Lines]
    levels: Sequence[tuple[str, float]]
    """(role, value): dashed lines over the whole width."""
    asked_at: Sequence[int] = field(default=())
    """Steps at which answers were asked for."""
    end: int = 0
    """Where the horizontal axis ends, in environment steps."""


def learning_curves(data: Curves, figure: Figure, narrow: bool) -> None:
    """Returns over steps: one line per seed, the mean of each method, and levels across."""
    axes = plain_axes(figure)
    for role, value in data.levels:
        axes.axhline(value, color=STANDS_FOR[role], linewidth=1.4, linestyle=(0, (5, 4)), zorder=2)
    for method in reversed(data.methods):  # this run on top
        color = STANDS_FOR[method.role]
        lines = [line for line in method.by_seed.values() if len(line[0])]
        for x, y in lines:
            axes.plot(x, y, color=color, linewidth=1.0, alpha=0.4 if len(lines) > 1 else 1.0, zorder=3)
        if len(lines) > 1:
            axes.plot(*mean_line(lines), color=color, linewidth=2.4, zorder=4)
        for x, y in lines:
            axes.plot(x[-1:], y[-1:], "o", color=color, markersize=3.5, zorder=5)
    axes.set_xlim(0, data.end or None)
    if data.asked_at:
        axes.plot(
            data.asked_at, [0.022] * len(data.asked_at), "^", color=STANDS_FOR["ink"], markersize=6, clip_on=False, zorder=6,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    captions(axes, "return per episode", "environment steps")


def strip(rows: Sequence[Dots], figure: Figure, narrow: bool) -> None:
    """One row per method, one dot per seed, a bar at their mean; the mean is also written out."""
    axes = plain_axes(figure, vertical=True)
    for i, row in enumerate(rows):
        color, mean = STANDS_FOR[row.role], float(np.mean(row.scores))
        axes.plot([mean, mean], [i - 0.3, i + 0.3], color=color, linewidth=2.4, solid_capstyle="butt", zorder=3)
        spread = [i + 0.16 * (k % 3 - 1) for k in range(len(row.scores))] if len(row.scores) > 1 else [i]  # so that equal ones show
        axes.plot(row.scores, spread, "o", color=color, alpha=0.6, markersize=8, markeredgewidth=0, zorder=4)
    axes.set_yticks(
        range(len(rows)), [f"{shortened(row.name, 12 if narrow else 24)}\u2002{number(float(np.mean(row.scores)))}" for row in rows]
    )
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(STANDS_FOR[row.role])
        label.set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.05)
    captions(axes, "", "return per episode, higher is better")


def answers(labels: Mapping[int, Points], quality: Sequence[Lines], end: int, figure: Figure, narrow: bool) -> None:
    """Above: answers received so far. Below: how well the reward model agrees with them, and with the true reward."""
    shared = bool(quality)
    above = plain_axes(figure, (2, 1, 1) if shared else (1, 1, 1))
    for x, y in labels.values():
        above.step([0, *x, end], [0, *y, y[-1]], where="post", color=STANDS_FOR["ink"], linewidth=1.8, zorder=3)
        above.plot(x, y, "^", color=STANDS_FOR["ink"], markersize=6, zorder=4)
    above.set_xlim(0, end)
    above.set_ylim(0, None)
    captions(above, "answers so far, per seed", "" if shared else "environment steps")
    if shared:
        below = plain_axes(figure, (2, 1, 2))
        for kind, dashes in zip(quality, ("-", (0, (4, 2))), strict=False):  # told apart where they run over one another
            lines = list(kind.by_seed.values())
            for x, y in lines:
                below.plot(x, y, "o-", color=STANDS_FOR[kind.role], linewidth=1.0, markersize=3, alpha=0.4 if len(lines) > 1 else 1.0)
            if len(lines) > 1:
                below.plot(*mean_line(lines), color=STANDS_FOR[kind.role], linewidth=2.4, linestyle=dashes)
        below.set_xlim(0, end)
        lowest = min(y.min() for kind in quality for _, y in kind.by_seed.values())
        below.set_ylim(0.5 if lowest >= 0.5 else min(0.0, lowest), 1.02)  # a coin is right half of the time
        above.tick_params(axis="x", labelbottom=False)
        captions(below, "agreement, 1 is perfect", "environment steps")


def scatter(by_seed: Mapping[int, Points], figure: Figure, narrow: bool) -> None:
    """True against learned return of segments. Learned returns have no unit, so each seed's are shown in its standard deviations."""
    axes = plain_axes(figure)
    for true, learned in by_seed.values():
        spread = learned.std() or 1.0
        axes.plot(true, (learned - learned.mean()) / spread, "o", color=STANDS_FOR["learned"], alpha=0.35, markersize=4, markeredgewidth=0)
    axes.xaxis.grid(True)
    captions(axes, "learned return of a segment", "its true return")


def calibration(pooled: tuple[Points, Float[np.ndarray, "_"]], figure: Figure, narrow: bool) -> None:
    """How often the first clip won, where the model gave it a probability; a dot's area is the number of comparisons."""
    (predicted, observed), count = pooled
    axes = plain_axes(figure)
    axes.plot([0, 1], [0, 1], color=STANDS_FOR["muted"], linewidth=1.2, linestyle=(0, (5, 4)))
    axes.plot(predicted, observed, color=STANDS_FOR["learned"], linewidth=1.2, alpha=0.5)
    for x, y, n in zip(predicted, observed, count, strict=True):
        axes.plot(
            [x], [y], "o", color=STANDS_FOR["learned"], alpha=0.8, markersize=4 + 12 * float(np.sqrt(n / count.max())), markeredgewidth=0
        )
    axes.set_xlim(-0.06, 1.06)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    axes.xaxis.grid(True)
    captions(axes, "how often it did win", "predicted probability that the first clip wins")


def metrics(series: Mapping[str, Mapping[int, Points]], figure: Figure, narrow: bool) -> None:
    """Small multiples of what the learner reported while it learned."""
    columns = 2 if narrow else 3
    rows = -(-len(series) // columns)
    for i, (name, lines) in enumerate(series.items(), start=1):
        axes = plain_axes(figure, (rows, columns, i))
        for x, y in lines.values():
            axes.plot(x, y, color=STANDS_FOR["learned"], linewidth=1.0, alpha=0.7)
        axes.locator_params(nbins=4)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}".replace("-", "−"))
        captions(axes, shortened(name, 24), "")


def inline(draw: Callable[[Figure, bool], None], name: str, description: str, height: int, narrow_height: int | None = None,
           width: int = WIDE, narrow_width: int = NARROW) -> str:  # fmt: skip
    """HTML of one chart in both drawings. `draw` fills an empty figure; `description` is read to those who do not see it.

    Raises ChartError where matplotlib is missing.
    """
    wide = _svg(draw, f"{name}-wide", description, width, height, narrow=False)
    narrow = _svg(draw, f"{name}-narrow", description, narrow_width, narrow_height or height, narrow=True)
    return f'<div class="chart wide">{wide}</div><div class="chart narrow">{narrow}</div>'


def mean_line(lines: Sequence[Points]) -> Points:
    """The mean of several lines, where all of them exist, on the positions of the one with the most points."""
    start, stop = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = max((x for x, _ in lines), key=len)
    grid = np.unique(np.clip(grid, start, max(start, stop)))
    return grid, np.mean([np.interp(grid, x, y) for x, y in lines], axis=0)


def number(x: float) -> str:
    """As many digits as a reader can use, with a true minus sign: −1,230, −147, 12.3, 0.25."""
    digits = 0 if abs(x) >= 99.95 else 1 if abs(x) >= 9.995 else 2
    text = f"{x:,.{digits}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text.replace("-", "−")


def plain_axes(figure: Figure, place: tuple[int, int, int] = (1, 1, 1), vertical: bool = False) -> Axes:
    """Axes without a frame, with rules across (vertical: upright ones) and numbers that a reader can use."""
    axes = figure.add_subplot(*place)
    axes.grid(False)
    (axes.xaxis if vertical else axes.yaxis).grid(True)
    for side in ("top", "right", "left") if not vertical else ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.locator_params(axis="x", nbins=6 if figure.get_figwidth() * 72 > 500 else 4)
    thousands = lambda x, _: f"{x:,.10g}".replace("-", "−")
    axes.xaxis.set_major_formatter(thousands)
    if not vertical:
        axes.yaxis.set_major_formatter(thousands)
    return axes


def captions(axes: Axes, above: str, below: str) -> None:
    """What the axes mean: the vertical one's name stands upright over it, where it can be read."""
    if above:
        axes.set_title(above, loc="left", fontsize=12, color=STANDS_FOR["muted"], x=0.0, pad=8)
    if below:
        axes.set_xlabel(below, loc="right", fontsize=12, color=STANDS_FOR["muted"])


def shortened(text: str, length: int) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(draw: Callable[[Figure, bool], None], name: str, description: str, width: int, height: int, narrow: bool) -> str:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ChartError(f"drawing the report's charts needs the package matplotlib (pip install matplotlib): {error}") from error
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 12, "axes.facecolor": "none",
        "text.color": STANDS_FOR["ink"], "axes.labelcolor": STANDS_FOR["muted"], "axes.edgecolor": STANDS_FOR["muted"],
        "xtick.color": STANDS_FOR["muted"], "ytick.color": STANDS_FOR["muted"], "grid.color": STANDS_FOR["rule"], "grid.linewidth": 1.0,
        "xtick.major.size": 0, "ytick.major.size": 0, "axes.axisbelow": True, "axes.unicode_minus": True, "path.simplify": True,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure, narrow)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(text.getvalue(), name, description)


def _for_the_page(svg: str, name: str, description: str) -> str:
    """Cut what only a file needs, make ids unique on the page, and hand colors and typeface to the style sheet."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib's SVG has a viewBox"
    head = f'<svg {view[0]} role="img" aria-label="{html.escape(description)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    svg = svg.replace(' id="', f' id="{name}-').replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font: ((?:[a-z0-9]+ )*)([0-9.]+)px [^;\"]*", r"font: \1\2px var(--sans)", svg)  # matplotlib before 3.11
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    svg = re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", svg)  # a hundredth of a pixel is enough
    for role, color in STANDS_FOR.items():
        svg = svg.replace(color, f"var(--{role})")
    return svg
