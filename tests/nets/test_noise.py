"""Draws of stacked seeds."""

import pytest
import torch
from torch import Generator

from tutelage.nets.noise import exponential, normal, uniform

# mean and standard deviation
LAWS = {normal: (0.0, 1.0), uniform: (0.5, 12**-0.5), exponential: (1.0, 1.0)}


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("draw", LAWS)
def test_noise_of_a_seed_does_not_depend_on_the_stack(draw):
    for shape in ((8, 2), (2, 37, 5)):
        stacked = draw(generators(1, 2, 3), shape)
        assert stacked.shape == (3, *shape)
        assert torch.equal(stacked[1], draw(generators(2), shape)[0])
        assert not torch.equal(stacked[0], stacked[1])


@pytest.mark.parametrize("draw", LAWS)
def test_noise_has_its_moments(draw):
    mean, std = LAWS[draw]
    x = draw(generators(5), (100_000,))
    assert float(x.mean()) == pytest.approx(mean, abs=4.5 * std / 100_000**0.5)
    assert float(x.std()) == pytest.approx(std, rel=0.02)
    if draw is not normal:
        assert (x >= 0.0).all()
