"""The tanh-Gaussian head: a bounded continuous action."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def tanh_gaussian(
    output: Float[Tensor, "*batch twice_A"],
    noise: Float[Tensor, "*batch A"],
    log_std_low: float = -5.0,
    log_std_high: float = 2.0,
) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
    """A reparameterized action in (-1, 1) and its log-density.

    a = tanh(u),  u = mu + sigma eps,  log pi(a|s) = log N(u; mu, sigma) - sum_i log(1 - tanh(u_i)^2).
    Haarnoja et al. 2018 (arXiv 1812.05905), appendix C. `output` holds mu and log sigma; log sigma is clamped (the
    bounds are B-Pref's). log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) stays finite where the plain form is -inf.
    """
    mean, log_std = output.chunk(2, dim=-1)
    log_std = log_std.clamp(log_std_low, log_std_high)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return torch.tanh(u), (log_normal - log_slope).sum(-1)


def tanh_gaussian_mode(output: Float[Tensor, "*batch twice_A"]) -> Float[Tensor, "*batch A"]:
    """The action without noise, tanh(mu)."""
    return torch.tanh(output.chunk(2, dim=-1)[0])
