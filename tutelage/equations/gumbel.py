"""Draws from a categorical distribution that a gradient passes: actions that are choices, for deterministic policy gradients.

Forward, an estimator gives exactly a one-hot vector D ~ softmax(logits), drawn by the Gumbel-max trick. Backward, it is a surrogate
y = softmax(x / tau), the mean of several if there are several x: v, the gradient of what follows, becomes y (v - <y, v>) / tau for the
logits. The estimators differ in x alone; what is added to the logits to make x is a constant to the gradient.

All take the same arguments: logits theta; noise E `[S, *n, K]`, standard exponentials above 0 drawn outside, G = -log E being Gumbel
noise; the temperature tau. A choice with logit -inf is never drawn and has no gradient; each row needs another one.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def straight_through(logits: Float[Tensor, "*n K"], noise: Float[Tensor, "S *n K"], temperature: float) -> Float[Tensor, "*n K"]:
    """STGS: the surrogate is the softmax of the perturbed logits that were drawn from, x = theta + G.

    Jang, Gu & Poole 2017 (arXiv 1611.01144), section 2.2; a step's gradient taken as that of something smooth is Bengio, Léonard &
    Courville 2013 (arXiv 1308.3432). Biased, for what follows is differentiated at D only; if that is quadratic, the bias falls to 0
    with tau, while the variance grows as 1 / tau.
    Raises ValueError unless S = 1 and temperature > 0.
    """
    if len(noise) != 1:
        raise ValueError(f"noise of {len(noise)} samples was given to straight_through, which takes exactly one")
    return _with_gradient(gumbel_max(logits, noise[0]), logits, logits - noise.log(), temperature)


def gumbel_rao(logits: Float[Tensor, "*n K"], noise: Float[Tensor, "S *n K"], temperature: float) -> Float[Tensor, "*n K"]:
    """GRMCK: the surrogate of `straight_through`, averaged over perturbations that would have led to the same choice.

    D from noise[0];   x_s = theta + G_s,   G_s ~ p(G | D), from noise[s], s = 1, ..., S - 1.

    Paulus, Maddison & Krause 2021 (arXiv 2010.04838), section 3. The mean over all draws is that of `straight_through`, the variance
    at most as large: only if G_s is a constant to the gradient, as G is there. The paper speaks of a total derivative, through G_s
    too, whose mean is another one. Raises ValueError unless S > 1 and temperature > 0.
    """
    if len(noise) < 2:
        raise ValueError(
            f"noise of {len(noise)} samples was given to gumbel_rao, which takes one for the choice and at least one to average"
        )
    choice = gumbel_max(logits, noise[0])
    return _with_gradient(choice, logits, perturbed_given(logits, choice, noise[1:]), temperature)


def gapped(logits: Float[Tensor, "*n K"], noise: Float[Tensor, "S *n K"], temperature: float, *, gap: float = 1.0) -> Float[Tensor, "*n K"]:
    """GST: logits moved by hand, no more than it takes for the choice to be on top and the others at least `gap` below.

    x_D = max theta,   x_k = min(theta_k, max theta - gap) for k != D: the paper's theta + m_1 - m_2, moves that are constants.

    Fan, Chi, Rudnicky & Ramadge 2022 (arXiv 2206.07235), the moves detached as in their code. All randomness is that of D.
    Raises ValueError unless S = 1 and temperature > 0.
    """
    if len(noise) != 1:
        raise ValueError(f"noise of {len(noise)} samples was given to gapped, which takes exactly one")
    choice = gumbel_max(logits, noise[0])
    top = logits.amax(-1, keepdim=True)
    moved = torch.where(choice > 0.0, top, torch.minimum(logits, top - gap))
    return _with_gradient(choice, logits, moved[None], temperature)


def gumbel_max(logits: Float[Tensor, "*n K"], noise: Float[Tensor, "*n K"]) -> Float[Tensor, "*n K"]:
    """The one-hot vector of argmax_k theta_k + G_k, a draw from softmax(theta). No gradient flows.

    Gumbel 1954; Maddison, Tarlow & Minka 2014 (arXiv 1411.0030).
    """
    index = (logits.detach() - noise.log()).argmax(-1, keepdim=True)
    return torch.zeros_like(logits).scatter(-1, index, 1.0)


def perturbed_given(
    logits: Float[Tensor, "*n K"], choice: Float[Tensor, "*n K"], noise: Float[Tensor, "S *n K"]
) -> Float[Tensor, "S *n K"]:
    """log p + G, its Gumbel noise G drawn given that the choice D, one-hot, is the argmax. No gradient flows.

    x_D = -log E_D,   x_k = -log(E_k / p_k + E_D) for k != D,   p = softmax(theta).

    The maximum is Gumbel and independent of where it is; the others are Gumbels cut off there. Maddison, Tarlow & Minka 2014
    (arXiv 1411.0030); Paulus, Maddison & Krause 2021 (arXiv 2010.04838), section 3, who have theta + G, higher by log sum exp theta.
    """
    logp, log_e = torch.log_softmax(logits.detach(), -1), noise.log()
    highest = (choice * log_e).sum(-1, keepdim=True)
    return -torch.where(choice > 0.0, highest, torch.logaddexp(log_e - logp, highest))


def _with_gradient(
    choice: Float[Tensor, "*n K"], logits: Float[Tensor, "*n K"], x: Float[Tensor, "samples *n K"], temperature: float
) -> Float[Tensor, "*n K"]:
    """The choice, with the gradient of the surrogate of x, where x depends on the logits as logits plus a constant."""
    if not temperature > 0.0:
        raise ValueError(f"temperature={temperature} was given; a surrogate needs a positive one")
    finite = torch.where(logits > -torch.inf, logits, 0.0)  # -inf - -inf would be NaN
    y = torch.softmax((x.detach() + (finite - finite.detach())) / temperature, -1).mean(0)
    return choice + (y - y.detach())  # in this order the sum is exact: y - y is 0
