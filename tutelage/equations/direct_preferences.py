"""Preferences learned by the policy itself: DPO and its neighbors, per pair or per answer, not reduced.

log pi(y|x) is the sum over the answer's tokens, its end included and the prompt not, unless a function says that it takes means.
h = [log pi(y_w|x) - log pi_ref(y_w|x)] - [log pi(y_l|x) - log pi_ref(y_l|x)], w the chosen answer, l the rejected one.
The cross-entropies are `preferences.bradley_terry_loss`: DPO is it at the logit beta h with label 1, cDPO with label smoothing, ORPO's
second term at the difference of log-odds, SimPO and MODPO at logits of their own.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.preferences import bradley_terry_loss


def implicit_reward(logp: Float[Tensor, "*#batch"], reference_logp: Float[Tensor, "*#batch"], beta: float) -> Float[Tensor, "*#batch"]:
    """r(x, y) = beta (log pi(y|x) - log pi_ref(y|x)): the reward that pi is optimal for, up to a constant of the prompt.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 5 without beta log Z(x).
    """
    return beta * (logp - reference_logp)


def dpo_logit(
    chosen_logp: Float[Tensor, "*batch"],
    rejected_logp: Float[Tensor, "*batch"],
    reference_chosen_logp: Float[Tensor, "*batch"],
    reference_rejected_logp: Float[Tensor, "*batch"],
    beta: float,
) -> Float[Tensor, "*batch"]:
    """beta h, the log-odds that a policy gives to the chosen answer; with beta = 1 the gap h itself.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 6. Its loss, eq. 7, is `bradley_terry_loss(beta h, 1)`; with label smoothing it is
    conservative DPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf). With means over tokens in place of sums it is the
    length-normalized DPO of Lambert et al. 2024 (Tulu 3, arXiv 2411.15124), section 5. No gradient flows through the reference.
    """
    chosen = implicit_reward(chosen_logp, reference_chosen_logp.detach(), beta)
    return chosen - implicit_reward(rejected_logp, reference_rejected_logp.detach(), beta)


def robust_dpo_loss(logit: Float[Tensor, "*batch"], flip_rate: float) -> Float[Tensor, "*batch"]:
    """What the loss of clean labels would be on average, from labels that are flipped with probability e.

    L = [-(1 - e) log sigma(m) + e log sigma(-m)] / (1 - 2 e),   m = beta h.

    Chowdhury et al. 2024 (arXiv 2403.00409), section 3. Raises ValueError unless 0 <= e < 0.5.
    """
    if not 0.0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate={flip_rate} was given; robust DPO needs a number in [0, 0.5)")
    one, zero = torch.ones_like(logit), torch.zeros_like(logit)
    kept, flipped = bradley_terry_loss(logit, one), bradley_terry_loss(logit, zero)
    return ((1.0 - flip_rate) * kept - flip_rate * flipped) / (1.0 - 2.0 * flip_rate)


def ipo_loss(gap: Float[Tensor, "*batch"], beta: float) -> Float[Tensor, "*batch"]:
    """(h - 1 / (2 beta))^2: the gap is pulled to a finite margin, however certain the label.

    Azar et al. 2023 (arXiv 2310.12036), eq. 17, beta is its tau. The paper's h sums over tokens; TRL gives the gap of means.
    """
    return (gap - 0.5 / beta).square()


def hinge_loss(logit: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """max(0, 1 - m),   m = beta h.

    Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425), eq. 1, with DPO's logit as in Liu et al. 2023 (RSO, arXiv 2309.06657).
    """
    return (1.0 - logit).clamp(min=0.0)


def kto_reference_point(mismatched_log_ratio: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """z_0 = max(0, mean_i log pi(y_j|x_i) / pi_ref(y_j|x_i)),   j another row's answer: an estimate of KL(pi || pi_ref).

    Ethayarajh et al. 2024 (arXiv 2402.01306), section 4. No gradient flows through it.
    """
    return mismatched_log_ratio.detach().mean().clamp(min=0.0)


def kto_loss(
    log_ratio: Float[Tensor, "*batch"],
    desirable: Bool[Tensor, "*batch"],
    reference_point: Float[Tensor, ""],
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """lambda_y - v,   v = lambda_D sigma(beta (r - z_0)) for a good answer,   lambda_U sigma(beta (z_0 - r)) for a bad one.

    r = log pi(y|x) / pi_ref(y|x). Ethayarajh et al. 2024 (arXiv 2402.01306), section 4, with equal weights by default.
    """
    gain = beta * (log_ratio - reference_point)
    good = desirable_weight * torch.sigmoid(-gain)  # lambda (1 - sigma(x)) = lambda sigma(-x)
    return torch.where(desirable, good, undesirable_weight * torch.sigmoid(gain))


def log_odds(mean_logp: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log(p / (1 - p)),   p = exp(mean over the answer's tokens of log pi), without rounding near p = 0 and p = 1.

    Hong et al. 2024 (ORPO, arXiv 2403.07691), eq. 4. Its loss, eq. 6 and 7, is the mean negative log-likelihood of the chosen answer and
    lambda times `bradley_terry_loss(log_odds(w) - log_odds(l), 1)`.
    """
    small = mean_logp > -math.log(2.0)
    # Each branch sees only what it can bear: behind the choice, the gradient of the other would be 0 * infinity.
    near, far = torch.where(small, mean_logp, -1.0), torch.where(small, -1.0, mean_logp)
    return mean_logp - torch.where(small, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))


def simpo_logit(
    chosen_mean_logp: Float[Tensor, "*batch"], rejected_mean_logp: Float[Tensor, "*batch"], beta: float, target_margin: float
) -> Float[Tensor, "*batch"]:
    """beta (mean log pi(y_w|x) - mean log pi(y_l|x)) - gamma: no reference, and no gain from length.

    Meng et al. 2024 (arXiv 2405.14734), eq. 6; its loss is `bradley_terry_loss(this, 1)`. `target_margin` is gamma, not gamma / beta.
    """
    return beta * (chosen_mean_logp - rejected_mean_logp) - target_margin


def modpo_logit(
    gap: Float[Tensor, "*batch"], beta: float, margins: Float[Tensor, "*batch K"], weights: Float[Tensor, "K+1"]
) -> Float[Tensor, "*batch"]:
    """(beta h - sum_k w_k [r_k(x, y_w) - r_k(x, y_l)]) / w_0: DPO on objective 0 where K others have rewards already.

    Zhou et al. 2023 (MODPO, arXiv 2310.03708), section 3; its loss is `bradley_terry_loss(this, 1)`, its optimum the policy for the
    reward sum_k w_k r_k. margins: the others' r_k(y_w) - r_k(y_l). Raises ValueError unless w_0 > 0.
    """
    if not float(weights[0]) > 0.0:
        raise ValueError(f"weights={[float(w) for w in weights]} were given; MODPO divides by the first, so it must be positive")
    return (beta * gap - margins @ weights[1:]) / weights[0]
