"""Who wins when two answers to one prompt are judged: with ties, with intervals, in both orders, and at equal lengths.

An outcome is 1 where ours is preferred, 0 where theirs is, 0.5 for a tie, and a probability where a judge gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.length_control import length_controlled_by_difference, length_controlled_by_ratio
from tutelage.equations.statistics import Interval, stratified_bootstrap_interval, wilson_interval


@dataclass(frozen=True)
class LengthControl:
    """A win rate with the effect of length taken out, in two ways."""

    by_ratio: float
    """Stiennon et al. 2020, appendix F."""
    by_difference: float
    """AlpacaEval 2."""
    effect: float
    """Log-odds per e-fold of length; above zero, longer answers are preferred."""
    length: float
    """Mean of ours, in tokens."""
    other_length: float


@dataclass(frozen=True)
class WinRate:
    """How often ours is preferred."""

    wins: int
    ties: int
    losses: int
    wilson: Interval
    """A tie is half a win; 95 %."""
    bootstrap: Interval
    """Percentiles over prompts drawn again; 95 %."""
    controlled: LengthControl | None = None
    """None where no lengths were given."""

    @property
    def rate(self) -> float:
        """Ties count half."""
        return self.wilson.estimate

    @property
    def warning(self) -> str:
        """A sentence where length moves the rate by ten points and a quarter of what is left (AlpacaEval 2); empty elsewhere."""
        if self.controlled is None:
            return ""
        moved, left = abs(self.rate - self.controlled.by_difference), min(self.rate, 1.0 - self.rate)
        if moved <= 0.1 or moved <= 0.25 * left:
            return ""
        return f"at equal lengths the win rate is {self.controlled.by_difference:.2f} and not {self.rate:.2f}: length explains the rest"


def outcomes(score: Float[Tensor, "N"], other: Float[Tensor, "N"], band: float = 0.0) -> Float[Tensor, "N"]:
    """Who wins by score; gaps of at most `band` are ties."""
    gap = score - other
    return torch.where(gap.abs() <= band, 0.5, (gap > 0.0).to(gap.dtype))


def win_rate(
    outcome: Float[Tensor, "N"],
    generator: Generator,
    length: Float[Tensor, "N"] | None = None,
    other_length: Float[Tensor, "N"] | None = None,
    resamples: int = 2000,
) -> WinRate:
    """Outcomes of N prompts as one rate. generator: of the bootstrap. length, other_length: tokens of both answers, for length control.

    An outcome above one half is a win, also where it is a probability; the rate is the mean outcome. Raises ValueError for no outcomes.
    """
    if len(outcome) == 0 or not bool(((outcome >= 0.0) & (outcome <= 1.0)).all()):
        raise ValueError(f"{len(outcome)} outcomes were given; at least one, each in [0, 1], was expected")
    controlled = None
    if length is not None and other_length is not None:
        by_ratio, effect = length_controlled_by_ratio(outcome, length, other_length)
        by_difference, _ = length_controlled_by_difference(outcome, length, other_length)
        controlled = LengthControl(by_ratio, by_difference, effect, float(length.mean()), float(other_length.mean()))
    mean = lambda scores: scores.mean((-2, -1))
    return WinRate(
        int((outcome > 0.5).sum()),
        int((outcome == 0.5).sum()),
        int((outcome < 0.5).sum()),
        wilson_interval(float(outcome.double().sum()), len(outcome)),
        stratified_bootstrap_interval(outcome[:, None], mean, generator, resamples, allow_few=True),
        controlled,
    )


@runtime_checkable
class Judge(Protocol):
    """Whoever compares two answers: a reward model, a language model, a person through the rating room."""

    def prefers_first(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Float[Tensor, "N"]:
        """The probability that the answer shown first is preferred."""
        ...


@dataclass(frozen=True)
class Verdicts:
    """What a judge says in both orders."""

    ours_first: Float[Tensor, "N"]
    """Outcomes for ours, where it is shown first."""
    ours_second: Float[Tensor, "N"]

    @property
    def outcome(self) -> Float[Tensor, "N"]:
        """The mean of both orders: what a preference for a position adds in one order it takes in the other."""
        return 0.5 * (self.ours_first + self.ours_second)

    @property
    def position_bias(self) -> float:
        """By how much the answer shown first is preferred to the same answer shown second, in [-1, 1]; 0 without bias."""
        return float((self.ours_first - self.ours_second).mean())

    @property
    def consistent(self) -> float:
        """Share of pairs with the same winner in both orders."""
        return float(((self.ours_first > 0.5) == (self.ours_second > 0.5)).float().mean())


def in_both_orders(judge: Judge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> Verdicts:
    """Ask about every pair twice. Raises ValueError where a judge gives other than one probability for each pair."""
    first, second = judge.prefers_first(prompts, ours, theirs), judge.prefers_first(prompts, theirs, ours)
    for answers in (first, second):
        if answers.shape != (len(prompts),) or not bool(((answers >= 0.0) & (answers <= 1.0)).all()):
            raise ValueError(f"the judge answered {tuple(answers.shape)} for {len(prompts)} pairs; one probability for each was expected")
    return Verdicts(first, 1.0 - second)


def agreement(outcome: Float[Tensor, "N"], other: Float[Tensor, "N"]) -> Interval:
    """Share of pairs on which two judges name the same winner, with its Wilson interval; a tie of one is half an agreement."""
    same = 0.5 * (1.0 + (outcome - 0.5).sign() * (other - 0.5).sign())
    return wilson_interval(float(same.double().sum()), len(outcome))
