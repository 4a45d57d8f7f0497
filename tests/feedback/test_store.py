import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import event

from tutelage.feedback.query import Judgement, Query, SegmentRecord
from tutelage.feedback.queue import Queue
from tutelage.feedback.store import VERSION_TABLE, Store, StoreError
from tutelage.feedback.tables import METADATA


def query(id: str, group: str = "run") -> Query:
    return Query(id, "pair", (f"{id}-left", f"{id}-right"), group, "uniform", 100)


def judgement(id: str, query: str = "q", answer: str = "left", rater: str = "ann", supersedes: str | None = None) -> Judgement:
    return Judgement(id, query, rater, answer, (1, 0), 1700000000.125, 1700000003.5, supersedes)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as store:
        yield store


def test_what_was_added_is_there_for_others_and_later(url: str):
    segment = SegmentRecord("q-left", "segments/q-left.safetensors", "gym:Pendulum-v1", 50)
    rows = [segment, query("q"), judgement("1"), Judgement("2", "q", "bob", "tie")]
    with Store(url) as store, Store(url) as other:
        assert store.add(rows) == 4
        assert other.queries() == [rows[1]]
    with Store(url, create=False) as store:
        assert store.judgements() == rows[2:]
        assert store.segments(["q-left", "absent"]) == [segment]


def test_adding_again_adds_nothing(store: Store):
    rows = [query("q"), judgement("1"), SegmentRecord("s", "here", "gym:Pendulum-v1", 50)]
    assert store.add(rows) == 3
    head = store.head()
    assert store.add(rows) == 0
    assert store.add([query("q"), query("r"), query("r")]) == 1
    assert store.head() == head + 1
    assert (len(store.queries()), len(store.judgements())) == (2, 1)


def test_an_id_names_one_content_for_ever(store: Store):
    store.add([query("q"), judgement("1"), SegmentRecord("s", "here", "gym:Pendulum-v1", 50)])
    with pytest.raises(StoreError, match="Judgement \"1\" is in the store with answer 'left', not 'right'"):
        store.add([judgement("1", answer="right")])
    with pytest.raises(StoreError, match="Query \"q\" is in the store with group 'run', not 'other'"):
        store.add([query("q", group="other")])
    with pytest.raises(StoreError, match='SegmentRecord "s" is in the store with length 50, not 49'):
        store.add([SegmentRecord("s", "here", "gym:Pendulum-v1", 49)])
    with pytest.raises(StoreError, match="Judgement \"2\" is in the store with rater 'ann', not 'bob'"):
        store.add([judgement("2"), judgement("2", rater="bob")])  # also within one call
    assert store.judgements() == [judgement("1")]


def test_a_segment_may_lie_in_several_places(store: Store):
    places = [SegmentRecord("s", place, "gym:Pendulum-v1", 50) for place in ("z", "a")]
    assert store.add(places) == 2
    assert store.segments(["s"]) == places


def test_all_or_none(store: Store):
    with pytest.raises(StoreError, match='answers query "absent", which the store does not hold'):
        store.add([query("q"), judgement("1", query="absent")])
    assert store.queries() == [] and store.head() == 0


def test_the_valid_ones_on_request(store: Store):
    store.add([query("q")])
    outcomes = store.add_valid([query("r"), judgement("1", answer="lef"), query("q"), judgement("2"), judgement("2", answer="tie")])
    assert outcomes[0] is True and outcomes[2] is False and outcomes[3] is True
    assert str(outcomes[1]) == 'answer "lef" is none of left, right, tie, unknown'
    assert isinstance(outcomes[4], StoreError)
    assert [j.id for j in store.judgements()] == ["2"]


class TestSuperseding:
    def test_is_another_row(self, store: Store):
        store.add([query("q"), judgement("1"), judgement("2", answer="tie", supersedes="1")])
        store.add([judgement("3", answer="unknown", supersedes="2")])
        assert [j.answer for j in store.judgements()] == ["left", "tie", "unknown"]

    def test_needs_an_earlier_judgement_of_the_same_rater_about_the_same_query(self, store: Store):
        store.add([query("q"), query("r"), judgement("1")])
        with pytest.raises(StoreError, match='"2" supersedes "0", which the store does not hold'):
            store.add([judgement("2", supersedes="0")])
        with pytest.raises(StoreError, match="about another query or by another rater"):
            store.add([judgement("2", rater="bob", supersedes="1")])
        with pytest.raises(StoreError, match="about another query or by another rater"):
            store.add([judgement("2", query="r", supersedes="1")])

    def test_happens_once(self, store: Store):
        store.add([query("q"), judgement("1"), judgement("2", supersedes="1")])
        with pytest.raises(StoreError, match='"3" supersedes "1", which is superseded by "2" already'):
            store.add([judgement("3", supersedes="1")])
        with pytest.raises(StoreError, match='superseded by "3" already'):
            store.add([judgement("3", supersedes="2"), judgement("4", supersedes="2")])
        assert store.add([judgement("2", supersedes="1")]) == 0  # sent again


