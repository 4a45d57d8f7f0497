"""The queue on SQLite and PostgreSQL: who is asked what, and that nobody is asked twice in vain."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event

from tutelage.feedback.query import FeedbackError, Judgement, Query, TextRecord, text_hash
from tutelage.feedback.queue import LEASE_SECONDS, MOST_LEASES, Project, Queue, QueueFull, changed, shown_order
from tutelage.feedback.raters import StoreRater
from tutelage.feedback.store import REPEAT, Store, StoreError


class Clock:
    """Time that stands until somebody moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def query(number: int, group: str = "run", step: int = 100) -> Query:
    return Query(f"q{number}", "pair", (f"a{number}", f"b{number}"), group, "uniform", step)


def judgement(query: str, rater: str = "ann", answer: str = "left", supersedes: str | None = None) -> Judgement:
    return Judgement(f"{query}-{rater}-{answer}", query, rater, answer, (0, 1), 1.0, 2.0, supersedes)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as store:
        yield store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(store: Store, clock: Clock) -> Queue:
    return Queue(store, clock)


def plain(queue: Queue, **settings: object) -> None:
    """Neither repeats nor gold: what is given is what waits."""
    queue.set_project(changed(Project("run"), {"repeats": 0.0, "gold": 0.0} | settings))


def names(queue: Queue, rater: str, count: int = 1, **more: object) -> list[str]:
    return [lease.query.id for lease in queue.lease(rater, count, **more)]  # type: ignore[arg-type]


class TestLeases:
    def test_the_newest_session_comes_first_in_the_samplers_order(self, queue: Queue):
        queue.submit([query(1), query(2)])
        queue.submit([query(4, step=200), query(3, step=200)])
        assert names(queue, "ann", 4) == ["q4", "q3", "q1", "q2"]

    def test_a_query_is_with_one_rater_until_the_lease_ends(self, queue: Queue, clock: Clock):
        queue.submit([query(1)])
        assert names(queue, "ann") == ["q1"]
        assert names(queue, "bob") == []
        clock.now += LEASE_SECONDS - 1
        assert names(queue, "bob") == []
        clock.now += 1
        assert names(queue, "bob") == ["q1"]
        assert names(queue, "ann") == []

    def test_a_page_that_is_opened_again_gets_its_own_queries_and_what_it_holds_is_renewed(self, queue: Queue, clock: Clock):
        queue.submit([query(number) for number in range(4)])
        first = names(queue, "ann", 2)
        assert names(queue, "ann", 2) == first
        clock.now += LEASE_SECONDS - 1
        assert names(queue, "ann", 2, holding=first) == ["q2", "q3"]
        clock.now += LEASE_SECONDS - 1
        assert names(queue, "bob", 4) == []

    def test_nobody_hoards(self, queue: Queue):
        queue.submit([query(number) for number in range(2 * MOST_LEASES)])
        assert len(names(queue, "ann", 2 * MOST_LEASES)) == MOST_LEASES

    def test_two_raters_at_once_never_get_the_same(self, url: str):
        with Store(url) as store:
            Queue(store).submit([query(number) for number in range(40)])

        def take(rater: str) -> list[str]:
            with Store(url) as store:
                return [name for _ in range(5) for name in names(Queue(store), rater, 2, holding=[])]

        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(take, ["ann", "bob", "cyd", "dan"]))
        assert max(Counter(name for own in taken for name in set(own)).values()) == 1

    def test_only_of_one_group(self, queue: Queue):
        queue.submit([query(1), query(2, group="other")])
        assert names(queue, "ann", 5, groups=["other"]) == ["q2"]


