"""Who is asked what next: leases, priorities, repeats and gold questions over the store.

A lease keeps a query for one rater for two minutes, so that no two are asked the same in vain. Nothing depends on it: an
answer that comes after its lease counts like any other, and a server that dies loses only the knowledge of who looks at what.
Newest queries come first, those of one session in the order in which the sampler wanted them (Christiano et al. 2017: the
newest policy teaches most). Who is asked a repeat or a gold question when, and which item stands on the left, is drawn by
hashing who, what and how often: no generator is needed, and asking again after a crash asks the same.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from tutelage.feedback.query import FeedbackError, Judgement, Query, check_answer, new_query
from tutelage.feedback.store import REPEAT, Store, StoreError, StoreFailure
from tutelage.feedback.tables import GOLD, JUDGEMENTS, LEASES, PROJECTS, QUERIES, REPEATS, TEXTS, WAITING, WITHDRAWALS

LEASE_SECONDS = 120.0
MOST_LEASES = 32
"""A rater's page prefetches eight; a program that answers in batches may hold a few more."""
REPEAT_AFTER = 10
"""Answers between a query and its repeat: nobody remembers a clip for so long."""


class QueueFull(FeedbackError):
    """More queries wait than raters can answer soon; whoever submits should come back later."""


@dataclass(frozen=True)
class Project:
    """How the queries of one group (a run, or one seed of it) are asked."""

    group: str
    title: str = ""
    """What raters see; empty: the group's name."""
    instructions: str = ""
    """Shown above every query; empty: those of the game."""
    raters: int = 1
    """Different raters that each query needs."""
    repeats: float = 0.1
    """Share of queries that ask a rater a second time."""
    gold: float = 0.05
    """Share of queries whose answer the owner knows, as long as there are any left that the rater has not met."""
    quota: int | None = None
    """Answers that one rater may give. None: any number."""
    limit: int = 1000
    """Queries that may wait at once; above it submitting is refused."""
    paused: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.raters <= 100:
            raise FeedbackError(f"raters is {self.raters}; 1 to 100 were expected")
        for name in ("repeats", "gold"):
            if not 0.0 <= getattr(self, name) <= 0.5:
                raise FeedbackError(f"{name} is {getattr(self, name)}; a share from 0 to 0.5 was expected")
        if self.quota is not None and self.quota < 1:
            raise FeedbackError(f"quota is {self.quota}; at least 1 answer, or none for no quota, was expected")
        if not 1 <= self.limit <= 1_000_000:
            raise FeedbackError(f"limit is {self.limit}; 1 to 1,000,000 waiting queries were expected")
        if len(self.title) > 200 or len(self.instructions) > 20_000:
            raise FeedbackError("a title of at most 200 and instructions of at most 20,000 characters were expected")


@dataclass(frozen=True)
class Lease:
    """A query leased to a rater. Whether it is a repeat or gold is not told to whoever answers."""

    query: Query
    order: tuple[int, ...]
    """Indices of the items in the order to show them, from the left."""
    expires_at: float
    """Unix seconds."""


@dataclass(frozen=True)
class Progress:
    """How far the queries of a group are."""

    asked: int
    """Repeats are not counted here and below."""
    answered: int
    waiting: int
    withdrawn: int

    @property
    def over(self) -> bool:
        """Nothing was answered and nobody is asked any more, as in a project that was deleted."""
        return self.answered == 0 and self.asked == self.withdrawn > 0


@dataclass
class _Batch:
    """What one thread has brought to be committed, and what became of it."""

    judgements: Sequence[Judgement]
    outcomes: list[bool | StoreError] | None = None
    failure: StoreFailure | None = None


