"""Bellman targets against constants, slow loops, and games whose values are known."""

import math

import pytest
import torch

from tutelage.equations.bellman import (
    allow,
    double_q_value,
    expected_soft_value,
    greedy_value,
    q_target,
    soft_bellman_target,
    soft_value,
)


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


# --- Q-learning ------------------------------------------------------------------------------------------------------------


def values(*shape: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two tables of action values, and which actions are legal: at least one in each row."""
    g = torch.Generator().manual_seed(seed)
    legal = torch.rand(shape, generator=g) < 0.5
    legal[..., 1] |= ~legal.any(-1)
    first, second = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    return first, second, legal


def test_the_q_target_by_hand():
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    ends = torch.tensor([False, True])
    assert q_target(row(1, 1), row(4, math.nan), ends, 0.5).tolist() == [3.0, 1.0]
    assert q_target(row(1, 1), row(4, 4), ends & False, row(0.5, 0.25)).tolist() == [3.0, 2.0]  # a discount for each sample: n steps
    assert not q_target(row(1, 1), row(4, 4).requires_grad_(), ends, 0.5).requires_grad


def test_iterated_it_reaches_the_value_of_a_chain():
    """Leave for 1, or stay for 0.2 and choose again: Q(leave) = 1, Q(stay) = 0.2 + 0.9 max Q, whose solution is 2."""
    q = torch.zeros(2, dtype=torch.float64)
    reward, ends = torch.tensor([1.0, 0.2], dtype=torch.float64), torch.tensor([True, False])
    for _ in range(300):
        q = q_target(reward, greedy_value(q).expand(2), ends, 0.9)
    assert q.tolist() == pytest.approx([1.0, 2.0], abs=1e-9)


def test_greedy_and_double_against_a_loop():
    online, target, legal = values(4, 7, 5)
    for allowed in (None, legal):
        greedy, double = greedy_value(online, allowed), double_q_value(online, target, allowed)
        for r in range(4):
            for i in range(7):
                choices = [a for a in range(5) if allowed is None or legal[r, i, a]]
                best = max(choices, key=lambda a: float(online[r, i, a]))
                assert greedy[r, i] == online[r, i, best] and double[r, i] == target[r, i, best]


def test_two_equal_tables_are_no_double():
    q, _, legal = values(6, 4)
    assert torch.equal(double_q_value(q, q, legal), greedy_value(q, legal))


def test_illegal_values_change_nothing():
    q, other, legal = values(6, 4)
    noisy = torch.where(legal, q, math.nan)
    for f in (
        lambda x: greedy_value(x, legal),
        lambda x: double_q_value(x, other, legal),
        lambda x: soft_value(x, 0.3, legal),
    ):
        assert torch.equal(f(noisy), f(q))
    assert torch.equal(expected_soft_value(q, noisy, 0.3, legal), expected_soft_value(q, q, 0.3, legal))


# --- soft values -----------------------------------------------------------------------------------------------------------


def test_soft_values_by_hand():
    q = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    assert float(soft_value(q, 1.0)) == pytest.approx(math.log(4.0))
    assert float(soft_value(2.0 * q, 2.0)) == pytest.approx(2.0 * math.log(4.0))
    assert float(expected_soft_value(q, torch.zeros(2, dtype=torch.float64), 2.0)) == pytest.approx(math.log(3.0) / 2 + 2 * math.log(2.0))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_the_softmax_policy_reaches_the_soft_value_and_no_other_exceeds_it(temperature: float):
    q, logits, legal = values(6, 4)
    for allowed in (None, legal):
        best = soft_value(q, temperature, allowed)
        torch.testing.assert_close(expected_soft_value(q, q / temperature, temperature, allowed), best)
        single = torch.ones(6, dtype=torch.bool) if allowed is None else allowed.sum(-1) > 1
        assert (expected_soft_value(q, logits, temperature, allowed) < best)[single].all()


def test_the_soft_value_tends_to_the_greedy_one():
    q, _, legal = values(6, 4)
    torch.testing.assert_close(soft_value(q, 1e-3, legal), greedy_value(q, legal), atol=1e-2, rtol=0.0)


def test_a_temperature_for_each_seed():
    q, logits, legal = values(3, 5, 4)
    temperature = torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64)
    for r in range(3):
        one = float(temperature[r])
        torch.testing.assert_close(soft_value(q, temperature, legal)[r], soft_value(q[r], one, legal[r]))
        torch.testing.assert_close(
            expected_soft_value(q, logits, temperature, legal)[r], expected_soft_value(q[r], logits[r], one, legal[r])
        )


def test_gradients_stay_finite_where_choices_or_whole_rows_are_illegal():
    q, logits, legal = values(6, 4)
    legal[0] = False  # after an end
    q.requires_grad_()
    logits.requires_grad_()
    temperature = torch.full((6,), 1e4, dtype=torch.float64, requires_grad=True)
    total = soft_value(q, temperature, legal)[1:].sum() + expected_soft_value(q, logits, temperature, legal).sum()
    grads = torch.autograd.grad(total, (q, logits, temperature))
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[1][~legal].any() and not grads[0][1:][~legal[1:]].any()
    assert torch.isfinite(greedy_value(q, legal)).all()


def test_what_is_not_allowed_has_no_probability():
    logits, _, legal = values(6, 4)
    pi = allow(logits.float(), legal).softmax(-1)
    assert not pi[~legal].any() and (pi[legal] > 0.0).all()
    assert allow(logits, None) is logits
