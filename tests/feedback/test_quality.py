"""Agreement: constants by hand, the definition as a loop over pairs, and habits that were put there."""

import random
from itertools import permutations

import pytest

from tutelage.feedback.quality import krippendorff, quality_of, rater_errors
from tutelage.feedback.query import Judgement


def slow_alpha(units: list[list[str]]) -> float:
    """1 - observed / expected disagreement, summed over every ordered pair of answers one by one."""
    pairable = [unit for unit in units if len(unit) > 1]
    answers = [answer for unit in pairable for answer in unit]
    n = len(answers)
    observed = sum((a != b) / (len(unit) - 1) for unit in pairable for a, b in permutations(unit, 2)) / n
    expected = sum(a != b for a, b in permutations(answers, 2)) / (n * (n - 1))
    return 1.0 - observed / expected


class TestAlpha:
    def test_by_hand(self):
        # n = 4: l l r r within (l l), (l r) plus ... (l, l): 0 unlike pairs; (l, r): 1. n_l = 3, n_r = 1, n = 4: 3 unlike pairs in all.
        # alpha = 1 - (4 - 1) (0 + 1) / 3 = 0
        assert krippendorff([["l", "l"], ["l", "r"]]) == pytest.approx(0.0)
        # three units: (l l), (r r), (l r): n = 6, n_l = n_r = 3, unlike 9; alpha = 1 - 5 * 1 / 9
        assert krippendorff([["l", "l"], ["r", "r"], ["l", "r"]]) == pytest.approx(4 / 9)

    def test_the_example_of_its_inventor(self):
        """Krippendorff 2011, section C: four observers, twelve units, missing values; nominal alpha is 0.743."""
        rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
        units = [[value for value in column if value != "."] for column in zip(*(row.split() for row in rows), strict=True)]
        assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)

    @pytest.mark.parametrize("seed", range(5))
    def test_against_every_pair(self, seed: int):
        chance = random.Random(seed)
        units = [[chance.choice("lrt") for _ in range(chance.randrange(1, 5))] for _ in range(30)]
        assert krippendorff(units) == pytest.approx(slow_alpha(units), abs=1e-12)

    def test_perfect_agreement_is_one_and_single_answers_tell_nothing(self):
        assert krippendorff([["l", "l"], ["r", "r", "r"]]) == 1.0
        assert krippendorff([["l", "l"], ["r", "r", "r"], ["l"], []]) == 1.0
        assert krippendorff([["l"], ["r"]]) is None
        assert krippendorff([["l", "l"], ["l", "l"]]) is None


def test_rater_errors_are_found_without_the_truth():
    chance = random.Random(1)
    true = {"ann": 0.05, "bob": 0.1, "cyd": 0.3}
    answers: dict[str, dict[str, str]] = {}
    for number in range(2000):
        better, worse = chance.sample(["left", "right"], 2)
        answers[str(number)] = {rater: worse if chance.random() < rate else better for rater, rate in true.items()}
    assert rater_errors(answers) == pytest.approx(true, abs=0.03)
    assert rater_errors({"q": {"ann": "left"}, "r": {"bob": "tie"}}) == {"ann": 0.1}


def judgement(
    number: int, rater: str, answer: str, order: tuple[int, int] = (0, 1), query: str | None = None, supersedes: str | None = None
) -> Judgement:
    return Judgement(f"{rater}-{number}", query or f"q{number}", rater, answer, order, 10.0 * number, 10.0 * number + 4.0, supersedes)


def test_habits_show():
    rows = [judgement(n, "ann", "left" if n % 2 else "right", (0, 1) if n % 2 else (1, 0)) for n in range(100)]  # always the left side
    rows += [judgement(n, "bob", "left" if n % 2 else "right", (0, 1) if n % 4 < 2 else (1, 0)) for n in range(100)]  # agrees with ann
    rows += [judgement(n, "cyd", "tie" if n < 25 else "left" if n % 2 else "right") for n in range(100)]
    rows += [judgement(900, "ann", "left", query="again"), judgement(901, "ann", "left", query="again too")]
    rows += [judgement(950, "bob", "left"), judgement(951, "bob", "unknown", query="q950", supersedes="bob-950")]
    found = quality_of(rows, gold={"q0": "right", "q1": "right"}, repeats={"again": "q1", "again too": "q0"})
    ann, bob, cyd = found.raters
    assert (ann.left_side, ann.left_side_z) == (pytest.approx(1.0), pytest.approx(102**0.5))
    assert bob.left_side_z is not None and abs(bob.left_side_z) < 1 and bob.answers == 101 and bob.unknown == pytest.approx(1 / 101)
    assert ann.gold == 0.5 and ann.repeats == 0.5 and ann.median_seconds == 4.0
    assert found.agreement == {"ann, bob": 1.0, "ann, cyd": 0.75, "bob, cyd": 0.75}
    assert cyd.ties == 0.25 and cyd.drift == pytest.approx(0.5)  # the later half agrees throughout, the earlier one in 25 of 50
    assert cyd.rater_error < 0.1 and found.krippendorff is not None and 0.6 < found.krippendorff < 1.0
