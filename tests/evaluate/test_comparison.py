"""Comparisons: seeds are the unit, few seeds get no interval, failures are not left out."""

import pytest

from tutelage.evaluate.comparison import ComparisonError, Result, compare, table


def results(method, scores, task="gym:Pendulum-v1", first=0, steps=7000):
    return [Result(task, method, first + k, steps, score) for k, score in enumerate(scores)]


def test_few_seeds_get_every_run_and_no_interval():
    few = compare(results("pebble-100", [-150.0, -140.0, -160.0, -155.0]) + results("sac", [-151.0, -149.0]))
    assert [row.interquartile_mean for row in few.rows] == [None, None] and few.duels == ()
    assert few.rows[0].median == -152.5
    text = table(few)
    assert "runs -150.0, -140.0, -160.0, -155.0" in text and "IQM" not in text and "beats" not in text


def test_the_interquartile_mean_of_six_seeds_by_hand():
    # sorted -1000, -30, -20, -10, 0, 500: floor(6/4) = 1 is cut on each side, and -60 / 4 = -15 remains
    (row,) = compare(results("pebble", [-10.0, 500.0, -20.0, -1000.0, 0.0, -30.0])).rows
    interval = row.interquartile_mean
    assert interval is not None and interval.estimate == pytest.approx(-15.0)
    assert -1000.0 <= interval.low < -15.0 < interval.high <= 500.0
    assert "IQM -15.0 [" in table(compare(results("pebble", [-10.0, 500.0, -20.0, -1000.0, 0.0, -30.0])))


def test_equal_seeds_are_paired_and_others_are_not():
    good, bad = [5.0, 6.0, 7.0, 8.0, 1.0], [4.0, 5.0, 6.0, 7.0, 2.0]
    paired = compare(results("a", good) + results("b", bad)).duels[0]
    assert paired.paired and paired.probability.estimate == pytest.approx(4 / 5)
    unpaired = compare(results("a", good) + results("b", bad, first=10)).duels[0]
    by_hand = sum(float(x > y) + 0.5 * float(x == y) for x in good for y in bad) / 25
    assert not unpaired.paired and unpaired.probability.estimate == pytest.approx(by_hand)
    assert by_hand != 4 / 5
    assert "a beats b with probability 0.80" in table(compare(results("a", good) + results("b", bad)))


def test_a_failed_run_is_named_and_takes_the_interval_away():
    (row,) = compare(results("pebble", [1.0, 2.0, None, 4.0, 5.0, 6.0])).rows
    assert row.failed == (2,) and row.interquartile_mean is None
    assert "runs 1.0; failed: seeds 1" in table(compare(results("pebble", [1.0, None])))
    assert "none finished" in table(compare(results("pebble", [None])))


def test_adding_a_method_moves_no_other_interval():
    a, b = results("a", [1.0, 2.0, 3.0, 4.0, 9.0]), results("b", [0.0, 1.0, 2.0, 3.0, 4.0])
    assert compare(a).rows[0] == compare(b + a).rows[1]


def test_tasks_are_kept_apart():
    both = compare(results("a", [1.0] * 5, task="x") + results("b", [2.0] * 5, task="y"))
    assert both.duels == () and table(both).splitlines()[0] == "x"


@pytest.mark.parametrize(
    "broken, message",
    [
        (results("a", [1.0, 2.0]) + results("a", [3.0]), "a on gym:Pendulum-v1: a seed appears twice"),
        (results("a", [1.0]) + results("a", [3.0], first=1, steps=8000), r"budgets of \[7000, 8000\] steps differ"),
    ],
)
def test_what_cannot_be_compared_is_refused(broken, message):
    with pytest.raises(ComparisonError, match=message):
        compare(broken)
