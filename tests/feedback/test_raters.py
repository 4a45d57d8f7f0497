import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tutelage.feedback.query import FeedbackError, Judgement, Query, label_of, new_query
from tutelage.feedback.raters import TEACHERS, OracleRater, StoreRater, Teacher, teacher_answers, teacher_thresholds
from tutelage.feedback.store import Store

NO_THRESHOLDS = (0.0, 0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ask(teacher: Teacher, left: list[float], right: list[float], thresholds: tuple[float, float] = NO_THRESHOLDS) -> str:
    return teacher_answers(teacher, torch.tensor([left]), torch.tensor([right]), thresholds, generator())[0]


def query(left: str, right: str, step: int = 0, group: str = "run") -> Query:
    return new_query("pair", [left, right], group, "uniform", step)


def oracle(
    teacher: Teacher, rewards: dict[str, Tensor], mean_return: Callable[[], float] = lambda: 0.0, episode_length: int = 200
) -> OracleRater:
    return OracleRater(teacher, rewards.__getitem__, generator(), mean_return, episode_length, clock=lambda: 5.0)


class TestTeachers:
    def test_the_six_of_the_paper(self):
        table = {name: (t.beta, t.discount, t.mistake, t.skip, t.equal, t.repository_thresholds) for name, t in TEACHERS.items()}
        assert table == {
            "oracle": (math.inf, 1.0, 0.0, 0.0, 0.0, False),
            "mistake": (math.inf, 1.0, 0.1, 0.0, 0.0, False),
            "stoc": (1.0, 1.0, 0.0, 0.0, 0.0, False),
            "skip": (math.inf, 1.0, 0.0, 0.1, 0.0, False),
            "equal": (math.inf, 1.0, 0.0, 0.0, 0.1, False),
            "myopic": (math.inf, 0.9, 0.0, 0.0, 0.0, False),
            "coin": (0.0, 1.0, 0.0, 0.0, 0.0, False),  # ours: the control, who knows nothing
        }

    @pytest.mark.parametrize("wrong", [dict(mistake=1.5), dict(skip=-0.1), dict(beta=-1.0), dict(beta=math.nan), dict(discount=0.0)])
    def test_an_impossible_teacher_is_refused(self, wrong: dict[str, Any]):
        with pytest.raises(FeedbackError, match=f"{next(iter(wrong))} is "):
            Teacher(**wrong)

    def test_thresholds_shrink_with_the_segment(self):
        # 0.1 of 1000 is earned in 1000 steps; a segment of 50 steps is held to 5.
        assert teacher_thresholds(Teacher(skip=0.1, equal=0.2), 1000.0, 50, 1000, session=0) == pytest.approx((5.0, 10.0))

    def test_repository_thresholds_are_squared_after_the_first_session_and_by_name_only(self):
        paper, code = Teacher(skip=0.1, equal=0.1), Teacher(skip=0.1, equal=0.1, repository_thresholds=True)
        assert teacher_thresholds(paper, 1000.0, 50, 1000, session=3) == pytest.approx((5.0, 5.0))
        assert teacher_thresholds(code, 1000.0, 50, 1000, session=0) == pytest.approx((5.0, 5.0))
        assert teacher_thresholds(code, 1000.0, 50, 1000, session=1) == pytest.approx((0.5, 0.5))
        assert teacher_thresholds(code, 1000.0, 50, 1000, session=2) == pytest.approx((0.5, 0.5))

    def test_skips_only_if_neither_is_good_enough(self):
        teacher = Teacher(skip=0.1)
        assert ask(teacher, [2.0, 2.0], [1.0, 2.0], (5.0, 0.0)) == "unknown"
        assert ask(teacher, [2.0, 4.0], [1.0, 2.0], (5.0, 0.0)) == "left"
        assert ask(teacher, [1.0, 2.0], [2.0, 4.0], (5.0, 0.0)) == "right"

    def test_a_tie_is_a_small_difference(self):
        teacher = Teacher(equal=0.1)
        assert ask(teacher, [1.0, 2.0], [1.0, 2.5], (0.0, 1.0)) == "tie"
        assert ask(teacher, [1.0, 2.0], [1.0, 3.5], (0.0, 1.0)) == "right"

    def test_skipping_comes_before_ties(self):
        assert ask(Teacher(skip=0.1, equal=0.1), [1.0], [1.1], (5.0, 1.0)) == "unknown"

    def test_the_myopic_teacher_looks_at_the_end(self):
        early, late = [10.0, 0.0, 0.0], [0.0, 0.0, 3.0]  # weights .25, .5, 1: 2.5 against 3
        assert ask(Teacher(discount=0.5), early, late) == "right"
        assert ask(Teacher(), early, late) == "left"

    def test_the_last_step_has_weight_one(self):
        left, right = torch.tensor([[5.0, 1.0]]).expand(20_000, 2), torch.tensor([[5.0, 0.0]]).expand(20_000, 2)
        answers = teacher_answers(Teacher(beta=2.0, discount=0.5), left, right, NO_THRESHOLDS, generator())
        assert answers.count("left") / 20_000 == pytest.approx(1 / (1 + math.exp(-2.0)), abs=0.015)  # .73 if it weighed .5

    def test_a_myopic_teacher_skips_and_ties_by_undiscounted_sums(self):
        teacher = Teacher(discount=0.1)
        assert ask(teacher, [10.0, 0.0], [0.0, 1.0], (5.0, 0.0)) == "right"  # discounted, both would be below 5
        assert ask(teacher, [10.0, 0.0], [0.0, 10.0], (0.0, 1.0)) == "tie"  # discounted, they would differ by 9

    def test_mistakes_flip(self):
        assert ask(Teacher(mistake=1.0), [1.0], [0.0]) == "right"
        assert ask(Teacher(mistake=1.0), [0.0], [1.0]) == "left"

    def test_mistakes_touch_neither_ties_nor_skips(self):
        teacher = Teacher(mistake=1.0, skip=0.1, equal=0.1)
        assert ask(teacher, [6.0], [6.5], (5.0, 1.0)) == "tie"
        assert ask(teacher, [1.0], [3.0], (5.0, 1.0)) == "unknown"
        assert ask(teacher, [6.0], [9.0], (5.0, 1.0)) == "left"

    def test_mistakes_are_as_frequent_as_said(self):
        left, right = torch.ones(20_000, 2), torch.zeros(20_000, 2)
        answers = teacher_answers(Teacher(mistake=0.1), left, right, NO_THRESHOLDS, generator())
        assert answers.count("right") / 20_000 == pytest.approx(0.1, abs=0.01)
        assert set(answers) == {"left", "right"}

    def test_the_stochastic_teacher_follows_bradley_terry(self):
        left, right = torch.full((20_000, 4), 0.5), torch.full((20_000, 4), 0.25)
        answers = teacher_answers(Teacher(beta=2.0), left, right, NO_THRESHOLDS, generator())
        assert answers.count("left") / 20_000 == pytest.approx(1 / (1 + math.exp(-2.0)), abs=0.015)

    @pytest.mark.parametrize("beta", [0.0, math.inf])
    def test_a_coin_where_nothing_tells_them_apart(self, beta: float):
        same = torch.zeros(10_000, 3)
        answers = teacher_answers(Teacher(beta=beta), same, same, NO_THRESHOLDS, generator())
        assert answers.count("left") / 10_000 == pytest.approx(0.5, abs=0.025)

    def test_beta_zero_answers_at_random_whatever_the_gap(self):
        answers = teacher_answers(Teacher(beta=0.0), torch.full((10_000, 1), 100.0), torch.zeros(10_000, 1), NO_THRESHOLDS, generator())
        assert answers.count("left") / 10_000 == pytest.approx(0.5, abs=0.025)

    def test_a_negative_mean_return_sets_no_bar(self):
        teacher = Teacher(skip=0.1, equal=0.1)
        thresholds = teacher_thresholds(teacher, -1500.0, 50, 200, session=0)
        assert ask(teacher, [-100.0], [-90.0], thresholds) == "right"

    @pytest.mark.parametrize("name", [*TEACHERS, "all at once"])
    def test_against_a_slow_loop(self, name: str):
        teacher = TEACHERS.get(name, Teacher(beta=0.7, discount=0.9, mistake=0.2, skip=0.1, equal=0.05))
        N, H, T, mean_return = 300, 5, 40, 160.0
        left, right = torch.rand(2, N, H, generator=generator(1), dtype=torch.float64).unbind(0)
        draws = torch.rand(N, 2, generator=generator(2), dtype=torch.float64)
        expected = []
        for n in range(N):
            a, b = left[n].tolist(), right[n].tolist()
            if teacher.skip and max(sum(a), sum(b)) < teacher.skip * mean_return * H / T:
                expected.append("unknown")
            elif abs(sum(a) - sum(b)) < teacher.equal * mean_return * H / T:
                expected.append("tie")
            else:
                gap = sum(teacher.discount ** (H - t) * (a[t - 1] - b[t - 1]) for t in range(1, H + 1))
                p = float(gap > 0) if math.isinf(teacher.beta) else 1 / (1 + math.exp(-teacher.beta * gap))
                first = float(draws[n, 0]) < p
                first = not first if float(draws[n, 1]) < teacher.mistake else first
                expected.append("left" if first else "right")
        thresholds = teacher_thresholds(teacher, mean_return, H, T, session=5)
        assert teacher_answers(teacher, left, right, thresholds, generator(2)) == expected
        assert len(set(expected)) == {"skip": 3, "equal": 3, "all at once": 4}.get(name, 2)


class TestOracleRater:
    rewards: ClassVar = {"good": torch.full((50,), 1.0), "bad": torch.full((50,), 0.1), "better": torch.full((50,), 1.01)}

    def test_answers_once_with_provenance(self):
        rater = oracle(Teacher(), self.rewards)
        q = query("bad", "good")
        assert rater.submit([q]) == [q.id]
        assert rater.poll() == [Judgement(f"oracle:{q.id}", q.id, "oracle", "right", (0, 1), 5.0, 5.0)]
        assert rater.poll() == []

    def test_a_skipped_query_is_still_a_judgement(self):
        # delta = .1 * 1000 * 50/200 = 25; "bad" earns 5, "good" 50.
        rater = oracle(TEACHERS["skip"], self.rewards, lambda: 1000.0)
        rater.submit([query("bad", "bad"), query("bad", "good")])
        judgements = rater.poll()
        assert [j.answer for j in judgements] == ["unknown", "right"]
        assert [label_of(j.answer) for j in judgements] == [None, 0.0]

    def test_the_mean_return_is_asked_anew_in_each_session(self):
        returns = iter([1000.0, 100.0])
        rater = oracle(TEACHERS["skip"], self.rewards, lambda: next(returns))
        for step in range(2):
            rater.submit([query("bad", "bad", step), query("bad", "bad", step + 10)])
        assert [j.answer == "unknown" for j in rater.poll()] == [True, True, False, False]

    def test_a_teacher_without_thresholds_never_asks_for_it(self):
        def refuse() -> float:
            raise AssertionError("asked")

        oracle(TEACHERS["mistake"], self.rewards, refuse).submit([query("bad", "good")])

    def test_the_length_of_the_segment_enters(self):
        # Without H/T the bar would be 100, and everything would be skipped.
        rater = oracle(TEACHERS["skip"], self.rewards, lambda: 1000.0, episode_length=1000)
        rater.submit([query("bad", "good")])
        assert rater.poll()[0].answer == "right"

    def test_the_quirk_begins_with_the_second_session(self):
        rewards = {"a": torch.full((50,), 0.2), "b": torch.full((50,), 0.1)}  # 10 and 5; bars 25, then 2.5
        for quirk, second in [(True, "left"), (False, "unknown")]:
            rater = oracle(Teacher(skip=0.1, repository_thresholds=quirk), rewards, lambda: 1000.0)
            rater.submit([query("a", "b", 0)])
            rater.submit([query("a", "b", 1)])
            assert [j.answer for j in rater.poll()] == ["unknown", second]

    def test_a_resumed_rater_gives_the_same_answers(self):
        teacher = Teacher(beta=0.05, mistake=0.2, skip=0.1, repository_thresholds=True)
        first = oracle(teacher, self.rewards, lambda: 100.0)
        first.submit([query("bad", "good", step) for step in range(20)])
        state = first.state()
        json.dumps({name: value for name, value in state.items() if name != "generator"})
        second = oracle(teacher, self.rewards, lambda: 100.0)
        second.generator.manual_seed(99)
        second.load(state)
        for rater in (first, second):
            rater.submit([query("bad", "better", step) for step in range(40)])
        answers = first.poll()
        assert len(answers) == 60 and answers == second.poll()
        assert first.sessions == second.sessions == 2

    def test_segments_of_different_length_are_refused(self):
        rater = oracle(Teacher(), {**self.rewards, "short": torch.ones(49)})
        with pytest.raises(FeedbackError, match=r"segment short has rewards of shape \(49,\); \(50,\) was expected"):
            rater.submit([query("good", "short")])
        assert rater.poll() == [] and rater.sessions == 0

    def test_nan_is_refused(self):
        rater = oracle(TEACHERS["skip"], {**self.rewards, "broken": torch.full((50,), math.nan)}, lambda: math.nan)
        with pytest.raises(FeedbackError, match="segment broken has a reward that is NaN"):
            rater.submit([query("good", "broken")])
        with pytest.raises(FeedbackError, match="the mean return of training is nan"):
            rater.submit([query("good", "bad")])

    def test_an_empty_session_is_no_session(self):
        rater = oracle(Teacher(), self.rewards)
        assert rater.submit([]) == [] and rater.sessions == 0


class TestStoreRater:
    @pytest.fixture
    def store(self, sqlite_url: str):
        with Store(sqlite_url) as store:
            yield store

    def test_answers_from_elsewhere_arrive_once(self, store: Store, sqlite_url: str):
        rater = StoreRater(store, "run")
        first, second = query("a", "b"), query("c", "d")
        assert rater.submit([first, second]) == [first.id, second.id]
        assert rater.poll() == []
        with Store(sqlite_url) as elsewhere:
            elsewhere.add([Judgement("1", first.id, "ann", "left")])
        assert [j.id for j in rater.poll()] == ["1"]
        assert rater.poll() == []
        store.add([Judgement("2", first.id, "bob", "right"), Judgement("3", second.id, "ann", "tie")])
        assert [j.id for j in rater.poll()] == ["2", "3"]

    def test_submitting_again_asks_nothing_new(self, store: Store):
        rater = StoreRater(store, "run")
        rater.submit([query("a", "b")])
        rater.submit([query("a", "b")])
        assert len(store.queries()) == 1

    def test_only_the_own_group_is_heard(self, store: Store):
        rater, other = StoreRater(store, "run"), StoreRater(store, "other")
        mine, theirs = query("a", "b"), query("a", "b", group="other")
        rater.submit([mine])
        other.submit([theirs])
        store.add([Judgement("1", theirs.id, "ann", "left"), Judgement("2", mine.id, "ann", "left")])
        assert [j.id for j in rater.poll()] == ["2"]
        with pytest.raises(FeedbackError, match='belongs to group "other"; this rater hears group "run"'):
            rater.submit([theirs])

    def test_an_undo_before_the_poll_hides_the_first_answer(self, store: Store):
        rater, q = StoreRater(store, "run"), query("a", "b")
        rater.submit([q])
        store.add([Judgement("1", q.id, "ann", "left"), Judgement("2", q.id, "ann", "right", supersedes="1")])
        assert rater.poll() == [Judgement("2", q.id, "ann", "right")]
        assert [j.id for j in store.judgements()] == ["1", "2"]  # nothing is erased

    def test_an_undo_after_the_poll_names_what_it_replaces(self, store: Store):
        rater, q = StoreRater(store, "run"), query("a", "b")
        rater.submit([q])
        labels: dict[str, Judgement] = {}
        for answers in [[("1", "left", None)], [("2", "tie", "1"), ("3", "unknown", "2")], [("4", "right", "3")]]:
            store.add([Judgement(i, q.id, "ann", answer, supersedes=earlier) for i, answer, earlier in answers])
            for judgement in rater.poll():
                labels.pop(judgement.supersedes or "", None)
                labels[judgement.id] = judgement
            assert len(labels) == 1  # "3" replaces "1", although "2" was never seen
        assert labels["4"].answer == "right"

    def test_a_resumed_run_hears_the_same_although_more_has_arrived(self, store: Store):
        rater, q = StoreRater(store, "run"), query("a", "b")
        rater.submit([q])
        saved = rater.state()
        store.add([Judgement("1", q.id, "ann", "left")])
        heard = rater.poll()
        logged = rater.cursor
        store.add([Judgement("2", q.id, "ann", "right", supersedes="1"), Judgement("3", q.id, "bob", "left")])
        resumed = StoreRater(store, "run")
        resumed.load(json.loads(json.dumps(saved)))
        assert resumed.poll(until=logged) == heard == [Judgement("1", q.id, "ann", "left")]
        assert [j.id for j in resumed.poll()] == ["2", "3"]

    def test_a_foreign_store_is_noticed(self, store: Store):
        rater = StoreRater(store, "run")
        rater.load({"cursor": 12})
        with pytest.raises(FeedbackError, match="those up to 12 are known, and the store ends at 0"):
            rater.poll()
        rater.load({"cursor": 0})
        with pytest.raises(FeedbackError, match="labels up to commit 5 were asked for"):
            rater.poll(until=5)


def test_teachers_and_samplers_need_no_database():
    code = "import sys, tutelage.feedback.raters, tutelage.feedback.samplers; print({'sqlalchemy', 'alembic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
