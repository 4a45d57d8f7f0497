"""The soft Bellman target against constants, a slow loop and a chain whose soft value is known."""

import math

import pytest
import torch

from tutelage.equations.bellman import soft_bellman_target


def batch(*shape: int):
    g = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(shape, generator=g, dtype=torch.float64)
    return {"reward": draw(), "next_q": draw(), "next_logp": draw(), "terminated": torch.rand(shape, generator=g) < 0.3}


def test_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    target = soft_bellman_target(row(1, 1), row(4, 4), row(-2, -2), 0.5, torch.tensor([False, True]), discount=0.9)
    # 1 + 0.9 (4 + 0.5 * 2) = 5.5;  the end: 1
    torch.testing.assert_close(target, row(5.5, 1.0))


def test_against_a_loop_with_a_temperature_for_each_seed():
    x = batch(3, 8)
    temperature = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
    target = soft_bellman_target(**x, temperature=temperature, discount=0.97)
    for r in range(3):
        for i in range(8):
            v = 0.0 if x["terminated"][r, i] else float(x["next_q"][r, i]) - float(temperature[r]) * float(x["next_logp"][r, i])
            assert float(target[r, i]) == pytest.approx(float(x["reward"][r, i]) + 0.97 * v, abs=1e-12)


def test_no_temperature_is_the_plain_bellman_target():
    x = batch(8)
    expected = x["reward"] + 0.9 * torch.where(x["terminated"], 0.0, x["next_q"])
    torch.testing.assert_close(soft_bellman_target(**x, temperature=0.0, discount=0.9), expected)


def test_iterated_it_reaches_the_soft_value_of_a_bandit():
    """Two equal arms pulled for ever by a fair coin: Q = r + gamma (Q + alpha ln 2), so Q = (r + gamma alpha ln 2) / (1 - gamma)."""
    q, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for _ in range(400):
        q = soft_bellman_target(one, q, one * math.log(0.5), 0.2, torch.zeros(2, dtype=torch.bool), 0.9)
    assert q.tolist() == pytest.approx([(1 + 0.9 * 0.2 * math.log(2)) / 0.1] * 2, abs=1e-9)


def test_what_follows_the_end_changes_nothing():
    x = batch(8)
    y = {name: value.clone() for name, value in x.items()}
    y["next_q"][x["terminated"]] = math.nan
    y["next_logp"][x["terminated"]] = math.inf
    torch.testing.assert_close(
        soft_bellman_target(**y, temperature=0.2, discount=0.9), soft_bellman_target(**x, temperature=0.2, discount=0.9)
    )


def test_no_gradient_flows_through_a_target():
    x = batch(8)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x["next_q"].requires_grad_()
    x["next_logp"].requires_grad_()
    assert not soft_bellman_target(**x, temperature=temperature, discount=0.9).requires_grad