def test_reading_by_group_and_number(store: Store):
    store.add([query("q"), query("o", group="other")])
    store.add([judgement("1"), judgement("2", query="o"), judgement("3")])
    assert store.head() == 5
    assert [j.id for j in store.judgements("run")] == ["1", "3"]
    assert [j.id for j in store.judgements(after=3)] == ["2", "3"]
    assert [j.id for j in store.judgements("run", after=2, until=4)] == ["1"]
    assert [q.id for q in store.queries("other")] == ["o"]
    assert [q.id for q in store.queries(until=1)] == ["q"]


def test_more_rows_than_one_select_takes(store: Store):
    rows = [query(f"q{n}") for n in range(1203)]
    assert store.add(rows) == 1203
    assert store.add(rows) == 0
    assert store.queries() == rows
    assert len(store.segments([f"absent{n}" for n in range(1203)])) == 0


def test_a_reader_never_passes_a_number_that_is_still_to_come(url: str):
    """A first writer is held just before its commit while a second one comes; no reader may see the second and miss the first.

    With a sequence the second takes number 2 and commits; a reader moves its cursor to 2; then number 1 appears behind it.
    """
    with Store(url) as first, Store(url) as second, Store(url) as reader:
        reader.add([query("q")])
        seen: list[str] = []
        cursor = reader.head()

        def read() -> None:
            nonlocal cursor
            head = reader.head()
            seen.extend(j.id for j in reader.judgements(after=cursor, until=head))
            cursor = head

        at_commit, let_go = threading.Event(), threading.Event()

        def hold(_connection: sa.Connection) -> None:
            at_commit.set()
            assert let_go.wait(20.0)

        event.listen(first.engine, "commit", hold)
        with ThreadPoolExecutor(2) as threads:
            try:
                slow = threads.submit(first.add, [judgement("early")])
                assert at_commit.wait(20.0)
                fast = threads.submit(second.add, [judgement("late")])
                for _ in range(20):
                    read()
                    threading.Event().wait(0.01)
            finally:
                let_go.set()
            assert (slow.result(20.0), fast.result(20.0)) == (1, 1)
        read()
        assert sorted(seen) == ["early", "late"]
        assert [j.id for j in reader.judgements()] == seen


def test_a_reader_misses_nothing_of_many_writers(url: str):
    writers, each = 6, 15
    with Store(url) as reader:
        reader.add([query("q")])
        seen: list[str] = []
        cursor = 0
        done = threading.Event()

        def write(writer: int) -> None:
            with Store(url) as store:
                for n in range(each):
                    store.add([judgement(f"{writer}-{n}")])

        with ThreadPoolExecutor(writers) as threads:
            leases = [threads.submit(write, writer) for writer in range(writers)]
            while not done.is_set():
                if all(lease.done() for lease in leases):
                    done.set()
                head = reader.head()
                seen += [j.id for j in reader.judgements(after=cursor, until=head)]
                cursor = head
            for lease in leases:
                lease.result()
        assert len(seen) == writers * each == len(set(seen))
        assert cursor == 1 + writers * each


def test_the_same_judgement_from_many_senders_is_one_row(url: str):
    with Store(url) as store:
        store.add([query("q")])
        with ThreadPoolExecutor(4) as threads:
            new = list(threads.map(lambda _: sum(store.add([judgement(str(n))]) for n in range(10)), range(4)))
        assert sum(new) == 10
        assert len(store.judgements()) == 10


def test_many_may_open_a_new_store_at_once(url: str):
    def start(n: int) -> None:
        with Store(url) as store:
            store.add([query(str(n))])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(start, range(6)))
    with Store(url) as store:
        assert len(store.queries()) == 6


