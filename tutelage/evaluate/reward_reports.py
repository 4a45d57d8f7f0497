"""What a reward model of texts is worth: whom it agrees with, where it is sure, and whether it counts words.

Everything is told of pairs that it did not learn from, the preferred answer first. An ensemble is judged by the mean of its members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.length_control import pearson_correlation
from tutelage.equations.preferences import preference_probability
from tutelage.equations.statistics import Interval, calibration, expected_calibration_error, wilson_interval


@dataclass(frozen=True)
class JudgedPairs:
    """N pairs and what E members say of them."""

    chosen: Float[Tensor, "E N"]
    """Scores of the answers that were preferred."""
    rejected: Float[Tensor, "E N"]
    chosen_length: Float[Tensor, "N"]
    """In tokens."""
    rejected_length: Float[Tensor, "N"]
    confidence: Sequence[str] | None = None
    """How sure the rater was, in the rater's words; None where nobody asked."""
    source: Sequence[str] | None = None
    """Where a pair comes from: a batch, a rater, a policy."""


@dataclass(frozen=True)
class RewardReport:
    """A reward model on held-out pairs."""

    pairs: int
    accuracy: Interval
    """A tie of the scores is half right; Wilson, 95 %."""
    longer: Interval
    """Accuracy of "prefer the longer one" on the same pairs: what the model has to beat."""
    shorter: Interval
    by_confidence: dict[str, Interval]
    by_length: dict[str, Interval]
    """Where the preferred answer is shorter, equally long, longer."""
    by_source: dict[str, Interval]
    reliability: dict[str, list[float]]
    """Of the predicted probability: columns of `equations.statistics.calibration`."""
    calibration_error: float
    length_slope: float
    """Score per token of length, by least squares over all answers, in standard deviations of the score."""
    length_correlation: float
    member_agreement: float | None
    """Share of pairs of members and pairs of answers with the same winner; None for one member."""
    disagreement: float | None
    """Mean standard deviation of the members' gaps, in standard deviations of the mean gap."""


def reward_report(pairs: JudgedPairs, bins: int = 10) -> RewardReport:
    """Raises ValueError where there is no pair, or a score is not finite."""
    gaps = (pairs.chosen - pairs.rejected).double()
    if gaps.shape[1] == 0 or not bool(gaps.isfinite().all()):
        raise ValueError(f"scores of {gaps.shape[1]} pairs were given; at least one pair with finite scores is needed")
    gap, right = gaps.mean(0), _right(gaps.mean(0))
    longer = _right(pairs.chosen_length - pairs.rejected_length)
    # A calibration needs pairs in no order: each is told once from the side of the preferred answer and once from the other.
    probability = preference_probability(gap)
    foretold = torch.stack((torch.cat((probability, 1.0 - probability)), torch.cat((torch.ones_like(gap), torch.zeros_like(gap)))), 1)
    score = torch.cat((pairs.chosen, pairs.rejected), 1).mean(0).double()
    length = torch.cat((pairs.chosen_length, pairs.rejected_length)).double()
    correlation = float(pearson_correlation(length, score))
    spread = float(length.std())
    members = len(gaps)
    where = {"shorter": longer == 0.0, "equal": longer == 0.5, "longer": longer == 1.0}
    return RewardReport(
        len(gap),
        _share(right),
        _share(longer),
        _share(1.0 - longer),
        _split(right, pairs.confidence),
        {name: _share(right[own]) for name, own in where.items() if bool(own.any())},
        _split(right, pairs.source),
        calibration(foretold, bins),
        expected_calibration_error(foretold, bins),
        correlation / spread if spread else 0.0,
        correlation,
        None if members < 2 else _agreement(gaps > 0.0),
        None if members < 2 else float(gaps.std(0, correction=0).mean() / gap.std().clamp(min=1e-12)),
    )


def _right(gap: Tensor) -> Float[Tensor, "N"]:
    return 0.5 * (1.0 + gap.sign().double())


def _share(right: Float[Tensor, "N"]) -> Interval:
    return wilson_interval(float(right.double().sum()), len(right))


def _split(right: Float[Tensor, "N"], names: Sequence[str] | None) -> dict[str, Interval]:
    if names is None:
        return {}
    if len(names) != len(right):
        raise ValueError(f"{len(names)} names were given for {len(right)} pairs; one for each was expected")
    return {name: _share(right[torch.tensor([own == name for own in names])]) for name in sorted(set(names))}


def _agreement(wins: Bool[Tensor, "E N"]) -> float:
    E = len(wins)
    first = wins.sum(0).double()
    return float(((first * (first - 1) + (E - first) * (E - first - 1)) / (E * (E - 1))).mean())


def told(report: RewardReport) -> str:
    """The report as lines for a terminal; it says plainly where counting words does as well."""
    interval = lambda x: f"{x.estimate:.3f} [{x.low:.3f}, {x.high:.3f}]"
    best = max((("prefer the longer", report.longer), ("prefer the shorter", report.shorter)), key=lambda rule: rule[1].estimate)
    if report.accuracy.low > best[1].estimate:
        verdict = f"the model beats '{best[0]}'"
    elif report.accuracy.high < best[1].estimate:
        verdict = f"'{best[0]}' beats the model"
    else:
        verdict = f"whether the model beats '{best[0]}' is open: the rule lies within the model's interval"
    lines = [f"accuracy {interval(report.accuracy)} on {report.pairs} pairs; {best[0]}: {interval(best[1])}; {verdict}"]
    for name, split in (("confidence", report.by_confidence), ("preferred answer is", report.by_length), ("source", report.by_source)):
        lines += [f"  {name} {key}: {interval(value)}" for key, value in split.items()]
    lines += [f"calibration error {report.calibration_error:.3f}; length correlation {report.length_correlation:.2f}"]
    if report.member_agreement is not None:
        lines += [f"members agree on {report.member_agreement:.3f} of the pairs"]
    return "\n".join(lines)
