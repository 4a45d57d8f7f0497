"""Small line charts as SVG without style attributes, which the content security policy forbids; the style sheet colors them."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT, LEFT, BOTTOM = 480, 180, 56, 22


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[int, float]]


def chart(lines: Sequence[Line], end: int, least: float | None = None, most: float | None = None) -> Markup | None:
    """Values over steps from 0 to `end`; None where there is nothing to draw yet. least, most: of the vertical axis; None: of the data."""
    values = [y for line in lines for _, y in line.points]
    if not values:
        return None
    low = min(values) if least is None else least
    high = max(values) if most is None else most
    span = (high - low) or 1.0
    across = lambda x: LEFT + (WIDTH - LEFT - 8) * min(x / max(end, 1), 1.0)
    up = lambda y: 8 + (HEIGHT - BOTTOM - 16) * (high - y) / span
    drawn: list[str] = []
    for number, line in enumerate(lines):
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        last_x, last_y = line.points[-1] if line.points else (0, low)
        drawn.append(f'<polyline class="line line-{number % 4}" points="{points}"><title>{html.escape(line.name)}</title></polyline>')
        drawn.append(f'<circle class="dot line-{number % 4}" cx="{across(last_x):.1f}" cy="{up(last_y):.1f}" r="3"/>')
    for y in (low, high):
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        drawn.append(f'<text class="tick" x="{LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:,.4g}</text>')
    drawn.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 4}">0</text>')
    drawn.append(f'<text class="tick" x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">{end:,.0f} steps</text>')
    words = "; ".join(f"{line.name}: now {line.points[-1][1]:,.4g}" for line in lines if line.points)
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(words)}">'
    return Markup(opening + "".join(drawn) + "</svg>")
