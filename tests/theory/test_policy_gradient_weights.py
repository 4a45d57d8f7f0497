"""All six weights of the policy gradient have one expectation, by enumeration of every trajectory; their variances differ."""

import itertools

import pytest
import torch

from tutelage.equations.policy_gradients import (
    enumerate_trajectories,
    horizon_values,
    policy_gradient_moments,
    six_weights,
    trajectory_weights,
)
from tutelage.games.finite import random_mdp

HORIZON = 4


def world(seed=0, ending=0.15, S=3, A=2):
    """Rewards [S, A], transitions [S, A, S] (rows may end), start [S] and parameters [S, A]."""
    g = torch.Generator().manual_seed(seed)
    mdp = random_mdp(S, A, 2, g, ending)
    transition = mdp.transition().to_dense().view(A, S, S).transpose(0, 1).contiguous()
    return mdp.expected_reward().contiguous(), transition, mdp.start, torch.randn(S, A, generator=g, dtype=torch.float64)


def expected_return(reward, transition, start, theta, discount):
    """By backward induction, independent of trajectories."""
    value = torch.zeros(len(reward), dtype=torch.float64)
    for _ in range(HORIZON):
        value = (theta.softmax(1) * (reward + discount * transition @ value)).sum(1)
    return start @ value


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("ending", [0.0, 0.15])
def test_six_weights_have_one_expectation(discount, ending):
    reward, transition, start, theta = world(ending=ending)
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_return(reward, transition, start, leaf, discount), leaf)
    table = six_weights(reward, transition, start, theta, HORIZON, discount)
    assert list(table) == ["total_return", "reward_to_go", "baseline", "q", "advantage", "td_residual"]
    for name, moments in table.items():
        torch.testing.assert_close(moments.mean, gradient, atol=1e-12, rtol=0, msg=name)
    assert float(gradient.abs().amax()) > 0.1


def test_what_is_known_of_the_variances():
    for seed in range(5):
        variance = {name: float(moments.variance) for name, moments in six_weights(*world(seed), HORIZON).items()}
        # Taking an expectation inside never adds variance here: with Q in place of what was sampled, and with V taken from both.
        assert variance["q"] < variance["reward_to_go"] < variance["total_return"]
        assert variance["advantage"] < variance["td_residual"] < variance["baseline"]
        assert variance["baseline"] < variance["reward_to_go"]
        assert len({round(v, 9) for v in variance.values()}) == 6


def test_any_baseline_of_state_and_time_will_do():
    reward, transition, start, theta = world()
    policy = theta.softmax(1)
    value, q = horizon_values(reward, transition, policy, HORIZON, 1.0)
    trajectories = enumerate_trajectories(transition, start, policy, HORIZON)
    b = 10.0 * torch.randn(HORIZON + 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = trajectory_weights(trajectories, reward, value, q, b, 1.0)
    plain, with_b = (policy_gradient_moments(trajectories, weights[name], policy) for name in ("reward_to_go", "baseline"))
    torch.testing.assert_close(plain.mean, with_b.mean, atol=1e-12, rtol=0)
    assert with_b.variance > plain.variance
    # A baseline of the state that comes next depends on the action, and moves the mean (errata: not b(s_t') inside the sum).
    wrong = weights["reward_to_go"] - torch.nn.functional.pad(b, (0, 1))[torch.arange(HORIZON), trajectories.state[:, 1:]]
    assert (policy_gradient_moments(trajectories, wrong, policy).mean - plain.mean).abs().amax() > 0.1


def test_without_the_factor_the_discounted_weights_disagree():
    """The errata: agreement needs discount 1 or the factor discount^t."""
    reward, transition, start, theta = world()
    policy = theta.softmax(1)
    value, q = horizon_values(reward, transition, policy, HORIZON, 0.5)
    trajectories = enumerate_trajectories(transition, start, policy, HORIZON)
    weights = trajectory_weights(trajectories, reward, value, q, value, 0.5)
    right = policy_gradient_moments(trajectories, weights["q"], policy).mean
    without = policy_gradient_moments(trajectories, weights["q"] / 0.5 ** torch.arange(HORIZON).double(), policy).mean
    assert (right - without).abs().amax() > 0.1


def test_trajectories_by_hand():
    # One action; state 0 goes to state 1 with 0.5, ends with 0.5; state 1 stays.
    transition = torch.tensor([[[0.0, 0.5]], [[0.0, 1.0]]])
    found = enumerate_trajectories(transition, torch.tensor([1.0, 0.0]), torch.ones(2, 1), 2)
    assert found.state.tolist() == [[0, 1, 1], [0, 2, 2]]
    assert found.probability.tolist() == [0.5, 0.5] and found.action.tolist() == [[0, 0], [0, 0]]


def test_trajectories_against_all_that_can_be_written_down():
    _, transition, start, theta = world()
    policy = theta.softmax(1)
    found = enumerate_trajectories(transition, start, policy, 2)
    assert float(found.probability.sum()) == pytest.approx(1.0, abs=1e-12)
    played = zip(map(tuple, found.state.tolist()), map(tuple, found.action.tolist()), strict=True)
    lookup = dict(zip(played, found.probability.tolist(), strict=True))
    for s0, a0, s1, a1, s2 in itertools.product(range(3), range(2), range(3), range(2), range(3)):
        p = start[s0] * policy[s0, a0] * transition[s0, a0, s1] * policy[s1, a1] * transition[s1, a1, s2]
        assert lookup.get(((s0, s1, s2), (a0, a1)), 0.0) == pytest.approx(float(p), abs=1e-15)


def test_moments_against_sampling():
    reward, transition, start, theta = world()
    table = six_weights(reward, transition, start, theta, HORIZON)
    policy = theta.softmax(1)
    found = enumerate_trajectories(transition, start, policy, HORIZON)
    value, q = horizon_values(reward, transition, policy, HORIZON, 1.0)
    weight = trajectory_weights(found, reward, value, q, value, 1.0)["td_residual"]
    drawn = torch.multinomial(found.probability, 4000, True, generator=torch.Generator().manual_seed(0)).tolist()
    samples = torch.zeros(len(drawn), 3, 2, dtype=torch.float64)
    for row, n in zip(samples, drawn, strict=True):
        for t in range(HORIZON):
            s, a = int(found.state[n, t]), int(found.action[n, t])
            if s < 3:
                row[s] -= weight[n, t] * policy[s]
                row[s, a] += weight[n, t]
    assert float((samples.mean(0) - table["td_residual"].mean).abs().amax()) < 0.1
    assert float(samples.var(0).sum()) == pytest.approx(float(table["td_residual"].variance), rel=0.1)
