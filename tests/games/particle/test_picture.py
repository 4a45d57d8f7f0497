"""Pictures show where everything is, in the colors of the teams, with soft edges."""

from typing import Any

import numpy as np
import pytest
import torch

from tutelage.games.make import make
from tutelage.games.particle.address import WORLDS
from tutelage.games.particle.picture import GOAL, PAPER, TEAMS, Canvas


@pytest.mark.parametrize("name", list(WORLDS))
def test_every_world_has_one(name):
    game: Any = make(f"particle:{name}", 2)
    game.reset(seed=[0, 1])
    picture = game.render(1, 90, 60)
    assert picture.shape == (60, 90, 3) and picture.dtype == np.uint8
    assert not np.array_equal(picture, game.render(0, 90, 60))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # edges are soft


def test_where_things_are():
    game: Any = make("particle:simple_adversary", 1)
    game.reset(seed=[0])
    game.state = game.state._replace(
        position=torch.tensor([[[-0.5], [0.5], [0.5]], [[0.5], [0.5], [-0.5]]]),
        place=torch.tensor([[[-0.5], [0.0]], [[-0.5], [0.0]]]),
        memory=torch.tensor([[1]]),
    )
    picture = game.render(0, 231, 231).astype(int)
    at = lambda x, y: picture[round(115 - 100 * y), round(115 + 100 * x)]  # 1.155 to each side
    mix = lambda color: 0.85 * np.array(color) + 0.15 * np.array(PAPER)
    assert at(-0.5, 0.58) == pytest.approx(mix(TEAMS[1]), abs=3)  # the adversary, above
    assert at(0.5, 0.58) == pytest.approx(mix(TEAMS[0]), abs=3)
    assert at(0.5, -0.42) == pytest.approx(mix(TEAMS[0]), abs=3)
    assert at(0.0, 0.04).tolist() == list(GOAL) and at(-0.5, -0.46).tolist() != list(GOAL)
    assert at(0.9, 0.9).tolist() == list(PAPER)


def test_who_leaves_is_still_in_view():
    game: Any = make("particle:simple_spread", 1)
    game.reset(seed=[0])
    game.state = game.state._replace(position=10.0 + game.state.position)
    picture = game.render(0, 900, 900).astype(int)
    blue = (picture[..., 2] > picture[..., 0] + 40).sum()
    assert blue > 10  # three disks of radius 0.15 in a view that is 22 wide


def test_area_of_a_disk():
    canvas = Canvas(1.0, 200, 200)
    canvas.disk(0.13, -0.27, 0.4, (0, 0, 0))
    dark = (1.0 - canvas.color[..., 0] / PAPER[0]).sum() * canvas.pixel**2
    assert dark == pytest.approx(np.pi * 0.16, rel=1e-3)
