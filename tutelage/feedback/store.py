"""Where queries and judgements are kept: an append-only database that several processes write and read at once.

What `add` has returned from is committed and on the disk (SQLite: WAL with synchronous=FULL). Nothing is ever changed: rows
are only added, an id names one content for ever, and adding a row again is no second row, so that a writer that got no
acknowledgement simply sends again.

Rows are numbered in the order of their commits, through one counter row that every writing transaction locks first and
holds until it has committed. So when number n is visible, so is every number below n, and a reader that remembers the last
number misses nothing. A database sequence would not do: it hands out 7 before 8, but 8 may be committed, and read, before 7.
The price is that writers queue up; a commit takes milliseconds and raters take seconds.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from tutelage.feedback.query import FeedbackError, Judgement, Query, Row, SegmentRecord, TextRecord, check_answer, from_row, to_row
from tutelage.feedback.tables import (
    COMMITS,
    ERASURES,
    JUDGEMENTS,
    LEASES,
    QUERIES,
    REPEATS,
    SEGMENTS,
    TEXTS,
    WAITING,
    WITHDRAWALS,
)

VERSION_TABLE = "feedback_version"
"""Where Alembic notes the revision; a name of our own, for a database that other programs use too."""

TABLES: MappingProxyType[type[Row], sa.Table] = MappingProxyType(
    {SegmentRecord: SEGMENTS, TextRecord: TEXTS, Query: QUERIES, Judgement: JUDGEMENTS}
)
"""In the order in which their rows refer to one another."""

AnyRow = TypeVar("AnyRow", bound=Row)

_MIGRATING = threading.Lock()  # Alembic keeps the migration that runs in a global
_ADVISORY_LOCK = 0x7475_7465  # "tute": PostgreSQL processes that open a new store at the same time take turns
REPEAT = "repeat"
"""The sampler of queries that ask the same rater again: they never wait for another."""
_CHUNK = 500  # ids per SELECT; the oldest SQLite takes 999


class StoreError(FeedbackError):
    """The store refuses, or its database does; one sentence: what was given, what was expected, where."""


class StoreFailure(StoreError):
    """The database itself failed: what was asked may be asked again later."""


def file_url(path: Path) -> sa.URL:
    """The URL of a SQLite store in a file, whatever characters its path has."""
    return sa.URL.create("sqlite", database=str(path.resolve()))


class Store:
    """Queries, judgements and the places of segments, by SQLAlchemy URL (`sqlite:///runs/a/feedback.sqlite`).

    Threads and processes may share one database; after a fork open another Store.
    """

    def __init__(self, url: str | sa.URL, create: bool = True, patience: float = 30.0) -> None:
        """Opens the database and migrates it to this version's tables.

        create: False refuses a database that is not yet a store. patience: seconds to wait for another writer.
        Raises StoreError for a URL that leads nowhere, and for a database that a newer version has written.
        """
        self._writing = threading.Lock()
        try:
            self.url = sa.make_url(url)
            self.name = self.url.render_as_string(hide_password=True)
            if self.url.get_backend_name() == "sqlite":
                self._check_sqlite(create)
                self.engine = sa.create_engine(self.url, connect_args={"timeout": patience})
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            else:
                # Under a stricter level, waiting for the counter's lock would end in an error instead of the next number.
                self.engine = sa.create_engine(self.url, pool_pre_ping=True, isolation_level="READ COMMITTED")
                if self.url.get_backend_name() == "postgresql":
                    event.listen(self.engine, "connect", _prepare_postgresql)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(
                f"no store opens by this URL ({_reason(error)}); sqlite:///FILE or postgresql+psycopg://... was expected"
            ) from error
        try:
            self._migrate(create)
        except BaseException:
            self.close()
            raise

    def add(self, rows: Iterable[Row]) -> int:
        """Commits all of them, or none; returns how many were new. When it returns, they are on the disk.

        Raises StoreError for an id that already names another content, for a judgement about an unknown query, with an
        impossible answer, or superseding what does not exist, is another rater's or is superseded already; and when the
        database fails, in which case the rows may or may not be there, and adding them again is safe.
        """
        return sum(outcome is True for outcome in self._add(list(rows), keep_valid=False))

    def add_valid(self, rows: Iterable[Row]) -> list[bool | StoreError]:
        """Commits the valid ones; per row: True if new, False if it was there already, or the reason why it was refused."""
        return self._add(list(rows), keep_valid=True)

    def head(self) -> int:
        """The number of the newest commit; 0 for an empty store. Everything up to it is visible to later reads."""
        with self.transaction() as connection:
            return connection.execute(sa.select(COMMITS.c.number)).scalar_one()

    def segments(self, ids: Sequence[str]) -> list[SegmentRecord]:
        """All places of these segments, in commit order."""
        with self.transaction() as connection:
            found = list(_by_column(connection, SegmentRecord, "id", ids))
        return [record for _, record in sorted(found, key=lambda pair: pair[0])]

    def queries(self, group: str | None = None, after: int = 0, until: int | None = None) -> list[Query]:
        """Those committed after number `after` and up to `until`, in commit order."""
        return self._read(Query, sa.select(QUERIES), group, after, until)

    def queries_within(self, connection: sa.Connection, ids: Sequence[str]) -> list[Query]:
        """These queries, as a part of a transaction that does more."""
        return [query for _, query in _by_column(connection, Query, "id", ids)]

    def judgements(self, group: str | None = None, after: int = 0, until: int | None = None) -> list[Judgement]:
        """Those committed after number `after` and up to `until`, in commit order, superseded ones included."""
        return self._read(Judgement, sa.select(JUDGEMENTS).join(QUERIES), group, after, until)

    def close(self) -> None:
        """Lets go of the database; the last one to close a SQLite store folds its log into the file."""
        self.engine.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _add(self, rows: list[Row], keep_valid: bool) -> list[bool | StoreError]:
        with self.transaction(write=True) as connection:
            return self.add_within(connection, rows, keep_valid)

    def add_within(self, connection: sa.Connection, rows: list[Row], keep_valid: bool = False) -> list[bool | StoreError]:
        """`add`, or `add_valid`, as a part of a writing transaction that does more."""
        outcomes: list[bool | StoreError] = []
        new: dict[type[Row], list[dict[str, Any]]] = {record: [] for record in TABLES}
        number = self.next_number(connection)
        admission = _Admission(connection, rows)
        for row in rows:
            try:
                outcomes.append(admission.is_new(row))
            except StoreError as error:
                if not keep_valid:
                    raise
                outcomes.append(error)
                continue
            if outcomes[-1]:
                number += 1
                new[type(row)].append(to_row(row) | {"commit_number": number})
        for record, table in TABLES.items():
            if new[record]:
                connection.execute(sa.insert(table), new[record])
        waiting = [
            {"query": row["id"], "group": row["group"], "turn": -row["policy_step"], "commit_number": row["commit_number"]}
            for row in new[Query]
            if row["sampler"] != REPEAT
        ]
        if waiting:
            connection.execute(sa.insert(WAITING), waiting)
        connection.execute(sa.update(COMMITS).values(number=number))
        return outcomes

    @staticmethod
    def next_number(connection: sa.Connection) -> int:
        """The number of the newest commit, locked until this transaction ends: whoever asks for it writes alone."""
        return connection.execute(sa.select(COMMITS.c.number).with_for_update()).scalar_one()

    def texts(self, ids: Sequence[str]) -> list[TextRecord]:
        """These texts, in commit order."""
        with self.transaction() as connection:
            found = list(_by_column(connection, TextRecord, "id", ids))
        return [record for _, record in sorted(found, key=lambda pair: pair[0])]

    def erase(self, rater: str, at: float) -> int:
        """Deletes every judgement of a rater, from the disk too; returns how many there were.

        Of each only an erasure remains, so that whoever has heard it learns that it no longer counts. at: Unix seconds.
        """
        with self.transaction(write=True) as connection:
            lost = self.erase_within(connection, JUDGEMENTS.c.rater == rater, at)
            connection.execute(sa.delete(LEASES).where(LEASES.c.rater == rater))
            connection.execute(sa.delete(REPEATS).where(REPEATS.c.rater == rater))
            known = sa.union(sa.select(WAITING.c.query), sa.select(WITHDRAWALS.c.query))
            for start in range(0, len(lost), _CHUNK):
                again = sa.select(QUERIES.c.id, QUERIES.c.group, -QUERIES.c.policy_step, QUERIES.c.commit_number).where(
                    QUERIES.c.id.in_(lost[start : start + _CHUNK]), QUERIES.c.sampler != REPEAT, QUERIES.c.id.not_in(known)
                )
                connection.execute(sa.insert(WAITING).from_select(["query", "group", "turn", "commit_number"], again))
        self.vacuum()
        return len(lost)

    def erase_within(self, connection: sa.Connection, which: sa.ColumnElement[bool], at: float) -> list[str]:
        """In a transaction that writes, erasures in the place of some judgements; returns the query of each."""
        number = self.next_number(connection)
        gone = connection.execute(sa.select(JUDGEMENTS.c.id, JUDGEMENTS.c.query).where(which)).all()
        for judgement, query in gone:
            number += 1
            row = {"judgement": judgement, "query": query, "erased_at": at, "commit_number": number}
            connection.execute(sa.insert(ERASURES).values(row))
        connection.execute(sa.delete(JUDGEMENTS).where(which))
        connection.execute(sa.update(COMMITS).values(number=number))
        return [query for _, query in gone]

    def erasures(self, group: str, after: int = 0, until: int | None = None) -> list[tuple[str, str]]:
        """(judgement, query) of what was erased after commit `after` and up to `until`, in the order of erasing."""
        number = ERASURES.c.commit_number
        select = sa.select(ERASURES.c.judgement, ERASURES.c.query).join(QUERIES, QUERIES.c.id == ERASURES.c.query)
        select = select.where(QUERIES.c.group == group, number > after).order_by(number)
        with self.transaction() as connection:
            found = connection.execute(select if until is None else select.where(number <= until)).all()
        return [(judgement, query) for judgement, query in found]

    def vacuum(self) -> None:
        """What was deleted leaves the files as well, not only the tables."""
        try:
            if self.url.get_backend_name() != "sqlite":
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql("VACUUM")
                return
            with self.engine.connect().execution_options(tutelage_bare=True) as connection:
                connection.exec_driver_sql("VACUUM")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} deleted the rows but could not clean its files: {_reason(error)}") from error

    def _read(self, record: type[AnyRow], select: sa.Select[Any], group: str | None, after: int, until: int | None) -> list[AnyRow]:
        number = TABLES[record].c.commit_number
        select = select.where(number > after).order_by(number)
        if until is not None:
            select = select.where(number <= until)
        if group is not None:
            select = select.where(QUERIES.c.group == group)
        with self.transaction() as connection:
            return [_record(record, row._asdict()) for row in connection.execute(select)]

    @contextlib.contextmanager
    def transaction(self, write: bool = False, durable: bool = True) -> Iterator[sa.Connection]:
        """A connection whose changes are committed together at the end. Raises StoreFailure when the database fails.

        durable: False does not wait for the disk. A power failure may then take back this transaction and those after it that did
        not wait either; one that waits brings everything before it to the disk.
        """
        # SQLite lets waiting writers sleep and look again; threads of one process pass the turn on at once.
        turn = self._writing if write else contextlib.nullcontext()
        try:
            with (
                turn,
                self.engine.connect().execution_options(tutelage_write=write, tutelage_durable=durable) as connection,
                connection.begin(),
            ):
                if not durable and connection.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection
        except SQLAlchemyError as error:
            raise StoreFailure(f"the store {self.name} failed: {_reason(error)}") from error

    def _check_sqlite(self, create: bool) -> None:
        file = self.url.database
        if not file or file == ":memory:" or file.startswith("file:"):
            raise StoreError(f"{self.name} names no file; sqlite:///FILE was expected, for only a file keeps what was acknowledged")
        if not create and not Path(file).is_file():
            raise StoreError(f"there is no store at {self.name}")
        if not Path(file).parent.is_dir():
            raise StoreError(f"the store {self.name} cannot be made: there is no directory {Path(file).parent}")

    def _migrate(self, create: bool) -> None:
        config = Config()
        config.set_main_option("script_location", "tutelage.feedback:migrations")
        script = ScriptDirectory.from_config(config)
        revisions = {revision.revision for revision in script.walk_revisions()}
        with _MIGRATING, self.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
            if current is None and not create:
                raise StoreError(f"the database {self.name} holds no store")
            if current is not None and current not in revisions:
                raise StoreError(
                    f"the store {self.name} is of version {current}, written by a newer tutelage; "
                    f"this one reads up to version {script.get_current_head()}: upgrade it"
                )
            if current != script.get_current_head():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")


class _Admission:
    """What the store already holds of all that some rows speak of; decides, row by row, whether each may join it."""

    def __init__(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        judgements = [row for row in rows if isinstance(row, Judgement)]
        queries = [row.id for row in rows if isinstance(row, Query)] + [j.query for j in judgements]
        superseded = [j.supersedes for j in judgements if j.supersedes is not None]
        wanted: list[tuple[type[Row], str, list[str]]] = [
            (SegmentRecord, "id", [row.id for row in rows if isinstance(row, SegmentRecord)]),
            (TextRecord, "id", [row.id for row in rows if isinstance(row, TextRecord)]),
            (Query, "id", queries),
            (Judgement, "id", [j.id for j in judgements] + superseded),
            (Judgement, "supersedes", superseded),
        ]
        self.segments: dict[tuple[str, str], SegmentRecord] = {}
        self.texts: dict[str, TextRecord] = {}
        self.queries: dict[str, Query] = {}
        self.judgements: dict[str, Judgement] = {}
        self.successor: dict[str, str] = {}
        for record, column, values in wanted:
            for _, row in _by_column(connection, record, column, values):
                self._hold(row)
        ids = [j.id for j in judgements]
        self.erased = {
            name
            for start in range(0, len(ids), _CHUNK)
            for name in connection.execute(
                sa.select(ERASURES.c.judgement).where(ERASURES.c.judgement.in_(ids[start : start + _CHUNK]))
            ).scalars()
        }

    def is_new(self, row: Row) -> bool:
        """False if the same row is there already. Raises StoreError if it may not be."""
        there = self._there(row)
        if there is not None:
            if there == row:
                return False
            given, kept = to_row(row), to_row(there)
            name = next(name for name in given if given[name] != kept[name])
            raise StoreError(
                f'{type(row).__name__} "{row.id}" is in the store with {name} {kept[name]!r}, not {given[name]!r}; '
                "an id names one content for ever"
            )
        if isinstance(row, Judgement):
            self._check_judgement(row)
        self._hold(row)
        return True

    def _there(self, row: Row) -> Row | None:
        if isinstance(row, SegmentRecord):
            return self.segments.get((row.id, row.location))
        if isinstance(row, TextRecord):
            return self.texts.get(row.id)
        return self.queries.get(row.id) if isinstance(row, Query) else self.judgements.get(row.id)

    def _hold(self, row: Row) -> None:
        if isinstance(row, SegmentRecord):
            self.segments[row.id, row.location] = row
        elif isinstance(row, TextRecord):
            self.texts[row.id] = row
        elif isinstance(row, Query):
            self.queries[row.id] = row
        else:
            self.judgements[row.id] = row
            if row.supersedes is not None:
                self.successor[row.supersedes] = row.id

    def _check_judgement(self, row: Judgement) -> None:
        if row.id in self.erased:
            raise StoreError(f'judgement "{row.id}" was deleted, at the wish of its rater or with its project; it cannot come back')
        query = self.queries.get(row.query)
        if query is None:
            raise StoreError(f'judgement "{row.id}" answers query "{row.query}", which the store does not hold')
        try:
            check_answer(row, query)
        except FeedbackError as error:
            raise StoreError(str(error)) from error
        if row.supersedes is None:
            return
        earlier = self.judgements.get(row.supersedes)
        if earlier is None:
            raise StoreError(f'judgement "{row.id}" supersedes "{row.supersedes}", which the store does not hold')
        if (earlier.query, earlier.rater) != (row.query, row.rater):
            raise StoreError(f'judgement "{row.id}" supersedes "{row.supersedes}", which is about another query or by another rater')
        if row.supersedes in self.successor:
            newest = self.successor[row.supersedes]
            raise StoreError(f'judgement "{row.id}" supersedes "{row.supersedes}", which is superseded by "{newest}" already')


def _by_column(connection: sa.Connection, record: type[AnyRow], column: str, values: Sequence[str]) -> Iterator[tuple[int, AnyRow]]:
    """(commit number, row) of every row whose column has one of the values."""
    table = TABLES[record]
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), _CHUNK):
        select = sa.select(table).where(table.c[column].in_(distinct[start : start + _CHUNK]))
        for row in connection.execute(select):
            yield row.commit_number, _record(record, row._asdict())


def _record(record: type[AnyRow], row: dict[str, Any]) -> AnyRow:
    return from_row(record, {name: value for name, value in row.items() if name != "commit_number"})


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin late and deferred; `_begin_sqlite` begins
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # in WAL, NORMAL would lose acknowledged commits with the power
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone leaves the data in the disk's cache
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began by reading could not get the lock later without losing what it read, and would fail at once.
    options = connection.get_execution_options()
    if options.get("tutelage_bare", False):  # a file cannot be rewritten within a transaction
        return
    write, durable = options.get("tutelage_write", False), options.get("tutelage_durable", True)
    if write:
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
    connection.commit()


def _reason(error: BaseException) -> str:
    """The driver's own first line."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
