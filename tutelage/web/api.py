"""The same room for scripts: every page works through these addresses, and a program may too.

A rater of any kind (a person's page, an oracle, a language model) takes leases and sends judgements. A program with an owner's
token submits queries and polls what was judged. What a POST has acknowledged is on the disk; sending it again changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from tutelage.feedback.exchange import import_lines, label_rows, line_of, trl_rows
from tutelage.feedback.quality import quality
from tutelage.feedback.query import FeedbackError, Judgement, SegmentRecord, TextRecord, from_row, to_row
from tutelage.feedback.query import Query as FeedbackQuery
from tutelage.feedback.queue import Lease, QueueFull
from tutelage.feedback.store import StoreError, StoreFailure
from tutelage.web.instructions import instructions
from tutelage.web.room import Room

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Kind = Literal["pair", "rank", "rate", "flag"]


class Body(BaseModel):
    """Of a request; an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Wish(Body):
    """Leases that a rater would like to have."""

    count: Annotated[int, Field(ge=0, le=32)] = 1
    holding: Annotated[list[Name], Field(max_length=64)] = []
    """Queries that it has already: their leases begin anew."""
    group: Name | None = None
    kind: Kind | None = None


class Answer(Body):
    """A Judgement without its rater, who is whoever sends it."""

    id: Name
    query: Name
    answer: Name
    shown_order: Annotated[list[int], Field(max_length=9)] | None = None
    shown_at: float | None = None
    answered_at: float | None = None
    supersedes: Name | None = None
    note: Name | None = None
    confidence: int | None = None


class Answers(Body):
    """In the order in which they were given."""

    judgements: Annotated[list[Answer], Field(max_length=500)]


class Submission(Body):
    """Queries, with the texts and the places of segments that they speak of, each as a row of JSON."""

    queries: Annotated[list[dict[str, Any]], Field(max_length=1000)]
    texts: Annotated[list[dict[str, Any]], Field(max_length=10_000)] = []
    segments: Annotated[list[dict[str, Any]], Field(max_length=10_000)] = []


class Withdrawal(Body):
    """Which queries nobody needs to answer any more."""

    group: Name
    before_step: Annotated[int, Field(ge=0, le=2**62)] | None = None


GroupParameter = Annotated[str | None, Query(max_length=1000)]
NumberParameter = Annotated[int, Query(ge=0, le=2**62)]


