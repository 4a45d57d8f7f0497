"""The theory behind the trust region, for worlds small enough to be solved: nothing here is estimated.

d^pi is the discounted, not normalized occupancy of `dynamic_programming.occupancy`; A^pi(s, a) = Q^pi(s, a) - V^pi(s).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.equations.dynamic_programming import action_values, policy_value


def advantages(
    reward: Float[Tensor, "S A"], transition: Float[Tensor, "A*S S"], policy: Float[Tensor, "S A"], discount: float
) -> Float[Tensor, "S A"]:
    """A^pi(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V^pi(s') - V^pi(s), by one linear solve; -inf where an action is missing."""
    value = policy_value(reward, transition, policy, discount)
    return action_values(reward, transition, value, discount) - value[:, None]


def performance_difference(visits: Float[Tensor, "S"], policy: Float[Tensor, "S A"], advantage: Float[Tensor, "S A"]) -> Float[Tensor, ""]:
    """By how much a policy is better than another, from the other's advantages.

    J(pi') - J(pi) = sum_s d^pi'(s) sum_a pi'(a|s) A^pi(s, a) = E_(tau ~ pi') sum_t gamma^t A^pi(s_t, a_t).

    Kakade & Langford 2002, lemma 6.1; Schulman et al. 2015 (arXiv 1502.05477), eq. 1. visits and policy: of pi'; advantage: of pi. With
    the visits of pi in place of those of pi' the same sum is `surrogate`.
    """
    return visits @ torch.where(policy > 0.0, policy * advantage, 0.0).sum(1)


def surrogate(
    visits: Float[Tensor, "S"], old_policy: Float[Tensor, "S A"], policy: Float[Tensor, "S A"], advantage: Float[Tensor, "S A"]
) -> Float[Tensor, ""]:
    """What the old policy's states and actions say of the new one, by importance sampling.

    L_pi(pi') = sum_s d^pi(s) sum_a pi(a|s) [pi'(a|s) / pi(a|s)] A^pi(s, a).

    Schulman et al. 2015 (arXiv 1502.05477), eqs. 3 and 14, without the constant J(pi). visits, old_policy, advantage: of pi. Where
    pi' = pi it is zero and its gradient is the policy gradient. An action that pi never takes is never seen: it does not count.
    """
    taken = old_policy > 0.0
    ratio = policy / torch.where(taken, old_policy, 1.0)
    return visits @ torch.where(taken, old_policy * ratio * advantage, 0.0).sum(1)


def surrogate_error_bound(advantage: Float[Tensor, "S A"], largest_kl: Float[Tensor, ""], discount: float) -> Float[Tensor, ""]:
    """How far the surrogate can be from the truth.

    |J(pi') - J(pi) - L_pi(pi')| <= 4 epsilon gamma / (1 - gamma)^2 max_s KL(pi(.|s) || pi'(.|s)),   epsilon = max |A^pi|.

    Schulman et al. 2015 (arXiv 1502.05477), theorem 1, through its eq. 8; both sides of the difference obey it (its appendix A). Needs a
    discount below 1.
    """
    epsilon = advantage[torch.isfinite(advantage)].abs().amax()
    return 4.0 * epsilon * discount / (1.0 - discount) ** 2 * largest_kl
