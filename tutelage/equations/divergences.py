"""How far one distribution is from another: closed forms, and estimates from samples."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, softplus


def kl_categorical(logits_p: Float[Tensor, "*batch n"], logits_q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """KL(p || q) = sum_i p_i (log p_i - log q_i),   p = softmax(logits_p),   q = softmax(logits_q).

    Where p_i = 0 the term and its gradient are zero, also if q_i = 0 (a logit of -inf in both).
    """
    logp, logq = log_softmax(logits_p, -1), log_softmax(logits_q, -1)
    p = logp.exp()
    # The choice comes before the product: behind it, the gradient of a masked -inf - -inf would be 0 * NaN.
    return (p * torch.where(p > 0.0, logp - logq, 0.0)).sum(-1)


def kl_bernoulli(logits_p: Float[Tensor, "*batch n"], logits_q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """KL(p || q) of n independent coins, sum_i p_i (l_i - m_i) - log(1 + e^l_i) + log(1 + e^m_i),   p = sigma(l),   q = sigma(m)."""
    p = torch.sigmoid(logits_p)
    return (p * (logits_p - logits_q) - softplus(logits_p) + softplus(logits_q)).sum(-1)


def kl_gaussian(
    mean_p: Float[Tensor, "*batch n"],
    log_std_p: Float[Tensor, "*batch n"],
    mean_q: Float[Tensor, "*batch n"],
    log_std_q: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch"]:
    """KL(p || q) of normal distributions with diagonal covariance.

    sum_i 1/2 (s_i - 1 - log s_i + (mu_p - mu_q)_i^2 / sigma_q,i^2),   s = sigma_p^2 / sigma_q^2.

    Kullback 1959, Information Theory and Statistics, chapter 9. s - 1 is taken by expm1, so that nearby policies lose no digits.
    """
    log_s = 2.0 * (log_std_p - log_std_q)
    distance = (mean_p - mean_q) * (-log_std_q).exp()
    return 0.5 * (torch.expm1(log_s) - log_s + distance.square()).sum(-1)


def kl_k1(logp: Float[Tensor, "*batch"], logq: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """-log r,   r = q(x) / p(x),   x ~ p: an estimate of KL(p || q) per sample; unbiased, and often negative.

    Schulman 2020 (joschu.net/blog/kl-approx.html). Its gradient with x held fixed: in the parameters of q that of KL(p || q) on
    average; in those of p zero on average, so it is worthless as a penalty on the policy that drew the samples.
    """
    return logp - logq


def kl_k2(logp: Float[Tensor, "*batch"], logq: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """1/2 (log r)^2,   r = q(x) / p(x),   x ~ p: an estimate of KL(p || q) per sample; never negative, biased to third order in q - p.

    Schulman 2020 (joschu.net/blog/kl-approx.html). Its gradient with x held fixed: in the parameters of p that of KL(p || q) on
    average, exactly; in those of q that of KL(p || q) near p only.
    """
    return 0.5 * (logp - logq).square()


def kl_k3(logp: Float[Tensor, "*batch"], logq: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """r - 1 - log r,   r = q(x) / p(x),   x ~ p: an estimate of KL(p || q) per sample; unbiased and never negative.

    Schulman 2020 (joschu.net/blog/kl-approx.html). Its gradient with x held fixed: in the parameters of q that of KL(p || q) on
    average; in those of p that of the reverse, KL(q || p), on average.
    """
    log_ratio = logq - logp
    return torch.expm1(log_ratio) - log_ratio