class TestAnswers:
    def test_an_answer_is_committed_once_and_ends_the_lease(self, queue: Queue, store: Store):
        queue.submit([query(1)])
        queue.lease("ann")
        assert queue.answer(judgement("q1")) is True
        assert queue.answer(judgement("q1")) is False
        assert store.judgements() == [judgement("q1")]
        assert names(queue, "bob", 3) == names(queue, "ann", 3) == []

    def test_a_query_waits_for_as_many_raters_as_it_needs(self, queue: Queue):
        plain(queue, raters=2)
        queue.submit([query(1)])
        assert names(queue, "ann") == names(queue, "bob") == ["q1"] and names(queue, "cyd") == []
        queue.answer(judgement("q1", "ann"))
        assert names(queue, "ann") == [] and names(queue, "cyd") == []
        queue.answer(judgement("q1", "bob"))
        assert queue.progress("run").waiting == 0

    def test_more_raters_can_be_asked_for_later(self, queue: Queue):
        plain(queue)
        queue.submit([query(1)])
        queue.answer(judgement("q1", "ann"))
        plain(queue, raters=2)
        assert names(queue, "ann") == [] and names(queue, "bob") == ["q1"]

    def test_an_answer_after_its_lease_counts(self, queue: Queue, clock: Clock, store: Store):
        queue.submit([query(1)])
        queue.lease("ann")
        clock.now += 2 * LEASE_SECONDS
        queue.lease("bob")
        assert queue.answer(judgement("q1", "ann")) and queue.answer(judgement("q1", "bob"))
        assert len(store.judgements()) == 2

    def test_what_many_threads_bring_is_committed_together_and_each_hears_its_own(self, url: str):
        with Store(url) as store:
            queue = Queue(store)
            queue.set_project(Project("run", raters=10))
            queue.submit([query(number) for number in range(10)])
            commits = 0

            def count(*_: object) -> None:
                nonlocal commits
                commits += 1

            event.listen(store.engine, "commit", count)

            def give(rater: int) -> list[object]:
                good = [judgement(f"q{number}", f"rater-{rater}") for number in range(10)]
                told = queue.answer_all([*good, judgement("absent", f"rater-{rater}"), good[0]])
                return [str(outcome) for outcome in told]

            with ThreadPoolExecutor(10) as pool:
                told = list(pool.map(give, range(10)))
            assert len(store.judgements()) == 100 and queue.progress("run").waiting == 0
        for rater, own in enumerate(told):
            assert own[:10] == ["True"] * 10 and own[11] == "False"
            assert own[10] == f'judgement "absent-rater-{rater}-left" answers query "absent", which the store does not hold'
        assert commits <= 12

    def test_an_undo_does_not_ask_again(self, queue: Queue):
        queue.submit([query(1)])
        queue.answer(judgement("q1"))
        queue.answer(judgement("q1", answer="unknown", supersedes="q1-ann-left"))
        assert names(queue, "ann") == names(queue, "bob") == []


class TestOwner:
    def test_a_paused_project_rests(self, queue: Queue):
        queue.submit([query(1), query(2, group="other")])
        queue.set_project(Project("run", paused=True))
        assert names(queue, "ann", 5) == ["q2"]
        queue.set_project(Project("run"))
        assert names(queue, "bob", 5) == ["q1"]

    def test_a_quota_ends_a_raters_day(self, queue: Queue):
        plain(queue, quota=2)
        queue.submit([query(number) for number in range(4)])
        first, second = names(queue, "ann", 4)
        queue.answer(judgement(first))
        queue.answer(judgement(second))
        assert names(queue, "ann") == []
        assert len(names(queue, "bob", 4)) == 2

    def test_too_many_waiting_queries_refuse_more(self, queue: Queue):
        queue.set_project(Project("run", limit=2))
        queue.submit([query(1), query(2)])
        with pytest.raises(QueueFull, match='2 queries of "run" wait for an answer and 2 may'):
            queue.submit([query(3)])
        queue.answer(judgement("q1"))
        queue.submit([query(3)])

    def test_what_is_withdrawn_is_asked_no_more(self, queue: Queue):
        queue.submit([query(1, step=100), query(2, step=200), query(3, step=200)])
        queue.lease("ann", 1)
        assert queue.withdraw("run", before_step=200) == 1
        assert queue.withdraw("run") == 2
        assert names(queue, "ann", 3) == []
        progress = queue.progress("run")
        assert (progress.asked, progress.answered, progress.waiting, progress.withdrawn) == (3, 0, 0, 3)
        assert queue.answer(judgement("q1"))  # it was on its way

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"raters": 0}, "raters is 0; 1 to 100"),
            ({"repeats": 0.6}, "repeats is 0.6; a share from 0 to 0.5"),
            ({"quota": 0}, "quota is 0"),
            ({"limit": 0}, "limit is 0"),
            ({"title": "x" * 201}, "a title of at most 200"),
            ({"rater": 3}, 'a project has no setting "rater"; it has title'),
        ],
    )
    def test_senseless_settings_are_refused(self, settings: dict[str, object], sentence: str):
        with pytest.raises(FeedbackError, match=sentence):
            changed(Project("run"), settings)