def routes(room: Room) -> APIRouter:
    """Of one server."""
    router = APIRouter(prefix="/api")

    def describe(leased: Sequence[Lease]) -> list[dict[str, Any]]:
        wanted = {name for lease in leased for name in (*lease.query.items, lease.query.prompt) if name is not None}
        texts = {text.id: text.text for text in room.store.texts(sorted(wanted))}
        guides: dict[str, tuple[str, Sequence[str]]] = {}
        for group in {lease.query.group for lease in leased}:
            project, view = room.queue.project(group), room.runs.of(group)
            told = project.instructions.split("\n") if project.instructions else instructions("" if view is None else view.game)
            guides[group] = project.title or group, told
        return [describe_one(lease, texts, *guides[lease.query.group]) for lease in leased]

    def describe_one(lease: Lease, texts: Mapping[str, str], title: str, guide: Sequence[str]) -> dict[str, Any]:
        query = lease.query
        items = [{"text": texts[item]} if item in texts else {"clip": room.clip_address(item)} for item in query.items]
        return {
            "query": query.id,
            "kind": query.kind,
            "title": title,
            "order": lease.order,
            "items": [{"id": name} | item for name, item in zip(query.items, items, strict=True)],
            "prompt": texts.get(query.prompt or ""),
            "guide": guide,
            "expires_at": lease.expires_at,
        }

    @router.post("/leases")
    def leases(request: Request, wish: Wish) -> dict[str, Any]:
        """Leases queries to whoever asks, for two minutes; `order` says in which order to show the items."""
        room.retire()
        leased = room.queue.lease(request.state.session.account.id, wish.count, wish.holding, room.permitted(wish.group), wish.kind)
        return {"leases": describe(leased)}

    @router.post("/judgements")
    def judgements(request: Request, answers: Answers) -> dict[str, Any]:
        """Commits judgements one by one; per judgement "new", "known" (it was there already), or the reason of a refusal."""
        rater = request.state.session.account.id
        read: list[Judgement | FeedbackError] = []
        for answer in answers.judgements:
            try:
                read.append(from_row(Judgement, answer.model_dump() | {"rater": rater}))
            except FeedbackError as error:
                read.append(error)
        committed = iter(room.queue.answer_all([row for row in read if isinstance(row, Judgement)]))
        outcomes: list[dict[str, str]] = []
        for answer, row in zip(answers.judgements, read, strict=True):
            outcome = next(committed) if isinstance(row, Judgement) else row
            if isinstance(outcome, FeedbackError):
                outcomes.append({"id": answer.id, "status": "refused", "reason": str(outcome)})
            else:
                outcomes.append({"id": answer.id, "status": "new" if outcome else "known"})
        return {"outcomes": outcomes}

    @router.get("/progress")
    def progress(request: Request) -> dict[str, Any]:
        """How much of the lesson is done."""
        return room.lesson(request.state.session.account.id)

    @router.post("/owner/queries")
    def submit(submission: Submission) -> Response:
        """Commits queries, or none of them. 429 where too many wait already: come back when some are answered."""
        about = [from_row(TextRecord, row) for row in submission.texts]
        places = [from_row(SegmentRecord, row) for row in submission.segments]
        queries = [from_row(FeedbackQuery, row) for row in submission.queries]
        try:
            room.store.add([*about, *places])
            return JSONResponse({"new": room.queue.submit(queries)})
        except QueueFull as error:
            return JSONResponse({"detail": str(error)}, 429, {"retry-after": "5"})

    @router.get("/owner/judgements")
    def poll(group: GroupParameter = None, after: NumberParameter = 0) -> dict[str, Any]:
        """Everything judged after commit `after`, in commit order, what was erased since, and the commit to ask from next time."""
        head = room.store.head()
        rows = room.store.judgements(group, min(after, head), head)
        erased = room.store.erasures(group, after, head) if group is not None else []
        return {"judgements": [to_row(row) for row in rows], "erased": [name for name, _ in erased], "head": head}

    @router.post("/owner/withdraw")
    def withdraw(withdrawal: Withdrawal) -> dict[str, int]:
        """Nobody is asked these queries any more."""
        return {"withdrawn": room.queue.withdraw(withdrawal.group, withdrawal.before_step)}

    @router.get("/owner/export", response_class=PlainTextResponse)
    def export(group: GroupParameter = None, form: Literal["labels", "trl", "quality"] = "labels") -> Response:
        """JSON lines: the record itself, ranked and compared texts as prompt, chosen and rejected (trl), or how well raters agree."""
        if form == "quality":
            lines = [json.dumps(asdict(quality(room.queue, group))) + "\n"]
        elif form == "trl":
            lines = trl_rows(room.store, group)
        else:
            lines = [line_of(row) for row in label_rows(room.store, None if group is None else [group])]
        return Response(
            "".join(lines), media_type="application/x-ndjson", headers={"content-disposition": f'attachment; filename="{form}.jsonl"'}
        )

    @router.post("/owner/import")
    async def bring_in(request: Request) -> dict[str, Any]:
        """JSON lines as `export` writes them, or TRL's columns; valid rows are committed, the others named."""
        try:
            report = import_lines(await request.body(), "the upload", room.store)
        except StoreFailure:
            raise
        except StoreError as error:
            raise HTTPException(422, str(error)) from error
        return {"new": report.new, "known": report.known, "errors": list(report.errors[:100])}

    return router
