"""Advantages of several answers to one prompt from one another's scores: no critic."""

import torch
from jaxtyping import Float
from torch import Tensor


def rloo_advantage(score: Float[Tensor, "*batch G"]) -> Float[Tensor, "*batch G"]:
    """A_i = R_i - 1/(G - 1) sum_{j != i} R_j = G/(G - 1) (R_i - mean R): the others' mean is a baseline without bias.

    Kool et al. 2019 (openreview.net/forum?id=r1lgTGL5DE); for language models Ahmadian et al. 2024 (arXiv 2402.14740).
    Raises ValueError for a group of one.
    """
    size = _group_size(score)
    return (score - score.mean(-1, keepdim=True)) * (size / (size - 1))


def grpo_advantage(score: Float[Tensor, "*batch G"], correction: int = 1, epsilon: float = 1e-4) -> Float[Tensor, "*batch G"]:
    """A_i = (R_i - mean R) / (std R + epsilon);   0 where all scores of a group are equal.

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2. correction: 1 divides the variance by G - 1 (torch, TRL), 0 by G; the
    paper does not say which. epsilon as in TRL. Raises ValueError for a group of one.
    """
    _group_size(score)
    deviation = score - score.mean(-1, keepdim=True)
    std = score.std(-1, keepdim=True, correction=correction)
    return torch.where(std > 0.0, deviation / (std + epsilon), 0.0)


def _group_size(score: Tensor) -> int:
    if score.shape[-1] < 2:
        raise ValueError(f"a group of {score.shape[-1]} was given; a baseline from the other answers needs at least two for each prompt")
    return score.shape[-1]
