"""Win rates and rewards with the effect of length taken out."""

from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tutelage.equations.preferences import bradley_terry_loss


def logistic_fit(
    features: Float[Tensor, "N F"], outcome: Float[Tensor, "N"], penalty: float = 1e-3, iterations: int = 50
) -> Float64[Tensor, "F"]:
    """argmin_w sum_i -y_i log sigma(x_i w) - (1 - y_i) log sigma(-x_i w) + penalty / 2 |w|^2, by Newton's method.

    w <- w + (X^T S X + penalty I)^-1 [X^T (y - p) - penalty w],   p = sigma(X w),   S = diag p (1 - p).

    McCullagh & Nelder 1989, Generalized Linear Models, section 4.4. An outcome of 0.5 is a tie. The penalty keeps separable data finite.
    """
    x, y = features.double(), outcome.double()
    w = x.new_zeros(x.shape[1])
    ridge = torch.diag(torch.full_like(w, penalty))

    def loss(w: Tensor) -> Tensor:
        return bradley_terry_loss(x @ w, y).sum() + 0.5 * penalty * w.square().sum()

    for _ in range(iterations):
        p = torch.sigmoid(x @ w)
        gradient = x.mT @ (y - p) - penalty * w
        step = cast(Tensor, cast(Any, torch.linalg).solve(x.mT @ ((p * (1.0 - p))[:, None] * x) + ridge, gradient))
        while bool(loss(w + step) > loss(w) + 1e-12):  # far from the optimum a whole step may overshoot
            step = 0.5 * step
        w = w + step
        if float(step.abs().amax()) < 1e-10:
            break
    return w


def length_controlled_by_ratio(
    outcome: Float[Tensor, "N"], length: Float[Tensor, "N"], other_length: Float[Tensor, "N"], penalty: float = 1e-3
) -> tuple[float, float]:
    """The win rate that a logistic regression predicts at equal lengths, and the log-odds that length brings per e-fold.

    P(win) = sigma(a + b log(length / other)),   reported: sigma(a), b.

    Stiennon et al. 2020 (arXiv 2009.01325), appendix F, for two policies. outcome: 1 a win, 0.5 a tie, 0 a loss. An answer of
    no token counts as one of one token.
    """
    ratio = (length.double().clamp(min=1.0) / other_length.double().clamp(min=1.0)).log()
    a, b = logistic_fit(torch.stack((torch.ones_like(ratio), ratio), -1), outcome, penalty)
    return torch.sigmoid(a).item(), b.item()


def length_controlled_by_difference(
    outcome: Float[Tensor, "N"],
    length: Float[Tensor, "N"],
    other_length: Float[Tensor, "N"],
    difficulty: Float[Tensor, "N"] | None = None,
    penalty: float = 1e-3,
) -> tuple[float, float]:
    """As AlpacaEval 2: the mean prediction with the length term set to zero, and that term's weight.

    P(win | x) = sigma(theta + phi tanh(dlen / std dlen) + psi d_x),   reported: mean_x sigma(theta + psi d_x), phi.

    Dubois et al. 2024 (arXiv 2404.04475), eq. 1 and 2, with a small ridge where its code cross-validates an L1 penalty and adds gamed
    baselines as anchors. difficulty: d_x of each prompt, which the paper fits on many models; None: none.
    """
    difference = length.double() - other_length.double()
    spread = difference.std(correction=0)
    told = torch.tanh(difference / torch.where(spread > 0.0, spread, 1.0))
    hardness = torch.zeros_like(told) if difficulty is None else difficulty.double()
    theta, phi, psi = logistic_fit(torch.stack((torch.ones_like(told), told, hardness), -1), outcome, penalty)
    return torch.sigmoid(theta + psi * hardness).mean().item(), phi.item()


def pearson_correlation(x: Float[Tensor, "N"], y: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """cov(x, y) / (std x std y), with a gradient; 0 where either is constant."""
    a, b = x - x.mean(), y - y.mean()
    return a @ b / (a.square().sum() * b.square().sum()).clamp(min=1e-12).sqrt()


def odin_penalty(
    quality: Float[Tensor, "N"], length_score: Float[Tensor, "N"], length: Float[Tensor, "N"],
    quality_row: Float[Tensor, "D"], length_row: Float[Tensor, "D"],
) -> Float[Tensor, ""]:  # fmt: skip
    """What keeps two heads of a reward model apart: one learns length, so that the other need not.

    |cos(w_q, w_l)| + [1 - corr(len, r_l)] + |corr(len, r_q)|.

    Chen et al. 2024 (ODIN, arXiv 2402.07319), section 3; its code adds |corr(len, r_q + r_l)|, which works against the first bracket and
    is left out. The ranking loss is Bradley-Terry on r_q + r_l, and reinforcement learning then uses r_q alone.
    """
    orthogonal = cosine_similarity(quality_row, length_row, dim=0).abs()
    return orthogonal + (1.0 - pearson_correlation(length, length_score)) + pearson_correlation(length, quality).abs()
