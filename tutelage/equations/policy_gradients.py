"""The policy gradient by enumeration: every trajectory of a small world over a finite horizon, weighted by its probability.

The policy is a softmax table: pi(a|s) = exp theta(s, a) / sum_b exp theta(s, b). Its score, the gradient of log pi(a|s) in theta(s, .), is
e_a - pi(.|s). An end is one more state, number S, that pays nothing and is never left.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot, pad


class Trajectories(NamedTuple):
    """All that have a positive probability."""

    state: Int64[Tensor, "N T_and_1"]
    """s_0, ..., s_T; S after an end."""
    action: Int64[Tensor, "N T"]
    probability: Float[Tensor, "N"]


class Moments(NamedTuple):
    """Of one trajectory's estimate of the policy gradient."""

    mean: Float[Tensor, "S A"]
    variance: Float[Tensor, ""]
    """Summed over all parameters: the trace of the covariance."""


def with_end(transition: Float[Tensor, "S A S"]) -> Float[Tensor, "S+1 A S+1"]:
    """P(s'|s, a) with the probability that a row lacks on one more state, which is never left."""
    grown = pad(transition, (0, 1, 0, 0, 0, 1))
    grown[..., -1] = 1.0 - grown[..., :-1].sum(-1)
    return grown


def enumerate_trajectories(
    transition: Float[Tensor, "S A S"], start: Float[Tensor, "S"], policy: Float[Tensor, "S A"], horizon: int
) -> Trajectories:
    """Every trajectory of `horizon` steps, with P(tau) = rho(s_0) prod_t pi(a_t|s_t) P(s_(t+1)|s_t, a_t).

    The lecture's trajectory probability. After an end one action, number 0, stands for all: no parameter depends on it.
    """
    after_end = torch.zeros_like(policy[:1])
    after_end[0, 0] = 1.0
    joint = torch.cat([policy, after_end])[:, :, None] * with_end(transition)  # pi(a|s) P(s'|s, a), [S+1, A, S+1]
    state, probability = start.nonzero(), start[start > 0.0]
    action = torch.empty(len(state), 0, dtype=torch.int64)
    for _ in range(horizon):
        ahead = joint[state[:, -1]]
        n, a, following = ahead.nonzero().unbind(1)
        probability = probability[n] * ahead[n, a, following]
        state, action = torch.cat([state[n], following[:, None]], 1), torch.cat([action[n], a[:, None]], 1)
    return Trajectories(state, action, probability)


def horizon_values(
    reward: Float[Tensor, "S A"], transition: Float[Tensor, "S A S"], policy: Float[Tensor, "S A"], horizon: int, discount: float
) -> tuple[Float[Tensor, "{horizon}+1 S"], Float[Tensor, "{horizon} S A"]]:
    """V_t^pi for t = 0, ..., T and Q_t^pi for t < T, with V_T = 0.

    Q_t(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V_(t+1)(s'),   V_t(s) = sum_a pi(a|s) Q_t(s, a).

    Puterman 1994, section 4.2: with a horizon the values depend on the time that is left.
    """
    value = reward.new_zeros(horizon + 1, len(reward))
    q = reward.new_zeros(horizon, *reward.shape)
    for t in reversed(range(horizon)):
        q[t] = reward + discount * transition @ value[t + 1]
        value[t] = (policy * q[t]).sum(1)
    return value, q


def trajectory_weights(
    trajectories: Trajectories,
    reward: Float[Tensor, "S A"],
    value: Float[Tensor, "T_and_1 S"],
    q: Float[Tensor, "T S A"],
    baseline: Float[Tensor, "T_and_1 S"],
    discount: float,
) -> dict[str, Float[Tensor, "N T"]]:
    """The lecture's six weights of grad log pi(a_t|s_t), each times gamma^t: with discount 1 exactly its list.

    total_return sum_t' gamma^t' r_t';  reward_to_go sum_(t' >= t);  baseline: reward to go - b(s_t);  q: Q(s_t, a_t);
    advantage: Q(s_t, a_t) - V(s_t);  td_residual: r_t + gamma V(s_(t+1)) - V(s_t).

    Schulman et al. 2016 (arXiv 1506.02438), section 2, items 1 to 6. Where that list has no gamma^t, its discounted forms estimate
    something else than the gradient of the discounted return.
    """
    state, action = trajectories.state, trajectories.action
    time = torch.arange(action.shape[1])
    reward, q = pad(reward, (0, 0, 0, 1)), pad(q, (0, 0, 0, 1))
    value, baseline = pad(value, (0, 1)), pad(baseline, (0, 1))
    now, factor = state[:, :-1], discount ** time.to(reward.dtype)
    paid = factor * reward[now, action]
    to_go = paid.flip(1).cumsum(1).flip(1)
    q_now, v_now, v_next = q[time, now, action], value[time, now], value[time + 1, state[:, 1:]]
    return {
        "total_return": paid.sum(1, keepdim=True).expand_as(paid),
        "reward_to_go": to_go,
        "baseline": to_go - factor * baseline[time, now],
        "q": factor * q_now,
        "advantage": factor * (q_now - v_now),
        "td_residual": paid + factor * (discount * v_next - v_now),
    }


def policy_gradient_moments(trajectories: Trajectories, weight: Float[Tensor, "N T"], policy: Float[Tensor, "S A"]) -> Moments:
    """Mean and variance of one trajectory's estimate.

    g(tau) = sum_t grad log pi(a_t|s_t) w_t,   E g = sum_tau P(tau) g(tau),   Var g = sum_tau P(tau) |g(tau) - E g|^2.

    Williams 1992 (Machine Learning 8:229) for w = the return; Sutton et al. 2000 for w = Q.
    """
    S, A = policy.shape
    now = trajectories.state[:, :-1]
    alive = (now < S)[..., None]
    score = one_hot(trajectories.action, A) - policy[now.clamp(max=S - 1)]
    terms = torch.where(alive, weight[..., None] * score, 0.0)
    gradient = terms.new_zeros(len(now), S, A)
    gradient.scatter_add_(1, now.clamp(max=S - 1)[..., None].expand(-1, -1, A), terms)
    mean = torch.einsum("n,nsa->sa", trajectories.probability, gradient)
    return Moments(mean, trajectories.probability @ (gradient - mean).square().sum((1, 2)))


def six_weights(
    reward: Float[Tensor, "S A"],
    transition: Float[Tensor, "S A S"],
    start: Float[Tensor, "S"],
    theta: Float[Tensor, "S A"],
    horizon: int,
    discount: float = 1.0,
) -> dict[str, Moments]:
    """Mean and variance of the policy gradient under each of the six weights, with exact V as value and as baseline.

    One mean, the gradient of the return, and six variances: Schulman et al. 2016 (arXiv 1506.02438), section 2, checked by enumeration.
    """
    policy = theta.softmax(1)
    value, q = horizon_values(reward, transition, policy, horizon, discount)
    trajectories = enumerate_trajectories(transition, start, policy, horizon)
    weights = trajectory_weights(trajectories, reward, value, q, value, discount)
    return {name: policy_gradient_moments(trajectories, weight, policy) for name, weight in weights.items()}
