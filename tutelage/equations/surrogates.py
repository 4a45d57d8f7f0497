"""What a policy-gradient step maximizes, and the clipped loss of its critic; per sample, not reduced."""

import torch
from jaxtyping import Float
from torch import Tensor


def policy_gradient_surrogate(logp: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log pi(a|s) w, to be maximized: its gradient is w grad log pi(a|s), and none flows through w.

    Williams 1992 (Machine Learning 8), REINFORCE; Schulman et al. 2016 (arXiv 1506.02438), eq. 1, lists the six weights w.
    """
    return logp * weight.detach()


def importance_surrogate(
    logp: Float[Tensor, "*batch"], old_logp: Float[Tensor, "*batch"], advantage: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """rho A,   rho = pi(a|s) / pi_old(a|s), to be maximized; its gradient at the old policy is the policy gradient.

    Kakade & Langford 2002; Schulman et al. 2015 (arXiv 1502.05477), eq. 14. No gradient flows through the old policy or A.
    """
    return (logp - old_logp.detach()).exp() * advantage.detach()


def clipped_surrogate(
    logp: Float[Tensor, "*batch"], old_logp: Float[Tensor, "*batch"], advantage: Float[Tensor, "*batch"], clip_range: float
) -> Float[Tensor, "*batch"]:
    """min(rho A, clip(rho, 1 - e, 1 + e) A),   rho = pi(a|s) / pi_old(a|s), to be maximized.

    Schulman et al. 2017 (arXiv 1707.06347), eq. 7. Flat, hence without gradient, where a step further would raise the unclipped term.
    """
    advantage = advantage.detach()
    ratio = (logp - old_logp.detach()).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)


def clipped_value_loss(
    value: Float[Tensor, "*batch"], old_value: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"], clip_range: float
) -> Float[Tensor, "*batch"]:
    """1/2 max((V - G)^2, (V_clip - G)^2),   V_clip = V_old + clip(V - V_old, -e, e).

    Not in the paper: PPO's code has it (Engstrom et al. 2020, arXiv 2005.12729, section 3, item 1). No gradient flows through V_old or G.
    """
    old_value, target = old_value.detach(), target.detach()
    clipped = old_value + (value - old_value).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((value - target).square(), (clipped - target).square())
