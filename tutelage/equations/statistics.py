"""What a set of numbers says: running moments of a stream, and comparisons of a few runs."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Float64, Real
from torch import Tensor


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and spread of everything seen so far, in float64; three tensors of one shape, saved and loaded as they are.

    For counts n_A, n_B, means and sums of squared deviations M2:   n = n_A + n_B,   delta = mean_B - mean_A,
    mean = mean_A + delta n_B / n,   M2 = M2_A + M2_B + delta^2 n_A n_B / n.

    Chan, Golub & LeVeque 1979 (Stanford CS-TR-79-773), the updating formulae. How the samples are split into batches
    changes only rounding.
    """

    count: Float64[Tensor, "*shape"]
    """Samples seen; a whole number, exact up to 2^53."""
    mean: Float64[Tensor, "*shape"]
    """0 before the first sample."""
    m2: Float64[Tensor, "*shape"]
    """Sum of squared deviations from the mean."""

    @staticmethod
    def zeros(*shape: int, device: torch.device | str = "cpu") -> "RunningMoments":
        """Nothing seen yet; `shape` is what remains of the samples without the axes that are averaged."""
        zeros = torch.zeros(shape, dtype=torch.float64, device=device)
        return RunningMoments(zeros, zeros.clone(), zeros.clone())

    @staticmethod
    def of(samples: Real[Tensor, "..."], dim: int | tuple[int, ...] = 0, mask: Bool[Tensor, "..."] | None = None) -> "RunningMoments":
        """The moments over the axes `dim`; the other axes (members, features) stay apart.

        mask: broadcasts against the samples; where it is False the sample is not counted, whatever it holds.
        """
        keep = torch.ones((), dtype=torch.bool, device=samples.device) if mask is None else mask
        keep = keep.expand_as(samples)
        x = torch.where(keep, samples, 0.0).double()
        count = keep.sum(dim, keepdim=True, dtype=torch.float64)
        mean = x.sum(dim, keepdim=True) / count.clamp(min=1.0)
        m2 = torch.where(keep, x - mean, 0.0).square().sum(dim, keepdim=True)
        return RunningMoments(count.squeeze(dim), mean.squeeze(dim), m2.squeeze(dim))

    def merge(self, other: "RunningMoments") -> "RunningMoments":
        """The moments of both sets of samples together. The shapes must be equal: a ValueError names them if not."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of shape {tuple(self.mean.shape)} cannot take samples of shape {tuple(other.mean.shape)}")
        count = self.count + other.count
        share = other.count / count.clamp(min=1.0)
        delta = other.mean - self.mean
        return RunningMoments(count, self.mean + delta * share, self.m2 + other.m2 + delta.square() * self.count * share)

    def update(
        self, samples: Real[Tensor, "..."], dim: int | tuple[int, ...] = 0, mask: Bool[Tensor, "..."] | None = None
    ) -> "RunningMoments":
        """These moments with a batch of samples added; arguments as in `of`."""
        return self.merge(RunningMoments.of(samples.detach(), dim, mask))

    @property
    def std(self) -> Float64[Tensor, "*shape"]:
        """sqrt(M2 / n), the standard deviation of the population; NaN before the first sample."""
        return (self.m2 / self.count).sqrt()


def masked_mean(x: Float[Tensor, "*batch N"], mask: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
    """sum_i m_i x_i / sum_i m_i,   m_i in {0, 1};   0 where all are masked."""
    return (x * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)


def mean_of(x: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None = None) -> Float[Tensor, "R"]:
    """The mean of each member's samples, over all other axes; mask: 1 for a sample that counts, else 0 (None: all do)."""
    return x.flatten(1).mean(1) if mask is None else masked_mean(x.flatten(1), mask.flatten(1))


def variance_of(x: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None = None) -> Float[Tensor, "R"]:
    """The variance of each member's samples, sum(m (x - mean)^2) / (sum(m) - 1); mask as in `mean_of`."""
    if mask is None:
        return x.flatten(1).var(1)
    deviation = x - mean_of(x, mask).view(-1, *[1] * (x.dim() - 1))
    return (deviation.square() * mask).flatten(1).sum(1) / (mask.flatten(1).sum(1) - 1.0).clamp(min=1.0)


