"""One-step targets for action values."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def soft_bellman_target(
    reward: Float[Tensor, "*batch"],
    next_q: Float[Tensor, "*batch"],
    next_logp: Float[Tensor, "*batch"],
    temperature: float | Float[Tensor, "*#batch"],
    terminated: Bool[Tensor, "*batch"],
    discount: float,
) -> Float[Tensor, "*batch"]:
    """The target of a maximum-entropy critic.

    y = r + gamma V(s'),   V(s') = Q(s', a') - alpha log pi(a'|s'),   a' ~ pi(.|s'),   V = 0 after termination.

    Haarnoja et al. 2018 (arXiv 1812.05905), eqs. 2 and 3, sampled. `next_q` is the value of the target critics, the minimum
    over them already taken. s' is the true successor, also at a time limit: only `terminated` zeroes its value.
    No gradient flows through the target, into the temperature neither.
    """
    next_v = next_q - temperature * next_logp
    return (reward + discount * torch.where(terminated, 0.0, next_v)).detach()
