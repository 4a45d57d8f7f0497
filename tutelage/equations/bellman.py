"""One-step targets for action values, and the values of states that they need."""

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
    return q_target(reward, next_q - temperature * next_logp, terminated, discount)


def q_target(
    reward: Float[Tensor, "*batch"],
    next_value: Float[Tensor, "*batch"],
    terminated: Bool[Tensor, "*batch"],
    discount: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    """y = r + gamma V(s'),   V = 0 after termination.

    Watkins & Dayan 1992 (Machine Learning 8), the target of Q-learning with V(s') = max_a Q(s', a). For n steps: r their discounted
    sum, and gamma^n in place of gamma, one for each sample. s' is the true successor, also at a time limit. No gradient flows.
    """
    return (reward + discount * torch.where(terminated, 0.0, next_value)).detach()


def greedy_value(q: Float[Tensor, "*batch n"], legal: Bool[Tensor, "*batch n"] | None = None) -> Float[Tensor, "*batch"]:
    """V(s) = max_a Q(s, a) over the legal actions (None: all).

    Watkins & Dayan 1992 (Machine Learning 8). Where no action is legal, as after an end, the value is finite and means nothing.
    """
    return allow(q, legal).amax(-1)


def double_q_value(
    next_q_online: Float[Tensor, "*batch n"],
    next_q_target: Float[Tensor, "*batch n"],
    legal: Bool[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch"]:
    """V(s') = Q_target(s', argmax_a Q_online(s', a)), the argmax over the legal actions (None: all).

    van Hasselt, Guez & Silver 2016 (arXiv 1509.06461), eq. 4: what one net overestimates the other does not choose.
    """
    best = allow(next_q_online, legal).argmax(-1, keepdim=True)
    return next_q_target.gather(-1, best).squeeze(-1)


def soft_value(
    q: Float[Tensor, "*batch n"], temperature: float | Float[Tensor, "*#batch"], legal: Bool[Tensor, "*batch n"] | None = None
) -> Float[Tensor, "*batch"]:
    """V(s) = alpha log sum_a exp(Q(s, a) / alpha) over the legal actions: the best that a policy can make of Q and its entropy.

    Haarnoja et al. 2017 (arXiv 1702.08165), eq. 3. Tends to max_a Q as alpha falls to 0; alpha must be positive.
    """
    temperature = torch.as_tensor(temperature, dtype=q.dtype, device=q.device)
    return temperature * torch.logsumexp(allow(q / temperature.unsqueeze(-1), legal), -1)


def expected_soft_value(
    q: Float[Tensor, "*batch n"],
    logits: Float[Tensor, "*batch n"],
    temperature: float | Float[Tensor, "*#batch"],
    legal: Bool[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch"]:
    """V(s) = sum_a pi(a|s) (Q(s, a) - alpha log pi(a|s)),   pi = softmax(logits) over the legal actions (None: all).

    Christodoulou 2019 (arXiv 1910.07207), eq. 10. At pi = softmax(Q / alpha) it is `soft_value`, its largest.
    """
    logp = torch.log_softmax(allow(logits, legal), -1)
    pi = logp.exp()
    return (pi * q).sum(-1) - temperature * (pi * logp).sum(-1)


def allow(x: Float[Tensor, "*batch n"], legal: Bool[Tensor, "*batch n"] | None) -> Float[Tensor, "*batch n"]:
    """Values or logits with a number below all others, -sqrt(the largest), in place of those of illegal actions (None: x itself).

    softmax gives them exactly 0 and a maximum never picks them, as with -inf; but no product of a loss with them is infinite, hence no
    gradient NaN, and neither is a row without any legal action, which only padding and the states after an end may have.
    """
    return x if legal is None else torch.where(legal, x, -(torch.finfo(x.dtype).max ** 0.5))
