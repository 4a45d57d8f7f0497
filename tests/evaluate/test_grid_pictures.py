"""Plans on their maps."""

import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from tutelage.evaluate.grid_pictures import best_moves, draw_picture, map_table, show_sweeps
from tutelage.games.finite import random_mdp
from tutelage.games.grids import lecture_grid, random_grid
from tutelage.games.spec import GameError
from tutelage.games.toy_text import toy_text_mdp
from tutelage.learn.tabular.value_iteration import Config, ValueIteration


def planned(world, sweeps):
    planner = ValueIteration(Config(), world)
    for _ in range(sweeps):
        planner.sweep()
    return planner


def printed(renderable, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_the_moves_of_the_lecture():
    grid = lecture_grid()
    planner = planned(grid, 2)
    moves = best_moves(grid.mdp, planner.action_values())
    assert moves[grid.state(3, 3)] == "→" and moves[grid.state(4, 3)] == "exit"
    assert moves[grid.state(1, 1)] == "·"  # two steps from everything
    tie = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(11, 4)
    assert best_moves(grid.mdp, tie)[0] == "↑→"


def test_the_terminal_shows_the_map():
    grid = lecture_grid()
    planner = planned(grid, 2)
    text = printed(map_table(grid, planner.value, planner.action_values(), "sweep 2"))
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert "sweep 2" in text and len(rows) == 6  # three rows of two lines each
    assert [cell.strip() for cell in rows[0].strip("│").split("│")] == ["0.00", "0.00", "0.72", "1.00"]
    assert [cell.strip() for cell in rows[1].strip("│").split("│")][2:] == ["→", "exit"]
    assert [cell.strip() for cell in rows[2].strip("│").split("│")] == ["0.00", "", "0.00", "-1.00"]


def test_every_sweep_is_shown_and_painted(tmp_path):
    grid = lecture_grid()
    console = Console(file=io.StringIO(), width=80)
    planner = ValueIteration(Config(), grid)
    pictures = show_sweeps(planner, grid, console, tmp_path / "sweeps")
    assert planner.finished
    numbers = [int(path.stem.split("-")[1]) for path in pictures]
    assert numbers == [*range(1, 11), 16, 32, planner.sweeps]
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert all(f"V_{number}, change" in text for number in numbers)
    first, last = imread(pictures[0]), imread(pictures[-1])
    assert first.shape == last.shape and not np.array_equal(first, last)


def test_the_picture_has_a_color_for_each_value():
    grid = lecture_grid()
    planner = planned(grid, 40)
    figure = draw_picture(grid, planner.value, planner.action_values(), "done")
    (image,) = figure.axes[0].images
    field = image.get_array()
    assert field is not None and field.shape == (3, 4)
    assert float(field[0, 3]) == 1.0 and float(field[1, 3]) == -1.0 and (np.ma.getmaskarray(field)[1, 1] or np.isnan(field[1, 1]))
    written = [text.get_text() for text in figure.axes[0].texts]
    assert "1.00" in written and "exit" in written and len(written) == 22
    large = random_grid(30, 30)
    figure = draw_picture(large, *(lambda p: (p.value, p.action_values()))(planned(large, 3)), "large")
    assert not figure.axes[0].texts


def test_toy_text_games_have_maps_too():
    lake = toy_text_mdp("FrozenLake-v1", is_slippery=False)
    planner = planned(lake, 20)
    moves = best_moves(lake, planner.action_values())
    assert moves[14] == "→" and moves[15] == "exit" and "→" in moves[13]


def test_what_cannot_be_drawn_is_refused():
    mdp = random_mdp(5, 2, 2, torch.Generator().manual_seed(0))
    with pytest.raises(GameError, match="a random MDP of 5 states has no map"):
        show_sweeps(ValueIteration(Config(), mdp), mdp, Console(file=io.StringIO()))
    wide = random_grid(30, 3)
    with pytest.raises(GameError, match="is 30 cells wide, and 80 characters show 11"):
        show_sweeps(ValueIteration(Config(), wide), wide, Console(file=io.StringIO(), width=80))
