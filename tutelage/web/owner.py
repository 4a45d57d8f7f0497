"""The owner's pages: projects, raters, invitations, gold, quality, export, deletion, and the log of all that."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.feedback.quality import quality
from tutelage.feedback.query import FeedbackError
from tutelage.feedback.queue import changed
from tutelage.web.room import Room

Short = Annotated[str, Form(max_length=1000)]


def routes(room: Room) -> APIRouter:
    """Of one server; the guard lets owners only come here."""
    router = APIRouter(prefix="/owner", include_in_schema=False)
    accounts, queue = room.accounts, room.queue

    def page(request: Request, status: int = 200, **more: Any) -> Response:
        found = [(queue.project(group), queue.progress(group)) for group in queue.groups()]
        projects = [(project, count) for project, count in found if not count.over]
        return room.page(request, "owner.html", status, here="owner", projects=projects, raters=accounts.all(), **more)

    def back(request: Request, action: str, about: str) -> Response:
        accounts.note(request.state.session.account, action, about)
        return RedirectResponse("/owner", 303)

    @router.get("")
    def overview(request: Request) -> Response:
        return page(request)

    @router.post("/projects")
    def change(
        request: Request,
        group: Short,
        raters: Short,
        repeats: Short,
        gold: Short,
        limit: Short,
        title: Annotated[str, Form(max_length=1000)] = "",
        instructions: Annotated[str, Form(max_length=100_000)] = "",
        quota: Annotated[str, Form(max_length=20)] = "",
        paused: Annotated[str, Form(max_length=10)] = "",
    ) -> Response:
        try:
            told = {
                "title": title,
                "instructions": instructions.replace("\r\n", "\n").strip(),
                "raters": _number(raters, "raters"),
                "repeats": _share(repeats, "repeats"),
                "gold": _share(gold, "gold"),
                "limit": _number(limit, "limit"),
                "quota": _number(quota, "quota") if quota else None,
                "paused": paused == "yes",
            }
            if group not in queue.groups():
                raise FeedbackError("no queries of this project are in the store")
            queue.set_project(changed(queue.project(group), told))
        except FeedbackError as error:
            return page(request, 400, error=str(error))
        return back(request, "changed a project", group)

    @router.post("/withdraw")
    def withdraw(request: Request, group: Short) -> Response:
        return back(request, f"withdrew {queue.withdraw(group)} queries", group)

    @router.post("/projects/delete")
    def delete_project(request: Request, group: Short, sure: Annotated[str, Form(max_length=10)] = "") -> Response:
        if group not in queue.groups():
            raise HTTPException(404, "there is no such project")
        if sure != "yes":
            return page(request, 400, error="tick the box to say that you are sure: the answers are gone for ever")
        return back(request, f"deleted a project with {queue.delete(group)} answers", group)

    @router.post("/gold")
    def gold(request: Request, query: Short, answer: Short) -> Response:
        try:
            queue.set_gold(query, answer)
        except FeedbackError as error:
            return page(request, 400, error=str(error))
        return back(request, f"set a gold answer {answer}", query)

    @router.post("/invite")
    def invite(request: Request, role: Short) -> Response:
        if role not in ("owner", "rater"):
            raise HTTPException(400, "the role is owner or rater")
        token = accounts.invite(role)
        accounts.note(request.state.session.account, "invited", role)
        return page(request, link=f"{request.url.scheme}://{request.url.netloc}/invite/{token}")

    @router.post("/token")
    def token(request: Request) -> Response:
        own = request.state.session.account
        made = accounts.open(own, program=True)
        accounts.note(own, "made a token for programs")
        return page(request, token=made)

    @router.post("/raters/{rater}/delete")
    def delete(request: Request, rater: str, sure: Annotated[str, Form(max_length=10)] = "") -> Response:
        account = next((account for account in accounts.all() if account.id == rater), None)
        if account is None:
            raise HTTPException(404, "there is no such account")
        if sure != "yes" or account.id == request.state.session.account.id:
            return page(request, 400, error="tick the box to say that you are sure; your own account you delete on its own page")
        gone = accounts.delete(account)
        return back(request, f"deleted an account with {gone} answers", account.id)

    @router.get("/quality")
    def agreement(request: Request) -> Response:
        names = {account.id: account.name for account in accounts.all()}
        return room.page(request, "quality.html", here="owner", quality=quality(queue), names=names)

    @router.get("/log")
    def log(request: Request) -> Response:
        names = {account.id: account.name for account in accounts.all()}
        return room.page(request, "log.html", here="owner", lines=accounts.log(200), names=names)

    return router


def _number(text: str, name: str) -> int:
    if not text.strip().isdecimal() or len(text) > 12:
        raise FeedbackError(f"{name} is {text[:20]!r}; a whole number was expected")
    return int(text)


def _share(text: str, name: str) -> float:
    """Percent, as the form asks for it."""
    try:
        return float(text) / 100.0
    except ValueError:
        raise FeedbackError(f"{name} is {text[:20]!r}; a percentage was expected") from None
