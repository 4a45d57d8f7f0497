"""Bradley-Terry: how a reward explains which of two items a rater prefers."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_logit(
    reward_left: Float[Tensor, "*batch H_left"],
    reward_right: Float[Tensor, "*batch H_right"],
    mask_left: Bool[Tensor, "*#batch H_left"] | None = None,
    mask_right: Bool[Tensor, "*#batch H_right"] | None = None,
) -> Float[Tensor, "*batch"]:
    """The log-odds that the left item is preferred.

    m = sum_t r_t(left) - sum_t r_t(right),   undiscounted.

    Christiano et al. 2017 (arXiv 1706.03741), the exponents of eq. 1. The two items may differ in length. Where a mask
    is False the step is padding: it adds nothing and receives no gradient, whatever it holds, NaN included.
    """
    if mask_left is not None:
        reward_left = torch.where(mask_left, reward_left, 0.0)
    if mask_right is not None:
        reward_right = torch.where(mask_right, reward_right, 0.0)
    return reward_left.sum(-1) - reward_right.sum(-1)


def preference_probability(logit: Float[Tensor, "*batch"], rater_error: float = 0.0) -> Float[Tensor, "*batch"]:
    """The probability that a rater answers "left".

    P(left) = (1 - e) sigma(m) + e / 2:   with probability e the rater answers by a fair coin.

    Bradley & Terry 1952 (Biometrika 39:324) for e = 0; Christiano et al. 2017 (arXiv 1706.03741), section 2.2.3, e = 0.1.
    Raises ValueError unless 0 <= e < 1.
    """
    _check_rater_error(rater_error)
    return (1.0 - rater_error) * torch.sigmoid(logit) + 0.5 * rater_error


def log_preference_probability(logit: Float[Tensor, "*batch"], rater_error: float = 0.0) -> Float[Tensor, "*batch"]:
    """log P(left), accurate where P itself would round to 0 or 1.

    log P(left) = log(e^a + e^b),   a = log(1 - e) + log sigma(m),   b = log(e / 2).

    The logarithm of `preference_probability`; never below b. Raises ValueError unless 0 <= e < 1.
    """
    _check_rater_error(rater_error)
    if rater_error == 0.0:
        return logsigmoid(logit)
    a = math.log1p(-rater_error) + logsigmoid(logit)
    b = torch.full_like(logit, math.log(0.5 * rater_error))
    return torch.stack((a, b)).logsumexp(0)  # torch.logaddexp has a NaN second derivative at large gaps


def bradley_terry_loss(
    logit: Float[Tensor, "*#batch"],
    label: Float[Tensor, "*#batch"],
    rater_error: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "*#batch"]:
    """Cross-entropy of each pair, not reduced.

    L = -y log P(left) - (1 - y) log P(right),   y = (1 - s) label + s (1 - label),   P as in `preference_probability`.

    Christiano et al. 2017 (arXiv 1706.03741), section 2.2.3: the rater error is part of the likelihood and not of the label,
    so one wrong label costs at most -log(e / 2) and its gradient vanishes. `label` is the probability that the left
    item is preferred: 1 left, 0 right, 0.5 a tie. Label smoothing s (Szegedy et al. 2016, arXiv 1512.00567, section 7, for two
    classes with total weight 2s) keeps the best logit of a certain label finite: ln((1 - s) / s).
    Raises ValueError unless 0 <= e < 1 and 0 <= s < 0.5.
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} was given; Bradley-Terry needs a number in [0, 0.5)")
    y = (1.0 - label_smoothing) * label + label_smoothing * (1.0 - label)
    left = log_preference_probability(logit, rater_error)
    right = log_preference_probability(-logit, rater_error)
    return -y * left - (1.0 - y) * right


def _check_rater_error(rater_error: float) -> None:
    if not 0.0 <= rater_error < 1.0:
        raise ValueError(f"rater_error={rater_error} was given; Bradley-Terry needs a number in [0, 1)")
