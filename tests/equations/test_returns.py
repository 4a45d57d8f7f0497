"""Returns against constants, the sums as the papers write them, closed forms and the exact values of a chain."""

import math

import pytest
import torch
from torch import Tensor

from tutelage.equations.returns import discounted_return, gae, lambda_return, n_step_return, vtrace
from tutelage.equations.statistics import whitened


def one(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)[:, None]


def flags(*x: int) -> Tensor:
    return torch.tensor(x, dtype=torch.bool)[:, None]


def batch(T: int = 11, B: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """A recording whose next values are the values of the next step inside an episode, as they are in life."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(T, B, generator=g, dtype=torch.float64)
    terminated = torch.rand(T, B, generator=g) < 0.15
    boundary = terminated | (torch.rand(T, B, generator=g) < 0.15)
    value, beyond = draw(), draw()
    next_value = torch.where(boundary, beyond, torch.cat([value[1:], beyond[-1:]]))
    return dict(reward=draw(), value=value, next_value=next_value, terminated=terminated, boundary=boundary)


def successor(x: dict[str, Tensor], t: int, b: int) -> float:
    return 0.0 if x["terminated"][t, b] else float(x["next_value"][t, b])


def without_value(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in x.items() if name != "value"}


# --- discounted_return -----------------------------------------------------------------------------------------------------


def test_the_reward_to_go_by_hand():
    # the episode ends after two steps, at a time limit whose successor is worth 8; the recording ends one step later, successor 4
    got = discounted_return(one(1, 2, 3), flags(0, 1, 0), 0.5, one(100, 8, 4))
    assert got[:, 0].tolist() == [1 + 0.5 * 6, 2 + 0.5 * 8, 3 + 0.5 * 4]


def test_the_reward_to_go_against_the_sum():
    x = batch()
    bootstrap = torch.where(x["terminated"], 0.0, x["next_value"])
    got = discounted_return(x["reward"], x["boundary"], 0.9, bootstrap)
    for b in range(3):
        for t in range(11):
            total, weight = 0.0, 1.0
            for s in range(t, 11):
                total += weight * float(x["reward"][s, b])
                weight *= 0.9
                if x["boundary"][s, b] or s == 10:
                    total += weight * successor(x, s, b)
                    break
            assert float(got[t, b]) == pytest.approx(total, abs=1e-12)


def test_rewards_of_one_for_ever_are_a_geometric_series():
    T, ones = 1000, torch.ones(1000, 2, dtype=torch.float64)
    got = discounted_return(ones, torch.zeros(T, 2, dtype=torch.bool), 0.99, 100.0 * ones)
    torch.testing.assert_close(got, 100.0 * ones, rtol=1e-13, atol=0.0)


# --- gae and lambda_return -------------------------------------------------------------------------------------------------


def test_gae_by_hand():
    got = gae(one(1, 1, 1), one(2, 4, 6), one(4, 6, 8), flags(0, 0, 0), flags(0, 1, 0), 0.5, 0.5)
    # delta = (1 + 2 - 2, 1 + 3 - 4, 1 + 4 - 6) = (1, 0, -1); the second step ends an episode, so its advantage is its delta
    assert got[:, 0].tolist() == [1.0, 0.0, -1.0]
    got = gae(one(1, 1, 1), one(2, 4, 6), one(4, 6, 8), flags(0, 1, 0), flags(0, 1, 0), 0.5, 0.5)
    assert got[:, 0].tolist() == [1 - 0.25 * 3, -3.0, -1.0]  # a termination: delta_1 = 1 - 4


@pytest.mark.parametrize("T", [1, 2, 3, 7, 8, 9, 64, 65])
def test_gae_against_the_sum_in_the_paper(T: int):
    x = batch(T)
    got = gae(**x, discount=0.9, gae_lambda=0.8)
    for b in range(3):
        for t in range(T):
            total = 0.0
            for s in range(t, T):
                delta = float(x["reward"][s, b]) + 0.9 * successor(x, s, b) - float(x["value"][s, b])
                total += (0.9 * 0.8) ** (s - t) * delta
                if x["boundary"][s, b]:
                    break
            assert float(got[t, b]) == pytest.approx(total, abs=1e-12)


def test_gae_between_the_td_residual_and_the_monte_carlo_advantage():
    x = batch()
    td = x["reward"] + 0.9 * torch.where(x["terminated"], 0.0, x["next_value"]) - x["value"]
    torch.testing.assert_close(gae(**x, discount=0.9, gae_lambda=0.0), td)
    bootstrap = torch.where(x["terminated"], 0.0, x["next_value"])
    monte_carlo = discounted_return(x["reward"], x["boundary"], 0.9, bootstrap) - x["value"]
    torch.testing.assert_close(gae(**x, discount=0.9, gae_lambda=1.0), monte_carlo)


def test_exact_values_leave_no_advantage():
    """A chain s_0 -> ... -> s_4 -> end with reward 1 a step, which a time limit interrupts now and then: V(s_k) = sum of 0.9^i."""
    worth = [sum(0.9**i for i in range(5 - k)) for k in range(6)]
    states = [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    value, next_value = one(*(worth[k] for k in states)), one(*(worth[k + 1] for k in states))
    terminated, boundary = flags(*(k == 4 for k in states)), flags(0, 0, 0, 0, 1, 0, 0, 1, 0, 0)
    for gae_lambda in (0.0, 0.5, 1.0):
        got = gae(torch.ones(10, 1, dtype=torch.float64), value, next_value, terminated, boundary, 0.9, gae_lambda)
        torch.testing.assert_close(got, torch.zeros_like(got), atol=1e-12, rtol=0.0)


def test_the_lambda_return_is_its_recursion():
    x = batch()
    got = lambda_return(**x, discount=0.9, trace_lambda=0.7)
    for b in range(3):
        ahead = 0.0
        for t in reversed(range(11)):
            v = successor(x, t, b)
            ahead = float(x["reward"][t, b]) + 0.9 * (v if x["boundary"][t, b] or t == 10 else 0.3 * v + 0.7 * ahead)
            assert float(got[t, b]) == pytest.approx(ahead, abs=1e-12)


def test_long_recordings_lose_no_digits():
    x = batch(5000)
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in x.items()}
    torch.testing.assert_close(
        gae(**single, discount=0.99, gae_lambda=0.95).double(), gae(**x, discount=0.99, gae_lambda=0.95), atol=2e-5, rtol=1e-5
    )


# --- n_step_return ---------------------------------------------------------------------------------------------------------


def test_the_n_step_return_by_hand():
    got = n_step_return(one(1, 2, 3, 4), one(10, 20, 30, 40), flags(0, 0, 1, 0), flags(0, 0, 1, 0), 0.5, 2)
    # 1 + 1 + 20 / 4;  2 + 1.5 and the end;  3 and the end;  only one step is left: 4 + 20
    assert got[:, 0].tolist() == [7.0, 3.5, 3.0, 24.0]


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_the_n_step_return_against_the_sum(n: int):
    x = batch()
    got = n_step_return(**without_value(x), discount=0.9, n=n)
    for b in range(3):
        for t in range(11):
            total = 0.0
            for s in range(t, min(t + n, 11)):
                total += 0.9 ** (s - t) * float(x["reward"][s, b])
                if x["boundary"][s, b] or s == min(t + n, 11) - 1:
                    total += 0.9 ** (s - t + 1) * successor(x, s, b)
                    break
            assert float(got[t, b]) == pytest.approx(total, abs=1e-12)


def test_no_step_is_an_error():
    with pytest.raises(ValueError, match="n=0 was given; an n-step return needs at least one step"):
        n_step_return(**without_value(batch()), discount=0.9, n=0)


# --- vtrace ----------------------------------------------------------------------------------------------------------------


def test_vtrace_by_hand():
    target, advantage = vtrace(one(1, 1), one(1, 2), one(2, 4), one(0.5, 3), flags(0, 0), flags(0, 0), 0.5)
    # rho = c = (0.5, 1);  delta = (0.5 (1 + 1 - 1), 1 + 2 - 2) = (0.5, 1);  v_1 = 3;  v_0 = 1 + 0.5 + 0.5 * 0.5 * 1
    assert target[:, 0].tolist() == [1.75, 3.0]
    assert advantage[:, 0].tolist() == [0.5 * (1 + 0.5 * 3 - 1), 1 + 0.5 * 4 - 2]


def test_vtrace_against_the_sum_in_the_paper():
    x, ratio = batch(), torch.randn(11, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64).exp()
    target, advantage = vtrace(**x, ratio=ratio, discount=0.9, trace_lambda=0.8, rho_max=1.2, c_max=0.9)
    for b in range(3):
        v: dict[int, float] = {}
        for t in range(11):
            total, c = float(x["value"][t, b]), 1.0
            for s in range(t, 11):
                rho = min(1.2, float(ratio[s, b]))
                total += c * 0.9 ** (s - t) * rho * (float(x["reward"][s, b]) + 0.9 * successor(x, s, b) - float(x["value"][s, b]))
                c *= 0.8 * min(0.9, float(ratio[s, b]))
                if x["boundary"][s, b]:
                    break
            v[t] = total
            assert float(target[t, b]) == pytest.approx(total, abs=1e-12)
        for t in range(11):
            ahead = successor(x, t, b) if x["boundary"][t, b] or t == 10 else v[t + 1]
            expected = min(1.2, float(ratio[t, b])) * (float(x["reward"][t, b]) + 0.9 * ahead - float(x["value"][t, b]))
            assert float(advantage[t, b]) == pytest.approx(expected, abs=1e-12)


def test_vtrace_on_policy_is_the_monte_carlo_return():
    x = batch()
    target, _ = vtrace(**x, ratio=torch.ones(11, 3, dtype=torch.float64), discount=0.9, trace_lambda=1.0, rho_max=1.0, c_max=1.0)
    bootstrap = torch.where(x["terminated"], 0.0, x["next_value"])
    torch.testing.assert_close(target, discounted_return(x["reward"], x["boundary"], 0.9, bootstrap))


# --- what holds for all ----------------------------------------------------------------------------------------------------

ALL = {
    "gae": lambda x: gae(**x, discount=0.9, gae_lambda=0.8),
    "lambda_return": lambda x: lambda_return(**x, discount=0.9, trace_lambda=0.8),
    "n_step_return": lambda x: n_step_return(**without_value(x), discount=0.9, n=3),
    "vtrace": lambda x: vtrace(**x, ratio=1.5 * torch.ones_like(x["value"]), discount=0.9)[0],
    "vtrace advantage": lambda x: vtrace(**x, ratio=1.5 * torch.ones_like(x["value"]), discount=0.9)[1],
    "discounted_return": lambda x: discounted_return(x["reward"], x["boundary"], 0.9, torch.where(x["terminated"], 0.0, x["next_value"])),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("after", [100.0, math.nan, math.inf])
def test_what_follows_a_boundary_changes_nothing(name: str, after: float):
    x = batch()
    x["boundary"][4] = True
    y = {key: tensor.clone() for key, tensor in x.items()}
    y["reward"][5:] += after
    y["value"][5:] += after
    y["next_value"][5:] += after
    assert torch.equal(ALL[name](y)[:5], ALL[name](x)[:5])
    assert not torch.equal(ALL[name](y)[5:], ALL[name](x)[5:])


@pytest.mark.parametrize("name", ALL)
def test_the_value_after_a_termination_changes_nothing(name: str):
    x = batch()
    y = {key: tensor.clone() for key, tensor in x.items()}
    y["next_value"][x["terminated"]] = math.nan
    assert x["terminated"].any()
    assert torch.equal(ALL[name](y), ALL[name](x))


@pytest.mark.parametrize("name", ALL)
def test_a_time_limit_keeps_the_value_of_its_successor(name: str):
    x = batch()
    limit = x["boundary"] & ~x["terminated"]
    y = x | {"next_value": torch.where(limit, x["next_value"] + 1.0, x["next_value"])}
    assert limit.any()
    assert (ALL[name](y)[limit] > ALL[name](x)[limit]).all()


@pytest.mark.parametrize("name", ALL)
def test_no_gradient_flows_and_no_argument_changes(name: str):
    x = batch()
    before = {key: tensor.clone() for key, tensor in x.items()}
    leaves = {key: tensor.clone().requires_grad_(tensor.is_floating_point()) for key, tensor in x.items()}
    assert not ALL[name](leaves).requires_grad
    ALL[name](x)
    assert all(torch.equal(x[key], before[key]) for key in x)


@pytest.mark.parametrize("name", ALL)
def test_batch_axes_never_mix(name: str):
    x = batch(9, 6)
    shaped = {key: tensor.view(9, 2, 3) for key, tensor in x.items()}
    torch.testing.assert_close(ALL[name](shaped).view(9, 6), ALL[name](x))
    column = {key: tensor[:, 4:5] for key, tensor in x.items()}
    torch.testing.assert_close(ALL[name](column), ALL[name](x)[:, 4:5])


def test_one_answer_of_four_tokens_with_its_score_at_the_end():
    """Undiscounted, so the returns are also what a penalty per token and a score at the last token make of an answer."""
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[:, None]
    reward, value = column(-0.05, 0.02, -0.01, 1.0), column(0.1, 0.2, 0.3, 0.4)
    ends = torch.tensor([False, False, False, True])[:, None]
    next_value = torch.cat((value[1:], torch.zeros(1, 1, dtype=torch.float64)))
    advantage = gae(reward, value, next_value, ends, ends, 1.0, 0.95)
    assert advantage[:, 0].tolist() == pytest.approx([0.7596, 0.7470, 0.6600, 0.6000], abs=5e-5)
    assert (advantage + value)[:, 0].tolist() == pytest.approx([0.8596, 0.9470, 0.9600, 1.0], abs=5e-5)
    assert whitened(advantage)[:, 0].tolist() == pytest.approx([1.0402, 0.8466, -0.4844, -1.4024], abs=5e-5)
    only_the_score = column(0.0, 0.0, 0.0, 1.0)
    assert (gae(only_the_score, value, next_value, ends, ends, 1.0, 1.0) + value)[:, 0].tolist() == pytest.approx([1.0] * 4)
