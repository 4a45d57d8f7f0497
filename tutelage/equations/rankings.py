"""How scores explain an order of several answers to one prompt, and an answer "about equal".

Rank 1 is best; equal ranks are ties. Where a mask is False the place is empty, whatever its score and rank.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutelage.equations.preferences import bradley_terry_loss


def ordered_pairs(rank: Int[Tensor, "*batch K"], mask: Bool[Tensor, "*batch K"] | None = None) -> Bool[Tensor, "*batch K K"]:
    """True at (w, l) where answer w is ranked strictly before answer l: a tie is no pair. At most K (K - 1) / 2 of each prompt."""
    pairs = rank[..., :, None] < rank[..., None, :]
    return pairs if mask is None else pairs & mask[..., :, None] & mask[..., None, :]


def pairwise_ranking_loss(score: Float[Tensor, "*batch K"], pairs: Bool[Tensor, "*batch K K"]) -> Float[Tensor, "*batch"]:
    """One prompt's mean over its own pairs, so that every prompt weighs the same, however many answers were ranked.

    L = -1/|P| sum_{(w, l) in P} log sigma(r_w - r_l),   |P| = C(K, 2) without ties;   0 where a prompt has no pair.

    Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), eq. 1. Pairs: `ordered_pairs`. Average the result over the prompts that have one.
    """
    seen = pairs.any(-1) | pairs.any(-2)
    score = torch.where(seen, score, 0.0)
    loss = bradley_terry_loss(score[..., :, None] - score[..., None, :], torch.ones_like(pairs, dtype=score.dtype))
    return torch.where(pairs, loss, 0.0).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)


def plackett_luce_loss(
    score: Float[Tensor, "*batch K"], rank: Int[Tensor, "*batch K"], mask: Bool[Tensor, "*batch K"] | None = None
) -> Float[Tensor, "*batch"]:
    """The negative log-likelihood of a whole order: the best is picked first, then the best of the rest.

    L = sum_k [log sum_{j: rank_j >= rank_k} e^{r_j} - r_k].

    Plackett 1975 (Applied Statistics 24:193); Luce 1959. Tied answers each compete with all of their rank and below (Breslow 1974,
    Biometrics 30:89). With two answers it is Bradley-Terry.
    """
    keep = torch.ones_like(rank, dtype=torch.bool) if mask is None else mask
    score = torch.where(keep, score, 0.0)
    rest = (rank[..., None, :] >= rank[..., :, None]) & keep[..., None, :]
    rest = rest | ~keep[..., :, None]  # an empty place sums over something, so that its gradient is zero and not NaN
    among = torch.where(rest, score[..., None, :], -torch.inf).logsumexp(-1)
    return torch.where(keep, among - score, 0.0).sum(-1)


def weak_preference_logp(logit: Float[Tensor, "*batch"], tie_threshold: float) -> Float[Tensor, "*batch 3"]:
    """Log-probabilities of the answers "left", "right" and "about equal".

    P(left) = sigma(m - d),   P(right) = sigma(-m - d),   P(equal) = (e^(2d) - 1) P(left) P(right).

    Rao & Kupper 1967 (JASA 62:194), in logits; for queries Biyik et al. 2019 (arXiv 1910.04365). d = 0 is
    Bradley-Terry, and a tie is then impossible. Raises ValueError unless d >= 0.
    """
    if not tie_threshold >= 0.0:
        raise ValueError(f"tie_threshold={tie_threshold} was given; a weak preference needs a number that is not negative")
    left, right = logsigmoid(logit - tie_threshold), logsigmoid(-logit - tie_threshold)
    equal = left + right + torch.expm1(logit.new_tensor(2.0 * tie_threshold)).log()
    return torch.stack((left, right, equal), -1)


def weak_preference_loss(logit: Float[Tensor, "*batch"], label: Float[Tensor, "*batch"], tie_threshold: float) -> Float[Tensor, "*batch"]:
    """-log P(answer), P as in `weak_preference_logp`; a label of 1 is left, 0 right and 0.5 a tie, which informs like any other answer."""
    answer = torch.where(label == 0.5, 2, torch.where(label > 0.5, 0, 1))
    return -weak_preference_logp(logit, tie_threshold).gather(-1, answer[..., None])[..., 0]
