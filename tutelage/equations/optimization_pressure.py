"""What happens when a score is optimized: best-of-n, the best policy at a distance from its reference, and Goodhart's law.

Distances are KL(policy || reference) in nats, sums over an answer's tokens.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: how far the best of n draws is from one draw; a bound from above where equal answers are drawn twice.

    Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; that it is a bound: Beirami et al. 2024 (arXiv 2401.01879). Raises ValueError
    unless n >= 1.
    """
    if n < 1:
        raise ValueError(f"n={n} was given; best-of-n needs at least one draw")
    return math.log(n) - (n - 1) / n


def best_of_n_mean(proxy: Float[Tensor, "*batch N"], gold: Float[Tensor, "*batch N"], n: int) -> Float[Tensor, "*batch"]:
    """The expected gold score of the draw that the proxy likes best among n, without bias from a pool of N draws.

    sum_{i = n}^{N} C(i - 1, n - 1) / C(N, n) gold_(i),   gold_(i) that of the i-th smallest proxy score.

    Coste et al. 2023 (arXiv 2310.02743), after Nakano et al. 2021 (arXiv 2112.09332), appendix I. Draws with equal proxy scores share
    the mean of their gold. Raises ValueError unless 1 <= n <= N.
    """
    N = proxy.shape[-1]
    if not 1 <= n <= N:
        raise ValueError(f"n={n} was given with {N} draws for each prompt; best-of-n needs 1 <= n <= draws")
    equal = (proxy[..., :, None] == proxy[..., None, :]).to(gold.dtype)
    shared = (equal @ gold[..., None])[..., 0] / equal.sum(-1)
    ordered = shared.gather(-1, proxy.argsort(-1)).double()
    i = torch.arange(1, N + 1, dtype=torch.float64, device=gold.device)
    last = i.clamp(min=n)  # where i < n the binomial is zero
    # C(i - 1, n - 1) / C(N, n), of which the factors without i stand in the last bracket
    log_weight = torch.lgamma(last) - torch.lgamma(last - n + 1) + (math.log(n) + math.lgamma(N - n + 1) - math.lgamma(N + 1))
    weight = torch.where(i >= n, log_weight.exp(), 0.0)
    return (ordered * weight).sum(-1).to(gold.dtype)


@dataclass(frozen=True)
class Optimum:
    """The best policy at one price of a nat, for each prompt; average over prompts at equal beta, not at equal KL."""

    kl: Float64[Tensor, "*batch"]
    gold: Float64[Tensor, "*batch"]
    effective_draws: Float64[Tensor, "*batch"]
    """1 / sum w^2; below about 50 the point is too low."""


def regularized_optimum(gold: Float[Tensor, "*batch M"], beta: float) -> Optimum:
    """Where E_pi[r] - beta KL(pi || pi_ref) is largest, from draws of the reference: no policy lies above this curve.

    pi*(y) proportional to pi_ref(y) e^{r(y) / beta}:   w = softmax(r / beta),   E*[r] = sum_m w_m r_m,
    KL* = E*[r] / beta - log mean_m e^{r_m / beta}.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 4, by self-normalized importance sampling. beta may be infinite: the reference.
    Raises ValueError unless beta > 0.
    """
    if not beta > 0.0:
        raise ValueError(f"beta={beta} was given; the price of a nat must be positive")
    r = gold.double()
    tilt = r / beta
    weight = tilt.softmax(-1)
    best = (weight * r).sum(-1)
    kl = best / beta - (tilt.logsumexp(-1) - math.log(r.shape[-1]))
    return Optimum(kl.clamp(min=0.0), best, 1.0 / weight.square().sum(-1))


Law = Literal["best-of-n", "rl"]


@dataclass(frozen=True)
class GoodhartLaw:
    """Gold less that of the reference, over d = sqrt(KL): d (a - b d) for best-of-n, d (a - b ln d) for reinforcement learning.

    Gao et al. 2022 (arXiv 2210.10760), section 3.1.
    """

    law: Law
    a: float
    """How much gold the first steps bring (alpha in the paper)."""
    b: float
    """How fast it is lost (beta in the paper)."""

    def gold(self, kl: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The gain at a distance."""
        d = kl.sqrt()
        return d * (self.a - self.b * _bend(d, self.law))


def fit_goodhart_law(kl: Float[Tensor, "N"], gain: Float[Tensor, "N"], law: Law) -> GoodhartLaw:
    """Least squares for a and b: both laws are linear in them. gain: gold less that of the reference.

    Points with a KL of zero say nothing. The slope of the rl form is infinite at zero, so give it points beyond half a nat. Raises
    ValueError for fewer than two points that count.
    """
    told = kl > 0.0
    if int(told.sum()) < 2:
        raise ValueError(f"{int(told.sum())} points with a positive KL were given; a law with two numbers needs two")
    d = kl[told].double().sqrt()
    columns = torch.stack((d, -d * _bend(d, law)), -1)
    solution = cast(Tensor, cast(Any, torch.linalg).solve(columns.mT @ columns, columns.mT @ gain[told].double()))
    return GoodhartLaw(law, float(solution[0]), float(solution[1]))


def _bend(d: Tensor, law: Law) -> Tensor:
    return d if law == "best-of-n" else torch.where(d > 0.0, d, 1.0).log()


def worst_case(score: Float[Tensor, "E *batch"]) -> Float[Tensor, "*batch"]:
    """min_e r_e: what the most skeptical member of an ensemble grants.

    Coste et al. 2023 (arXiv 2310.02743), section 3, WCO.
    """
    return score.amin(0)


def variance_penalized(score: Float[Tensor, "E *batch"], weight: float) -> Float[Tensor, "*batch"]:
    """mean_e r_e - lambda var_e r_e: where the members contradict one another, the score is not believed.

    Coste et al. 2023 (arXiv 2310.02743), section 3, UWO, with the variance of the text (1/E; its PPO code has 1/(E - 1)).
    """
    return score.mean(0) - weight * score.var(0, correction=0)