class Queue:
    """Leases queries to raters and takes their answers. Threads and processes may share one store, each with a Queue of its own."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time, lease_seconds: float = LEASE_SECONDS) -> None:
        self.store, self.clock, self.lease_seconds = store, clock, lease_seconds
        self._arrived: list[_Batch] = []
        self._arriving, self._committing = threading.Lock(), threading.Lock()

    def submit(self, queries: Sequence[Query]) -> int:
        """Commits queries; returns how many were new. Raises QueueFull where too many of their group wait already, and StoreError."""
        for group in dict.fromkeys(query.group for query in queries):
            waiting, limit = self.progress(group).waiting, self.project(group).limit
            if waiting >= limit:
                raise QueueFull(f'{waiting} queries of "{group}" wait for an answer and {limit} may; submit again when some are answered')
        return self.store.add(queries)

    def lease(
        self, rater: str, count: int = 1, holding: Sequence[str] = (), groups: Sequence[str] | None = None, kind: str | None = None
    ) -> list[Lease]:
        """Up to `count` leases for this rater; fewer where nothing else waits.

        holding: queries that the rater has on screen or prefetched: their leases begin anew and they are not given again.
        What else is leased to the rater (a page was closed and opened again) comes first. groups, kind: of these only.
        """
        now, leases = self.clock(), list[Lease]()
        with self.store.transaction(write=True, durable=False) as connection:  # a lost lease is no loss
            self.store.next_number(connection)  # two servers on one database take turns
            connection.execute(sa.delete(LEASES).where(LEASES.c.expires_at <= now))
            own = sa.select(LEASES.c.query).join(QUERIES, QUERIES.c.id == LEASES.c.query).where(LEASES.c.rater == rater)
            held = len(list(connection.execute(own).scalars()))
            only = [QUERIES.c.group.in_(groups)] if groups is not None else []
            only += [QUERIES.c.kind == kind] if kind is not None else []
            again = own.where(*only, QUERIES.c.id.not_in(list(holding))).order_by(QUERIES.c.policy_step.desc(), QUERIES.c.commit_number)
            chosen = list(connection.execute(again.limit(count)).scalars())
            chosen += self._choose(connection, rater, min(count - len(chosen), MOST_LEASES - held), held, only)
            renewed = LEASES.c.query.in_([*chosen, *holding])
            connection.execute(sa.update(LEASES).where(LEASES.c.rater == rater, renewed).values(expires_at=now + self.lease_seconds))
            found = {query.id: query for query in self.store.queries_within(connection, chosen)}
        for name in chosen:
            query = found[name]
            leases.append(Lease(query, shown_order(query, rater), now + self.lease_seconds))
        return leases

    def answer(self, judgement: Judgement) -> bool:
        """Commits a judgement and ends its lease; False if it was there already. When it returns, the judgement is on the disk.

        Raises StoreError for what the store refuses, and for the answer to another rater's repeat.
        """
        (outcome,) = self.answer_all([judgement])
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome

    def answer_all(self, judgements: Sequence[Judgement]) -> list[bool | StoreError]:
        """As `answer`, for several; per judgement True if new, False if it was there already, or why it was refused.

        What other threads bring meanwhile is committed along: the disk is waited for once for all of them, not once for each.
        Raises StoreFailure when the database fails; then any of them may or may not be there, and sending them again is safe.
        """
        mine = _Batch(judgements)
        with self._arriving:
            self._arrived.append(mine)
        with self._committing:
            if mine.outcomes is None and mine.failure is None:
                with self._arriving:
                    batches, self._arrived = self._arrived, []
                try:
                    outcomes = iter(self._commit([judgement for batch in batches for judgement in batch.judgements]))
                    for batch in batches:
                        batch.outcomes = [next(outcomes) for _ in batch.judgements]
                except StoreFailure as failure:
                    for batch in batches:
                        batch.failure = failure
        if mine.failure is not None:
            raise mine.failure
        assert mine.outcomes is not None
        return mine.outcomes

    def _commit(self, judgements: Sequence[Judgement]) -> list[bool | StoreError]:
        """One transaction for all of them."""
        asked = sorted({judgement.query for judgement in judgements})
        with self.store.transaction(write=True) as connection:
            again = {
                row[0]: row[1] for row in connection.execute(sa.select(REPEATS.c.query, REPEATS.c.rater).where(REPEATS.c.query.in_(asked)))
            }
            theirs = [again.get(judgement.query, judgement.rater) == judgement.rater for judgement in judgements]
            added = iter(self.store.add_within(connection, [j for j, own in zip(judgements, theirs, strict=True) if own], keep_valid=True))
            outcomes: list[bool | StoreError] = []
            for judgement, own in zip(judgements, theirs, strict=True):
                refusal = StoreError(f'query "{judgement.query}" asks another rater again; it is not for "{judgement.rater}"')
                outcomes.append(next(added) if own else refusal)
            for judgement, outcome in zip(judgements, outcomes, strict=True):
                if not isinstance(outcome, StoreError):
                    held = (LEASES.c.query == judgement.query, LEASES.c.rater == judgement.rater)
                    connection.execute(sa.delete(LEASES).where(*held))
            given = sa.select(sa.func.count(JUDGEMENTS.c.rater.distinct())).where(JUDGEMENTS.c.query == WAITING.c.query).scalar_subquery()
            needed = sa.select(PROJECTS.c.raters).where(PROJECTS.c.group == WAITING.c.group).scalar_subquery()
            complete = given >= sa.func.coalesce(needed, 1)
            connection.execute(sa.delete(WAITING).where(WAITING.c.query.in_(asked), complete))
        return outcomes

    def withdraw(self, group: str, before_step: int | None = None) -> int:
        """Nobody is asked the waiting queries of a group any more (before_step: only older ones); returns how many there were.

        Answers that are on their way still count.
        """
        with self.store.transaction(write=True) as connection:
            self.store.next_number(connection)
            old = sa.select(WAITING.c.query).where(WAITING.c.group == group)
            if before_step is not None:
                old = old.where(WAITING.c.turn > -before_step)
            gone = list(connection.execute(old).scalars())
            for query in gone:
                connection.execute(sa.insert(WITHDRAWALS).values(query=query, withdrawn_at=self.clock()))
                connection.execute(sa.delete(WAITING).where(WAITING.c.query == query))
                connection.execute(sa.delete(LEASES).where(LEASES.c.query == query))
        return len(gone)

    def delete(self, group: str) -> int:
        """A project for ever: its answers, its settings, and the prompts and texts that no other project asks about.

        Returns how many answers there were. Of queries their numbers remain, so that a run that asked them hears that their answers
        no longer count; what it asks from now on is a project again. Segments lie in the run's directory, which is its owner's.
        """
        own = sa.select(QUERIES.c.id).where(QUERIES.c.group == group)
        with self.store.transaction(write=True) as connection:
            gone = self.store.erase_within(connection, JUDGEMENTS.c.query.in_(own), self.clock())
            asked = own.where(QUERIES.c.id.not_in(sa.select(WITHDRAWALS.c.query))).add_columns(sa.literal(self.clock(), sa.Double))
            connection.execute(sa.insert(WITHDRAWALS).from_select(["query", "withdrawn_at"], asked))
            for table in (WAITING, LEASES, REPEATS, GOLD):
                connection.execute(sa.delete(table).where(table.c.query.in_(own)))
            connection.execute(sa.delete(PROJECTS).where(PROJECTS.c.group == group))
            items = lambda mine: {
                item
                for found in connection.execute(sa.select(QUERIES.c["items"]).where((QUERIES.c.group == group) == mine)).scalars()
                for item in found
            }
            for text in items(True) - items(False):  # those of segments are in no row of this table
                connection.execute(sa.delete(TEXTS).where(TEXTS.c.id == text))
            connection.execute(sa.update(QUERIES).where(QUERIES.c.group == group).values(prompt=None))
        self.store.vacuum()
        return len(gone)

    def progress(self, group: str) -> Progress:
        """Of the queries of one group."""
        plain = [QUERIES.c.group == group, QUERIES.c.sampler != REPEAT]
        count = sa.select(sa.func.count()).select_from(QUERIES).where(*plain)
        answered = sa.select(sa.func.count(JUDGEMENTS.c.query.distinct())).join(QUERIES).where(*plain)
        waiting = sa.select(sa.func.count()).select_from(WAITING).where(WAITING.c.group == group)
        withdrawn = sa.select(sa.func.count()).select_from(WITHDRAWALS).join(QUERIES).where(*plain)
        with self.store.transaction() as connection:
            return Progress(*(connection.execute(select).scalar_one() for select in (count, answered, waiting, withdrawn)))

    def groups(self) -> list[str]:
        """Every group that has queries or settings, in alphabetical order."""
        known = sa.union(sa.select(QUERIES.c.group), sa.select(PROJECTS.c.group))
        with self.store.transaction() as connection:
            return sorted(connection.execute(known).scalars())

    def project(self, group: str) -> Project:
        """The settings of a group, or the defaults."""
        with self.store.transaction() as connection:
            row = connection.execute(sa.select(PROJECTS).where(PROJECTS.c.group == group)).first()
        return Project(group) if row is None else Project(**row._asdict())

    def set_project(self, project: Project) -> None:
        """Replaces the settings of a group. Where it now needs more raters than before, its answered queries wait again."""
        before = self.project(project.group)
        with self.store.transaction(write=True) as connection:
            self.store.next_number(connection)
            connection.execute(sa.delete(PROJECTS).where(PROJECTS.c.group == project.group))
            connection.execute(sa.insert(PROJECTS).values(asdict(project)))
            connection.execute(sa.update(WAITING).where(WAITING.c.group == project.group).values(busy_until=0.0))
            if project.raters > before.raters:
                known = sa.union(sa.select(WAITING.c.query), sa.select(WITHDRAWALS.c.query), sa.select(GOLD.c.query))
                again = sa.select(QUERIES.c.id, QUERIES.c.group, -QUERIES.c.policy_step, QUERIES.c.commit_number).where(
                    QUERIES.c.group == project.group, QUERIES.c.sampler != REPEAT, QUERIES.c.id.not_in(known)
                )
                connection.execute(sa.insert(WAITING).from_select(["query", "group", "turn", "commit_number"], again))

    def set_gold(self, query: str, answer: str) -> None:
        """From now on every rater of the query's group meets it, and its answer is known. Raises StoreError for a query that is
        not there, FeedbackError for an answer that cannot be."""
        with self.store.transaction(write=True) as connection:
            self.store.next_number(connection)
            found = list(self.store.queries_within(connection, [query]))
            if not found or found[0].sampler == REPEAT:
                raise StoreError(f'query "{query}" is not in the store; the id of one that was asked was expected')
            check_answer(Judgement("gold", query, "owner", answer), found[0])
            connection.execute(sa.delete(GOLD).where(GOLD.c.query == query))
            connection.execute(sa.insert(GOLD).values(query=query, answer=answer))
            connection.execute(sa.delete(WAITING).where(WAITING.c.query == query))

    def gold(self, group: str | None = None) -> Mapping[str, str]:
        """The known answers, by query."""
        select = sa.select(GOLD.c.query, GOLD.c.answer).join(QUERIES, QUERIES.c.id == GOLD.c.query)
        with self.store.transaction() as connection:
            rows = connection.execute(select if group is None else select.where(QUERIES.c.group == group))
            return {row[0]: row[1] for row in rows}

    def repeats(self, group: str | None = None) -> Mapping[str, str]:
        """The original of every query that was asked a second time."""
        select = sa.select(REPEATS.c.query, REPEATS.c.original).join(QUERIES, QUERIES.c.id == REPEATS.c.query)
        with self.store.transaction() as connection:
            rows = connection.execute(select if group is None else select.where(QUERIES.c.group == group))
            return {row[0]: row[1] for row in rows}

    def seconds_per_answer(self, rater: str) -> list[float]:
        """How long this rater took for each answer that both times are known of, oldest first; what replaced another is left out."""
        timed = (JUDGEMENTS.c.rater == rater, JUDGEMENTS.c.supersedes.is_(None), JUDGEMENTS.c.answered_at > JUDGEMENTS.c.shown_at)
        select = sa.select(JUDGEMENTS.c.answered_at - JUDGEMENTS.c.shown_at).where(*timed).order_by(JUDGEMENTS.c.commit_number)
        with self.store.transaction() as connection:
            return list(connection.execute(select).scalars())

    def waiting(self, count: int) -> list[Query]:
        """The next queries, in the order in which raters will be asked."""
        select = sa.select(WAITING.c.query).order_by(WAITING.c.turn, WAITING.c.commit_number).limit(count)
        with self.store.transaction() as connection:
            names = list(connection.execute(select).scalars())
            found = {query.id: query for query in self.store.queries_within(connection, names)}
        return [found[name] for name in names]

    def _choose(self, connection: sa.Connection, rater: str, count: int, held: int, only: Sequence[sa.ColumnElement[bool]]) -> list[str]:
        """Leases the next queries to a rater who holds so many: waiting ones, here and there a gold question or a repeat instead."""
        if count <= 0:
            return []
        counted = sa.select(QUERIES.c.group, sa.func.count(JUDGEMENTS.c.query.distinct())).join(QUERIES).where(JUDGEMENTS.c.rater == rater)
        answered = {row[0]: int(row[1]) for row in connection.execute(counted.group_by(QUERIES.c.group))}
        projects = {row.group: Project(**row._asdict()) for row in connection.execute(sa.select(PROJECTS))}
        left = {name: p.quota - answered.get(name, 0) - held for name, p in projects.items() if p.quota is not None}
        chosen: list[str] = []
        drawn = sum(answered.values()) + held
        for plain, own, kind, engaged in self._free(connection, rater, count, only, [name for name, n in left.items() if n <= 0]):
            project = projects.get(own, Project(own))
            if len(chosen) == count or left.get(own, 1) <= 0:
                continue
            left[own] = left.get(own, MOST_LEASES + 1) - 1
            draw = chance(rater, str(drawn + len(chosen)))
            instead = None
            if draw < project.gold:
                instead = self._gold(connection, rater, own, kind)
            elif draw < project.gold + project.repeats:
                instead = self._repeat(connection, rater, own, kind)
            until = self.clock() + self.lease_seconds
            connection.execute(sa.insert(LEASES).values(query=instead or plain, rater=rater, expires_at=until))
            if instead is None and engaged + 1 >= project.raters:
                connection.execute(sa.update(WAITING).where(WAITING.c.query == plain).values(busy_until=until))
            chosen.append(instead or plain)
        return chosen

    def _free(
        self, connection: sa.Connection, rater: str, count: int, only: Sequence[sa.ColumnElement[bool]], full: Sequence[str]
    ) -> list[Any]:
        """(query, group, kind, raters who look at it or have answered it) of what this rater may be asked, in turn."""
        others = sa.select(sa.func.count()).where(LEASES.c.query == WAITING.c.query).scalar_subquery()
        given = sa.select(sa.func.count(JUDGEMENTS.c.rater.distinct())).where(JUDGEMENTS.c.query == WAITING.c.query).scalar_subquery()
        free = (
            sa.select(WAITING.c.query, WAITING.c.group, QUERIES.c.kind, others + given)
            .join(QUERIES, QUERIES.c.id == WAITING.c.query)
            .join(PROJECTS, PROJECTS.c.group == WAITING.c.group, isouter=True)
            .where(
                WAITING.c.busy_until <= self.clock(),  # spares the counting below where many raters hold many queries
                sa.func.coalesce(PROJECTS.c.paused, False).is_(False),
                WAITING.c.group.not_in(full),
                ~sa.exists().where(JUDGEMENTS.c.query == WAITING.c.query, JUDGEMENTS.c.rater == rater),
                ~sa.exists().where(LEASES.c.query == WAITING.c.query, LEASES.c.rater == rater),
                others + given < sa.func.coalesce(PROJECTS.c.raters, 1),
                *only,
            )
            .order_by(WAITING.c.turn, WAITING.c.commit_number)
            .limit(count)
        )
        return list(connection.execute(free))

    def _gold(self, connection: sa.Connection, rater: str, group: str, kind: str) -> str | None:
        unmet = (
            sa.select(GOLD.c.query)
            .join(QUERIES, QUERIES.c.id == GOLD.c.query)
            .where(
                QUERIES.c.group == group,
                QUERIES.c.kind == kind,
                ~sa.exists().where(JUDGEMENTS.c.query == GOLD.c.query, JUDGEMENTS.c.rater == rater),
                ~sa.exists().where(LEASES.c.query == GOLD.c.query, LEASES.c.rater == rater),
            )
            .order_by(QUERIES.c.commit_number)
            .limit(1)
        )
        return connection.execute(unmet).scalar()

    def _repeat(self, connection: sa.Connection, rater: str, group: str, kind: str) -> str | None:
        """A new query with the items of one that this rater answered a while ago and has not met again."""
        known = sa.select(REPEATS.c.original).where(REPEATS.c.rater == rater)
        before = (
            sa.select(JUDGEMENTS.c.query)
            .join(QUERIES)
            .where(JUDGEMENTS.c.rater == rater, QUERIES.c.group == group, QUERIES.c.kind == kind, QUERIES.c.sampler != REPEAT)
            .order_by(JUDGEMENTS.c.commit_number.desc())
        )
        earlier = before.offset(REPEAT_AFTER).subquery()
        original = connection.execute(sa.select(earlier.c.query).where(earlier.c.query.not_in(known)).limit(1)).scalar()
        if original is None:
            return None
        (query,) = self.store.queries_within(connection, [original])
        number = int(_digest(rater, original)[:12], 16)
        again = new_query(query.kind, query.items, query.group, REPEAT, query.policy_step, number, query.prompt)
        self.store.add_within(connection, [again])
        connection.execute(sa.insert(REPEATS).values(query=again.id, original=original, rater=rater))
        return again.id


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def chance(*words: str) -> float:
    """A number in [0, 1) that these words always give, as if drawn at random for each different choice of them."""
    return int(_digest(*words)[:13], 16) / 16**13


def shown_order(query: Query, rater: str) -> tuple[int, ...]:
    """In which order this rater sees the items: for each rater and query as if drawn at random."""
    return tuple(sorted(range(len(query.items)), key=lambda index: _digest(rater, query.id, str(index))))


def changed(project: Project, values: Mapping[str, Any]) -> Project:
    """The project with some fields replaced. Raises FeedbackError for an unknown field or a value that makes no sense."""
    known = [field.name for field in fields(Project) if field.name != "group"]
    for name in values:
        if name not in known:
            raise FeedbackError(f'a project has no setting "{name}"; it has {", ".join(known)}')
    return replace(project, **values)