def standardized(x: Float[Tensor, "R *n"], mask: Float[Tensor, "R *n"] | None = None) -> Float[Tensor, "R *n"]:
    """(x - mean) / (standard deviation + 1e-8), by each member's own; x itself where a member has a single sample."""
    if x[0].numel() < 2:
        return x
    if mask is None:
        variance, mean = torch.var_mean(x, tuple(range(1, x.dim())), keepdim=True)
    else:
        variance, mean = (moment(x, mask).view(-1, *[1] * (x.dim() - 1)) for moment in (variance_of, mean_of))
    return (x - mean) / (variance.sqrt() + 1e-8)


def whitened(x: Float[Tensor, "*n"], mask: Bool[Tensor, "*n"] | None = None, shift_mean: bool = True) -> Float[Tensor, "*n"]:
    """(x - mean) / sqrt(var + 1e-8) over everything that is not masked, var of the population; 0 where masked.

    As lm-human-preferences whitens advantages; its rewards keep their mean (shift_mean=False): (x - mean) / sqrt(var + 1e-8) + mean.
    Ziegler et al. 2019 (arXiv 1909.08593), in its code. `standardized` is the other convention: var of a sample, members apart.
    """
    keep = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    count = keep.sum().clamp(min=1)
    mean = torch.where(keep, x, 0.0).sum() / count
    deviation = torch.where(keep, x - mean, 0.0)
    white = deviation * (deviation.square().sum() / count + 1e-8).rsqrt()
    return white if shift_mean else white + torch.where(keep, mean, 0.0)


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


Statistic = Callable[[Float[Tensor, "*batch runs tasks"]], Float[Tensor, "*batch"]]
"""Reduces the last two axes, runs and tasks."""


def interquartile_mean(scores: Float[Tensor, "*batch runs tasks"]) -> Float[Tensor, "*batch"]:
    """The mean of the middle half of all scores, over runs and tasks together.

    IQM = mean(x_(c+1), ..., x_(n-c)),   c = floor(n / 4),   x sorted.

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.3; whole scores are cut, never a part of one.
    """
    x = scores.flatten(-2).sort(-1).values
    cut = x.shape[-1] // 4
    return x[..., cut : x.shape[-1] - cut].mean(-1)


def stratified_bootstrap_interval(
    scores: Float[Tensor, "runs tasks"],
    statistic: Statistic,
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
    allow_few: bool = False,
) -> Interval:
    """A percentile bootstrap interval: runs are drawn with replacement, for each task on its own.

    [low, high] = the (1 - c) / 2 and (1 + c) / 2 quantiles of statistic(x*),   x*_{ij} = x_{u_ij, j},   u_ij uniform over runs.

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.1. Raises ValueError for scores that are not finite, for a confidence outside
    (0, 1), no resamples, and for fewer than five runs without `allow_few`: the percentiles of so few are far too narrow.
    """
    scores = _checked(scores, resamples, confidence, allow_few)
    return _interval(statistic(scores), statistic(_resample(scores, generator, resamples)), confidence)


def probability_of_improvement(
    x: Float[Tensor, "runs_x tasks"],
    y: Float[Tensor, "runs_y tasks"],
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
    allow_few: bool = False,
) -> Interval:
    """How likely a run of X beats a run of Y on the same task, averaged over tasks; the runs are not paired.

    P(X > Y) = mean_j U_j / (n m),   U_j = sum_{i,k} 1[x_ij > y_kj] + 1/2 1[x_ij = y_kj]   (Mann-Whitney).

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.3. Both sides are resampled for the interval. Errors as in
    `stratified_bootstrap_interval`.
    """
    x, y = (_checked(scores, resamples, confidence, allow_few) for scores in (x, y))
    draws = _win_rate(_resample(x, generator, resamples), _resample(y, generator, resamples))
    return _interval(_win_rate(x, y), draws, confidence)


def paired_probability_of_improvement(
    x: Float[Tensor, "runs tasks"],
    y: Float[Tensor, "runs tasks"],
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
    allow_few: bool = False,
) -> Interval:
    """How often X beats Y where both ran with the same seed (row) on the same task (column); a tie counts half.

    P = mean_ij 1[x_ij > y_ij] + 1/2 1[x_ij = y_ij].

    The sign statistic of matched pairs (the form of Agarwal et al. 2021, arXiv 2108.13264, section 4.3, with seeds held equal);
    whole pairs are resampled. Errors as in `stratified_bootstrap_interval`.
    """
    x, y = (_checked(scores, resamples, confidence, allow_few) for scores in (x, y))
    wins = 0.5 * ((x > y).double() + (x >= y).double())
    return _interval(wins.mean(), _resample(wins, generator, resamples).mean((-2, -1)), confidence)


