"""A plan on its map: values and arrows, sweep by sweep, in the terminal and as pictures."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tutelage.games.finite import FiniteMDP, Layout
from tutelage.games.grids import GridWorld
from tutelage.games.spec import GameError
from tutelage.learn.tabular.sweeps import Planner, arrays_of

ARROWS = {(-1, 0): "↑", (0, 1): "→", (1, 0): "↓", (0, -1): "←"}
EVERY_UNTIL = 10
"""Sweeps up to this one are all shown; later ones when their number is a power of two, and the last."""
MOST_WRITTEN = 400
"""Cells up to which a picture has numbers and arrows in them."""
COLORS = colormaps["RdYlGn"]


def best_moves(mdp: FiniteMDP, q: Float[Tensor, "S A"]) -> list[str]:
    """An arrow for each of a state's best actions, `·` where all are equal, and "exit" where every action ends the episode."""
    layout = _layout(mdp)
    best = q >= q.amax(1, keepdim=True) - 1e-9 * q[torch.isfinite(q)].abs().amax().clamp(min=1e-12)
    arrows = [ARROWS.get(move, "?") for move in layout.moves]
    found: list[str] = []
    for ends, row in zip(mdp.final.tolist(), best.tolist(), strict=True):
        found.append("exit" if ends else "·" if all(row) else "".join(arrow for arrow, one in zip(arrows, row, strict=True) if one))
    return found


def map_table(world: FiniteMDP | GridWorld, value: Float[Tensor, "S"], q: Float[Tensor, "S A"], title: str) -> Table:
    """The map as a table: in each cell the value and the best moves, its color the value. Raises GameError for a world without a map."""
    mdp = arrays_of(world)
    layout, reach = _layout(mdp), _reach(value)
    cells = [Text("      \n", style="on grey37") for _ in range(layout.rows * layout.columns)]
    for place, v, moves in zip(layout.place.tolist(), value.tolist(), best_moves(mdp, q), strict=True):
        red, green, blue = (round(255 * c) for c in COLORS(0.5 + 0.5 * v / reach)[:3])
        cells[place] = Text(f"{v:^6.2f}\n{moves:^6}", style=f"black on rgb({red},{green},{blue})")
    table = Table(title=title, box=box.SQUARE, show_header=False, show_lines=True, padding=0)
    for i in range(layout.rows):
        table.add_row(*cells[i * layout.columns : (i + 1) * layout.columns])
    return table


def draw_picture(world: FiniteMDP | GridWorld, value: Float[Tensor, "S"], q: Float[Tensor, "S A"], title: str) -> Figure:
    """The same as a figure, to be saved as PNG. Numbers and arrows up to MOST_WRITTEN cells. Raises GameError without a map."""
    mdp = arrays_of(world)
    layout, reach = _layout(mdp), _reach(value)
    field = np.full(layout.rows * layout.columns, np.nan)
    field[layout.place.numpy()] = value.numpy()
    side = min(1.0, 12.0 / max(layout.rows, layout.columns))
    figure = Figure(figsize=(max(side * layout.columns, 3.0), max(side * layout.rows, 2.0) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("0.35")  # walls
    axes.imshow(field.reshape(layout.rows, layout.columns), cmap=COLORS, vmin=-reach, vmax=reach, interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
    if layout.rows * layout.columns <= MOST_WRITTEN:
        size = 9.0 * side
        for place, v, moves in zip(layout.place.tolist(), value.tolist(), best_moves(mdp, q), strict=True):
            row, column = divmod(place, layout.columns)
            axes.text(column, row - 0.12, f"{v:.2f}", ha="center", va="center", fontsize=size)
            axes.text(column, row + 0.22, moves, ha="center", va="center", fontsize=1.3 * size)
    return figure


def show_sweeps(planner: Planner, world: FiniteMDP | GridWorld, console: Console, folder: Path | None = None) -> list[Path]:
    """Plan to the end and show it: on the console, and in `folder` as sweep-00001.png and so on; returns the pictures.

    Raises GameError for a world without a map, and for one that is wider than the console.
    """
    check_map(world, console)
    pictures: list[Path] = []
    while not planner.finished:
        picture = show_sweep(planner, world, planner.sweep(), console, folder)
        pictures += [] if picture is None else [picture]
    return pictures


def check_map(world: FiniteMDP | GridWorld, console: Console) -> None:
    """Raises GameError for a world without a map, and for one that is wider than the console."""
    layout = _layout(arrays_of(world))
    if 7 * layout.columns + 1 > console.width:
        raise GameError(f"{arrays_of(world).name} is {layout.columns} cells wide, and {console.width} characters show {console.width // 7}")


def show_sweep(planner: Planner, world: FiniteMDP | GridWorld, change: float, console: Console, folder: Path | None = None) -> Path | None:
    """Show the sweep that the planner has just made, where it is one of those that are shown; returns its picture in `folder`."""
    k = planner.sweeps
    if k > EVERY_UNTIL and k & (k - 1) and not planner.finished:
        return None
    title = f"V_{k}, change {change:.1e}"
    value, q = planner.value, planner.action_values()
    console.print(map_table(world, value, q, title))
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    draw_picture(world, value, q, title).savefig(folder / f"sweep-{k:05}.png", dpi=120)
    return folder / f"sweep-{k:05}.png"


def _layout(mdp: FiniteMDP) -> Layout:
    if mdp.layout is None:
        raise GameError(f"{mdp.name} has no map to draw its values on; planning works without one")
    return mdp.layout


def _reach(value: Float[Tensor, "S"]) -> float:
    """What the ends of the color scale stand for."""
    largest = float(value.abs().amax())
    return largest if largest > 0.0 and math.isfinite(largest) else 1.0
