"""The linear schedule at its corners and against interpolation."""

import numpy as np
import pytest

from tutelage.equations.schedules import adaptive_kl_coefficient, linear


def test_by_hand():
    assert [linear(1.0, 0.1, share, 0.5) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1, 0.1])
    assert linear(3e-4, 0.0, 0.5) == 1.5e-4


def test_it_interpolates():
    for share in np.linspace(0.0, 1.0, 23):
        assert linear(-1.0, 2.0, float(share), 0.3) == pytest.approx(np.interp(share, [0.0, 0.3], [-1.0, 2.0]))


def test_no_fraction_is_the_end_at_once():
    assert linear(1.0, 0.05, 0.0, 0.0) == 0.05


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_is_a_share_of_the_run(fraction: float):
    with pytest.raises(ValueError, match=f"fraction={fraction} was given; a schedule needs a share of the run, in \\[0, 1\\]"):
        linear(1.0, 0.0, 0.5, fraction)


def test_the_price_of_a_nat_by_hand():
    for kl, factor in ((12.0, 1.01024), (6.6, 1.00512), (6.0, 1.0), (0.0, 0.98976)):
        assert adaptive_kl_coefficient(0.15, kl, 6.0, 512) == pytest.approx(0.15 * factor)
    with pytest.raises(ValueError, match="target=0.0, horizon=10000 were given"):
        adaptive_kl_coefficient(0.15, 1.0, 0.0, 512)