class TestConsistency:
    def test_a_tenth_asks_again_and_no_lesson_hears_of_it(self, queue: Queue, store: Store):
        queue.set_project(Project("run", repeats=0.1, gold=0.0))
        queue.submit([query(number) for number in range(300)])
        asked: list[Query] = []
        while leases := queue.lease("ann"):
            asked.append(leases[0].query)
            queue.answer(Judgement(f"j{len(asked)}", leases[0].query.id, "ann", "left"))
        repeats, originals = queue.repeats("run"), {lease.id: position for position, lease in enumerate(asked)}
        assert 20 <= len(repeats) <= 45
        assert len(asked) == 300 + len(repeats) and len(set(repeats.values())) == len(repeats)
        assert all(originals[repeat] - originals[original] > 10 for repeat, original in repeats.items())
        assert {lease.sampler for lease in asked if lease.id in repeats} == {REPEAT}
        assert queue.progress("run").asked == 300
        assert names(queue, "bob") == []

    def test_a_repeat_is_for_nobody_else(self, queue: Queue):
        queue.set_project(Project("run", repeats=0.5, gold=0.0))
        queue.submit([query(number) for number in range(60)])
        while not queue.repeats():
            (lease,) = queue.lease("ann")
            queue.answer(judgement(lease.query.id)) if lease.query.sampler != REPEAT else None
        (repeat,) = queue.repeats()
        assert repeat not in names(queue, "bob", 30)
        with pytest.raises(StoreError, match='asks another rater again; it is not for "bob"'):
            queue.answer(judgement(repeat, "bob"))

    def test_every_rater_meets_gold(self, queue: Queue):
        queue.set_project(Project("run", repeats=0.0, gold=0.5))
        queue.submit([query(number) for number in range(40)])
        queue.set_gold("q0", "left")
        queue.set_gold("q1", "tie")
        assert queue.gold("run") == {"q0": "left", "q1": "tie"} and queue.gold("other") == {}
        for rater in ("ann", "bob"):
            assert {"q0", "q1"} <= set(names(queue, rater, 19))
        with pytest.raises(FeedbackError, match='answer "lef" is none of'):
            queue.set_gold("q2", "lef")
        with pytest.raises(StoreError, match='query "absent" is not in the store'):
            queue.set_gold("absent", "left")


def test_sides_are_even_and_the_same_after_a_crash():
    orders = [shown_order(query(number), "ann") for number in range(2000)]
    assert orders == [shown_order(query(number), "ann") for number in range(2000)]
    assert 900 < sum(order == (0, 1) for order in orders) < 1100
    ranks = Counter(shown_order(Query(f"r{n}", "rank", tuple("abcd"), "run", "uniform", 0), "ann") for n in range(2400))
    assert len(ranks) == 24 and min(ranks.values()) > 60


def test_a_deleted_rater_is_gone_from_everything(queue: Queue, store: Store, url: str):
    plain(queue)
    queue.submit([query(1), query(2)])
    lesson = StoreRater(store, "run")
    queue.answer(judgement("q1", "ann"))
    queue.answer(judgement("q2", "bob"))
    assert [j.id for j in lesson.poll()] == ["q1-ann-left", "q2-bob-left"]
    assert store.erase("ann", at=5.0) == 1 and store.erase("ann", at=6.0) == 0
    assert [j.rater for j in store.judgements()] == ["bob"]
    (taken_back,) = lesson.poll()
    assert (taken_back.query, taken_back.answer, taken_back.supersedes) == ("q1", "unknown", "q1-ann-left")
    assert lesson.poll() == []
    with pytest.raises(StoreError, match="was deleted, at the wish of its rater or with its project"):
        store.add([judgement("q1", "ann")])
    assert names(queue, "cyd", 5) == ["q1"]
    if url.startswith("sqlite") and store.url.database is not None:
        file = Path(store.url.database).read_bytes()
        assert b"q1-ann-left" in file and b"annleft" not in file, "the erasure is there, the answer has left the disk"


def test_a_deleted_project_is_gone_but_for_the_numbers_of_its_queries(queue: Queue, store: Store, url: str):
    plain(queue, title="Hopping")
    shared, own = TextRecord(text_hash("both ask about it"), "both ask about it"), TextRecord(text_hash("only we do"), "only we do")
    store.add([shared, own])
    texts = [Query("t1", "pair", (shared.id, own.id), "run", "uniform", 1, "a prompt"), query(1), query(2)]
    queue.submit([*texts, Query("t2", "rate", (shared.id,), "other", "uniform", 1, "theirs")])
    queue.set_gold("q2", "left")
    lesson = StoreRater(store, "run")
    queue.answer(judgement("t1", "ann"))
    queue.answer(judgement("q1", "bob"))
    assert len(lesson.poll()) == 2 and not queue.progress("run").over

    assert queue.delete("run") == 2 and queue.delete("run") == 0
    assert store.judgements() == [] and queue.gold() == {} and queue.project("run") == Project("run")
    assert sorted((j.query, j.answer) for j in lesson.poll()) == [("q1", "unknown"), ("t1", "unknown")]
    assert queue.progress("run").over and names(queue, "cyd", 5) == ["t2"]
    assert [text.text for text in store.texts([shared.id, own.id])] == ["both ask about it"]
    assert {q.id: q.prompt for q in store.queries()} == {"t1": None, "q1": None, "q2": None, "t2": "theirs"}
    with pytest.raises(StoreError, match="was deleted"):
        store.add([judgement("q1", "bob")])
    queue.submit([query(3)])  # a run that goes on asks again
    assert not queue.progress("run").over and names(queue, "cyd", 5) == ["t2", "q3"]
    if url.startswith("sqlite") and store.url.database is not None:
        assert b"only we do" not in Path(store.url.database).read_bytes(), "the text has left the disk"
