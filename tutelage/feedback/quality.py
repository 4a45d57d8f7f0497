"""How far raters can be believed: agreement, consistency, speed, habits, and an estimate of each one's error rate.

All from what the store holds. Answers that were taken back do not count.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tutelage.feedback.query import Judgement
from tutelage.feedback.queue import Queue

DECIDED = ("left", "right")


def krippendorff(units: Iterable[Sequence[str]]) -> float | None:
    """Krippendorff's alpha for nominal answers: 1 for perfect agreement, 0 for what chance would give, negative below.

    alpha = 1 - (n - 1) sum_u [sum_{c<k} n_uc n_uk / (m_u - 1)] / sum_{c<k} n_c n_k,   m_u: answers to unit u, n_uc: those that are c,
    n_c: answers c in all, n: all answers. Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C.
    units: the answers of different raters to one query each; a query with a single answer tells nothing. None: nothing to compare,
    or only one answer was ever given.
    """
    counts = [Counter(unit) for unit in units if len(unit) >= 2]
    total: Counter[str] = sum(counts, Counter())
    n = total.total()
    unlike = lambda count: (count.total() ** 2 - sum(own * own for own in count.values())) / 2.0  # sum over pairs of different answers
    expected = unlike(total)
    if expected == 0.0:
        return None
    return 1.0 - (n - 1) * sum(unlike(count) / (count.total() - 1) for count in counts) / expected


def rater_errors(answers: Mapping[str, Mapping[str, str]], rounds: int = 50) -> dict[str, float]:
    """Each rater's probability of choosing the worse side, estimated without knowing which that is.

    answers: query -> rater -> "left" or "right" (others are ignored). Expectation-maximization for one coin per rater (Dawid &
    Skene 1979, Applied Statistics 28:20, with one error rate instead of a confusion matrix): the probability that left is better
    from the raters' error rates, and these from the expected disagreements with it, each with one error in ten counted
    beforehand, so that a rater with few answers is not called perfect. Raters who share no query with another keep that 0.1.
    """
    decided = {q: {r: a for r, a in own.items() if a in DECIDED} for q, own in answers.items()}
    shared = {q: own for q, own in decided.items() if len(own) >= 2}
    rates = {rater: 0.1 for own in decided.values() for rater in own}
    for _ in range(rounds):
        wrong, given = dict.fromkeys(rates, 1.0), dict.fromkeys(rates, 10.0)
        for own in shared.values():
            odds = sum((1.0 if answer == "left" else -1.0) * math.log((1.0 - rates[rater]) / rates[rater]) for rater, answer in own.items())
            left = 1.0 / (1.0 + math.exp(-max(min(odds, 700.0), -700.0)))
            for rater, answer in own.items():
                given[rater] += 1.0
                wrong[rater] += 1.0 - left if answer == "left" else left
        rates = {rater: min(max(wrong[rater] / given[rater], 1e-3), 0.5) for rater in rates}
    return rates


@dataclass(frozen=True)
class RaterQuality:
    """What one rater's answers show."""

    rater: str
    answers: int
    ties: float
    """Share of answers that are ties."""
    unknown: float
    """Share of answers "can't tell"."""
    median_seconds: float | None
    gold: float | None
    """Share of gold queries answered as the owner knows; None: none met."""
    repeats: float | None
    """Share of repeats answered as the first time."""
    left_side: float | None
    """Share of decided answers for what stood on the left of the screen: 1/2 without a habit."""
    left_side_z: float | None
    """How many standard deviations that is from 1/2; beyond 3 it is no accident."""
    drift: float | None
    """Agreement with the other raters in the later half of the answers minus that in the earlier half."""
    rater_error: float
    """Estimated: see `rater_errors`."""


@dataclass(frozen=True)
class Quality:
    """Of all raters of a group, or of all groups."""

    krippendorff: float | None
    """Krippendorff's alpha."""
    agreement: dict[str, float]
    """Share of common queries answered alike, by "rater, rater"."""
    raters: list[RaterQuality]


def quality(queue: Queue, group: str | None = None) -> Quality:
    """From the store, for one group or all. Raises StoreError when the database fails."""
    return quality_of(queue.store.judgements(group), queue.gold(group), queue.repeats(group))


def quality_of(judgements: Sequence[Judgement], gold: Mapping[str, str], repeats: Mapping[str, str]) -> Quality:
    """judgements: in commit order, superseded ones included; gold: known answers; repeats: the original of each repeat."""
    replaced = {judgement.supersedes for judgement in judgements}
    standing = [judgement for judgement in judgements if judgement.id not in replaced]
    answers: dict[str, dict[str, str]] = {}
    by_rater: dict[str, list[Judgement]] = {}
    for judgement in standing:
        by_rater.setdefault(judgement.rater, []).append(judgement)
        answers.setdefault(judgement.query, {})[judgement.rater] = judgement.answer
    first_time = {query: own for query, own in answers.items() if query not in repeats}
    rates = rater_errors(first_time)
    agreement: dict[str, float] = {}
    for one, other in combinations(sorted(by_rater), 2):
        common = [own[one] == own[other] for own in first_time.values() if one in own and other in own]
        if common:
            agreement[f"{one}, {other}"] = statistics.fmean(common)
    raters = [_rater_quality(rater, by_rater[rater], answers, gold, repeats, rates.get(rater, 0.1)) for rater in sorted(by_rater)]
    return Quality(krippendorff(list(own.values()) for own in first_time.values()), agreement, raters)


def _rater_quality(
    rater: str,
    own: Sequence[Judgement],
    answers: Mapping[str, Mapping[str, str]],
    gold: Mapping[str, str],
    repeats: Mapping[str, str],
    rater_error: float,
) -> RaterQuality:
    n = len(own)
    seconds = [j.answered_at - j.shown_at for j in own if j.answered_at is not None and j.shown_at is not None]
    again = [j.answer == answers[repeats[j.query]][rater] for j in own if j.query in repeats and rater in answers.get(repeats[j.query], {})]
    sides = [(j.answer == "left") == (j.shown_order == (0, 1)) for j in own if j.answer in DECIDED and j.shown_order is not None]
    left = _mean(sides)
    agrees = [
        statistics.fmean(answer == j.answer for other, answer in answers[j.query].items() if other != rater)
        for j in own
        if len(answers[j.query]) > 1
    ]
    half = len(agrees) // 2
    return RaterQuality(
        rater,
        n,
        sum(j.answer == "tie" for j in own) / n,
        sum(j.answer == "unknown" for j in own) / n,
        statistics.median(seconds) if seconds else None,
        _mean([j.answer == gold[j.query] for j in own if j.query in gold]),
        _mean(again),
        left,
        None if left is None else (left - 0.5) * 2.0 * math.sqrt(len(sides)),
        statistics.fmean(agrees[half:]) - statistics.fmean(agrees[:half]) if half else None,
        rater_error,
    )


def _mean(values: Sequence[bool]) -> float | None:
    return statistics.fmean(values) if values else None
