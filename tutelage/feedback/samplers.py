"""Which of many candidate pairs to ask about.

Each sampler is a pure function that returns the indices of `count` different candidates, the most wanted first. A pair's
`probabilities` are the ensemble's P(left preferred); its `features` are whatever distance shall be measured in (B-Pref: the
observations of both segments, concatenated). Leading member axes (stacked seeds) never mix. Ties go to the lower index.

Lee et al. 2021b (B-Pref, arXiv 2111.03026), section 3.3; disagreement: Christiano et al. 2017 (arXiv 1706.03741), section 2.2.4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage.feedback.query import FeedbackError


def uniform(candidates: int, count: int, generator: torch.Generator) -> Int64[Tensor, "count"]:
    """Every set of `count` candidates is equally likely."""
    _check_count(candidates, count)
    return torch.randperm(candidates, generator=generator)[:count]


def disagreement(probabilities: Float[Tensor, "*R E N"], count: int) -> Int64[Tensor, "*R count"]:
    """Where the members contradict one another: the largest standard deviation over the E members of P(left preferred)."""
    return _top(_disagreement_score(probabilities), count)


def entropy(probabilities: Float[Tensor, "*R E N"], count: int) -> Int64[Tensor, "*R count"]:
    """Where the members are undecided: the largest mean over the E members of H(P) = -P log P - (1 - P) log(1 - P)."""
    return _top(_entropy_score(probabilities), count)


def information_gain(probabilities: Float[Tensor, "*R E N"], count: int) -> Int64[Tensor, "*R count"]:
    """Whose answer would tell most about which member is right: H(mean_E P) - mean_E H(P), the mutual information.

    Houlsby et al. 2011 (arXiv 1112.5745), eq. 1; for preferences Biyik & Sadigh 2018 (arXiv 1810.04303). Unlike `entropy` it is 0 where
    all members call a pair a tie.
    """
    _check_finite(probabilities, "probabilities")
    mean = probabilities.mean(-2)
    return _top(torch.special.entr(mean) + torch.special.entr(1.0 - mean) - _entropy_score(probabilities), count)


def k_center(features: Float[Tensor, "*R N F"], count: int, labeled: Float[Tensor, "*R M F"] | None = None) -> Int64[Tensor, "*R count"]:
    """Coverage: again and again the candidate farthest from all that is labeled or already chosen (greedy k-center).

    Euclidean distance. With nothing labeled (M = 0 or None) the first candidate is the first center: candidates come in random
    order, or best first from the hybrids. At most 2 times the optimal radius: Gonzalez 1985; as a sampler, Sener & Savarese 2018
    (arXiv 1708.00489), algorithm 1.
    """
    candidates = features.shape[-2]
    _check_count(candidates, count)
    _check_finite(features, "features")
    chosen: list[Tensor] = []
    if labeled is not None and labeled.shape[-2] > 0:
        _check_finite(labeled, "features of labeled pairs")
        distance = _distance_to_nearest(features, labeled)
    else:
        distance = torch.full(features.shape[:-1], torch.inf, dtype=features.dtype, device=features.device)
    for _ in range(count):
        center = distance.argmax(-1, keepdim=True)  # the first of equals
        chosen.append(center)
        distance = torch.minimum(distance, (features - features.take_along_dim(center.unsqueeze(-1), -2)).norm(dim=-1))
        # Below every distance: where many candidates coincide all distances are 0, and still none may be chosen twice.
        distance = distance.scatter(-1, torch.cat(chosen, -1), -1.0)
    return torch.cat(chosen, -1) if chosen else torch.zeros(*features.shape[:-2], 0, dtype=torch.int64, device=features.device)


def disagreement_k_center(
    probabilities: Float[Tensor, "*R E N"],
    features: Float[Tensor, "*R N F"],
    count: int,
    labeled: Float[Tensor, "*R M F"] | None = None,
) -> Int64[Tensor, "*R count"]:
    """k-center among the half of the candidates that the members disagree on most."""
    return _k_center_of_top_half(_disagreement_score(probabilities), features, count, labeled)


def entropy_k_center(
    probabilities: Float[Tensor, "*R E N"],
    features: Float[Tensor, "*R N F"],
    count: int,
    labeled: Float[Tensor, "*R M F"] | None = None,
) -> Int64[Tensor, "*R count"]:
    """k-center among the half of the candidates that the members are least decided on."""
    return _k_center_of_top_half(_entropy_score(probabilities), features, count, labeled)


@dataclass(frozen=True)
class Sampler:
    """A rule and the names of the arguments that it takes beside `count`."""

    choose: Callable[..., Tensor]
    inputs: tuple[str, ...]


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "uniform": Sampler(uniform, ("candidates", "generator")),
        "disagreement": Sampler(disagreement, ("probabilities",)),
        "entropy": Sampler(entropy, ("probabilities",)),
        "information_gain": Sampler(information_gain, ("probabilities",)),
        "k_center": Sampler(k_center, ("features", "labeled")),
        "disagreement_k_center": Sampler(disagreement_k_center, ("probabilities", "features", "labeled")),
        "entropy_k_center": Sampler(entropy_k_center, ("probabilities", "features", "labeled")),
    }
)


def _disagreement_score(probabilities: Float[Tensor, "*R E N"]) -> Float[Tensor, "*R N"]:
    _check_finite(probabilities, "probabilities")
    return probabilities.std(-2, correction=0)


def _entropy_score(probabilities: Float[Tensor, "*R E N"]) -> Float[Tensor, "*R N"]:
    _check_finite(probabilities, "probabilities")
    return (torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)).mean(-2)


def _top(score: Float[Tensor, "*R N"], count: int) -> Int64[Tensor, "*R count"]:
    _check_count(score.shape[-1], count)
    return score.sort(dim=-1, descending=True, stable=True).indices[..., :count]  # topk leaves the order of equals open


def _k_center_of_top_half(
    score: Float[Tensor, "*R N"], features: Float[Tensor, "*R N F"], count: int, labeled: Float[Tensor, "*R M F"] | None
) -> Int64[Tensor, "*R count"]:
    _check_count(score.shape[-1], count)
    half = _top(score, max(count, score.shape[-1] // 2))
    inside = k_center(features.take_along_dim(half.unsqueeze(-1), -2), count, labeled)
    return half.take_along_dim(inside, -1)


def _distance_to_nearest(features: Float[Tensor, "*R N F"], labeled: Float[Tensor, "*R M F"]) -> Float[Tensor, "*R N"]:
    # Which one is nearest comes from one matrix product; how far it is, from differences: of |a|^2 + |b|^2 - 2ab only rounding
    # would be left where a candidate is a copy of a labeled pair, and the copy could be asked about again.
    center = labeled.mean(-2, keepdim=True)
    a, b = features - center, labeled - center
    nearest = (b.square().sum(-1).unsqueeze(-2) - 2.0 * a @ b.mT).argmin(-1, keepdim=True)
    return (features - labeled.take_along_dim(nearest, -2)).norm(dim=-1)


def _check_count(candidates: int, count: int) -> None:
    if not 0 <= count <= candidates:
        raise FeedbackError(f"{count} queries shall be chosen from {candidates} candidates; a count of 0 to {candidates} was expected")


def _check_finite(values: Tensor, what: str) -> None:
    if not bool(values.isfinite().all()):
        raise FeedbackError(f"the {what} of the candidates contain NaN or infinity; a sampler expects finite numbers")
