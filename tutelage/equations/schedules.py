"""Settings that change over a run."""

import math


def linear(start: float, end: float, share: float, fraction: float = 1.0) -> float:
    """From start to end in a straight line over the first `fraction` of a run, and end from there on.

    (1 - x) start + x end,   x = min(share / fraction, 1),   share of the run that is over, in [0, 1].

    Mnih et al. 2015 (Nature 518), extended data table 1, for the exploration of DQN. A fraction of 0 is `end` at once.
    Raises ValueError unless 0 <= fraction <= 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction={fraction} was given; a schedule needs a share of the run, in [0, 1]")
    done = 1.0 if share >= fraction else share / fraction
    return (1.0 - done) * start + done * end


def cosine(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine: slowly, then fast, then slowly.

    end + (start - end) (1 + cos(pi share)) / 2,   share of the run that is over, in [0, 1].

    Loshchilov & Hutter 2017 (arXiv 1608.03983), eq. 5, without restarts. It stays at the end from share 1 on.
    """
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(share, 1.0)))


def hyperbolic_labels(steps: int, total_steps: int, first: int, total: int, slowing: float | None) -> float:
    """How many labels are due after so many steps, if the rate falls as tau / (T + tau), tau = `slowing`, and all are given at the end.

    N(T) = N_0 + c tau ln(1 + T / tau),   c from N(T_end) = N;   without it, at a constant rate, N_0 + (N - N_0) T / T_end.

    Christiano et al. 2017 (arXiv 1706.03741), appendix A: tau = 2e6 for MuJoCo, 5e6 for Atari; early behavior changes fastest.
    steps: T, since the first labels; first: N_0, total: N. After T_end it stays at N.
    """
    if total_steps <= 0:
        return float(total)
    share = min(steps / total_steps, 1.0)
    done = share if slowing is None else math.log1p(share * total_steps / slowing) / math.log1p(total_steps / slowing)
    return first + (total - first) * done


def adaptive_kl_coefficient(coefficient: float, kl: float, target: float, episodes: int, horizon: int = 10_000) -> float:
    """The price of a nat after a batch: dearer where the policy is further from its reference than it should be, cheaper where nearer.

    beta <- beta (1 + e n / horizon),   e = clip(KL / target - 1, -0.2, 0.2),   n episodes in the batch.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2; target 6 nats and horizon 10,000 as in its code. kl: the mean over the batch of
    each answer's sum over tokens. Raises ValueError unless target > 0 and horizon > 0.
    """
    if not (target > 0.0 and horizon > 0):
        raise ValueError(f"target={target}, horizon={horizon} were given; an adaptive coefficient needs both positive")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * episodes / horizon)