def test_processes_may_open_a_new_store_at_once(sqlite_url: str):
    code = (
        "import sys; from tutelage.feedback.query import Query; from tutelage.feedback.store import Store\n"
        "Store(sys.argv[1]).add([Query(sys.argv[2], 'pair', ('a', 'b'), 'run', 'uniform', 0)])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, sqlite_url, str(n)], stderr=subprocess.PIPE) for n in range(3)]
    for process in processes:
        assert process.wait(60) == 0, process.communicate()[1].decode()
    with Store(sqlite_url) as store:
        assert len(store.queries()) == 3


def test_migrations_make_the_tables_that_the_code_uses(store: Store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []


def test_a_store_of_the_first_version_grows(url: str):
    """As an earlier tutelage left it: what it held is there, and what nobody has answered yet waits."""
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", "tutelage.feedback:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        row = "(:id, 'pair', '[\"a\", \"b\"]', 'run', 'uniform', 7, :n)"
        for number, name in enumerate(("answered", "open"), start=1):
            into = 'INSERT INTO queries (id, kind, items, "group", sampler, policy_step, commit_number) VALUES '
            connection.execute(sa.text(into + row), {"id": name, "n": number})
        into = "INSERT INTO judgements (id, query, rater, answer, commit_number) VALUES ('1', 'answered', 'ann', 'left', 3)"
        connection.execute(sa.text(into))
        connection.execute(sa.text("UPDATE commits SET number = 3"))
    engine.dispose()
    with Store(url, create=False) as store:
        assert store.judgements() == [Judgement("1", "answered", "ann", "left")]
        assert [lease.query.id for lease in Queue(store).lease("bob", 5)] == ["open"]


def test_a_newer_store_is_refused_untouched(url: str):
    with Store(url) as store, store.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match="is of version 9999, written by a newer tutelage; this one reads up to version 0002"):
        Store(url)


def test_a_database_that_is_no_store_is_refused_on_request(postgresql_url: str):
    with pytest.raises(StoreError, match="holds no store"):
        Store(postgresql_url, create=False)


def test_an_interrupted_migration_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch):
    from alembic import op

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(op, "bulk_insert", fail)
        with pytest.raises(KeyboardInterrupt):
            Store(url)
    engine = sa.create_engine(url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    with Store(url) as store:
        assert store.head() == 0


class TestSqlite:
    def test_commits_reach_the_disk(self, sqlite_url: str):
        with Store(sqlite_url) as store, store.engine.connect() as connection:
            pragma = lambda name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
            assert pragma("busy_timeout") == 30_000

    def test_readers_do_not_wait_for_a_writer(self, sqlite_url: str):
        with Store(sqlite_url) as store, Store(sqlite_url, patience=0.0) as reader:
            store.add([query("q")])
            with store.transaction(write=True):
                assert len(reader.queries()) == 1
                with pytest.raises(StoreError, match=r"feedback\.sqlite failed: database is locked"):
                    reader.add([query("r")])

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
    def test_memory_is_no_store(self, url: str):
        with pytest.raises(StoreError, match="names no file"):
            Store(url)

    def test_an_absent_store_is_not_made_by_looking(self, tmp_path: Path, sqlite_url: str):
        with pytest.raises(StoreError, match="there is no store at sqlite:///.*feedback.sqlite"):
            Store(sqlite_url, create=False)
        with pytest.raises(StoreError, match="there is no directory"):
            Store(f"sqlite:///{tmp_path}/absent/feedback.sqlite")
        assert list(tmp_path.iterdir()) == []

    def test_another_file_is_refused_untouched(self, tmp_path: Path, sqlite_url: str):
        for content in [b"these are no labels\n" * 100, os.urandom(5000), b"SQLite format 3\0" + os.urandom(5000)]:
            (tmp_path / "feedback.sqlite").write_bytes(content)
            with pytest.raises(StoreError, match="feedback.sqlite failed: "):
                Store(sqlite_url)
            assert (tmp_path / "feedback.sqlite").read_bytes() == content

    def test_a_full_disk_loses_nothing_that_was_acknowledged(self, sqlite_url: str):
        with Store(sqlite_url) as store:
            store.add([query("q")])

            def small(connection: object, _record: object) -> None:
                connection.execute("PRAGMA max_page_count = 24")  # pyright: ignore[reportAttributeAccessIssue]

            store.engine.dispose()
            event.listen(store.engine, "connect", small)
            acknowledged = 0
            with pytest.raises(StoreError, match="database or disk is full"):
                for n in range(1000):
                    store.add([judgement(f"{n}", rater="x" * 900)])
                    acknowledged += 1
            assert 0 < acknowledged < 1000
        with Store(sqlite_url) as store:
            assert [j.id for j in store.judgements()] == [str(n) for n in range(acknowledged)]
            store.add([judgement("later")])


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("feedback.sqlite", "no store opens by this URL"),
            ("nosql:///x", "no store opens by this URL .*nosql"),
            ("postgresql+psycopg://me:secret@127.0.0.1:1/x", r"the store postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x failed: "),
        ],
    )
    def test_that_lead_nowhere(self, url: str, sentence: str):
        if "psycopg" in url:
            pytest.importorskip("psycopg", reason="PostgreSQL's driver psycopg is not installed")
        with pytest.raises(StoreError, match=sentence) as caught:
            Store(url)
        assert "secret" not in str(caught.value)


def test_postgresql_acknowledges_what_is_on_the_disk_even_where_the_server_would_not(postgresql_url: str):
    name = sa.make_url(postgresql_url).database
    with Store(postgresql_url) as store, store.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    with Store(postgresql_url) as store:
        store.add([query("q")])
        with store.engine.connect() as connection:
            assert connection.execute(sa.text("SHOW synchronous_commit")).scalar_one() == "on"