def _checked(scores: Float[Tensor, "runs tasks"], resamples: int, confidence: float, allow_few: bool) -> Float64[Tensor, "runs tasks"]:
    runs = scores.shape[0]
    if runs < 5 and not allow_few:
        raise ValueError(f"an interval from {runs} runs would mislead; five are needed (or allow_few=True)")
    if scores.numel() == 0 or not bool(scores.isfinite().all()):
        raise ValueError(f"scores of shape {tuple(scores.shape)} are empty or not finite; an interval needs every run's score")
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"resamples={resamples}, confidence={confidence} were given; a bootstrap needs at least 1 and a number in (0, 1)")
    return scores.double()


def _resample(scores: Float64[Tensor, "runs tasks"], generator: torch.Generator, resamples: int) -> Float64[Tensor, "resamples runs tasks"]:
    drawn = torch.randint(scores.shape[0], (resamples, *scores.shape), generator=generator)
    return scores.expand(resamples, -1, -1).gather(1, drawn.to(scores.device))


def _win_rate(x: Float64[Tensor, "*batch runs_x tasks"], y: Float64[Tensor, "*batch runs_y tasks"]) -> Float64[Tensor, "*batch"]:
    x, y = x.mT.contiguous(), y.mT.contiguous().sort(-1).values
    below, not_above = torch.searchsorted(y, x), torch.searchsorted(y, x, right=True)
    return (0.5 / y.shape[-1]) * (below + not_above).double().mean((-2, -1))


def _interval(estimate: Tensor, draws: Float[Tensor, "resamples"], confidence: float) -> Interval:
    tail = 0.5 * (1.0 - confidence)
    return Interval(estimate.item(), torch.quantile(draws, tail).item(), torch.quantile(draws, 1.0 - tail).item())


def calibration(foretold: Float[Tensor, "N 2"], bins: int = 10) -> dict[str, list[float]]:
    """Predicted probabilities against what happened: a reliability diagram (Murphy & Winkler 1977, Applied Statistics 26:41).

    foretold: columns probability and outcome, both in [0, 1]. Bins of equal width; those that hold nothing are left out, so the
    lists "probability" (mean prediction), "frequency" (mean outcome) and "count" have one entry per bin that holds something.
    """
    predicted, outcome = foretold.unbind(-1)
    bin_of = (predicted * bins).long().clamp(max=bins - 1)
    held = [bin_of == number for number in range(bins) if bool((bin_of == number).any())]
    return {
        "probability": [float(predicted[own].mean()) for own in held],
        "frequency": [float(outcome[own].mean()) for own in held],
        "count": [float(own.sum()) for own in held],
    }


def expected_calibration_error(foretold: Float[Tensor, "N 2"], bins: int = 10) -> float:
    """sum_b n_b / N |frequency_b - probability_b| over the bins of `calibration`.

    Naeini et al. 2015 (AAAI 29); Guo et al. 2017 (arXiv 1706.04599), eq. 3. 0 is perfect.
    """
    table = calibration(foretold, bins)
    gaps = zip(table["probability"], table["frequency"], table["count"], strict=True)
    return sum(count * abs(frequency - probability) for probability, frequency, count in gaps) / len(foretold)


def wilson_interval(wins: float | int, trials: int, confidence: float = 0.95) -> Interval:
    """The score interval of a share p = wins / trials: inside [0, 1] and honest for few trials.

    center = (p + z^2 / 2n) / (1 + z^2 / n),   half = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2),   z the normal quantile.

    Wilson 1927 (JASA 22:209). A tie may count as half a win: the interval is then wider than it need be, never narrower, since a half
    varies less than a coin. Raises ValueError unless 0 <= wins <= trials, trials >= 1 and confidence in (0, 1).
    """
    if not (trials >= 1 and 0.0 <= wins <= trials and 0.0 < confidence < 1.0):
        given = f"wins={wins}, trials={trials}, confidence={confidence} were given"
        raise ValueError(f"{given}; an interval needs wins in [0, trials] and a confidence in (0, 1)")
    z = NormalDist().inv_cdf(0.5 * (1.0 + confidence))
    p, shrink = wins / trials, 1.0 + z * z / trials
    center = (p + z * z / (2.0 * trials)) / shrink
    half = z / shrink * (p * (1.0 - p) / trials + z * z / (4.0 * trials * trials)) ** 0.5
    return Interval(p, max(center - half, 0.0), min(center + half, 1.0))
