"""The application: what one server of the rating room holds, and its pages."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from tutelage.feedback.query import FeedbackError
from tutelage.feedback.queue import Queue
from tutelage.feedback.store import Store, StoreFailure
from tutelage.web import api, owner
from tutelage.web.accounts import SHORTEST_PASSWORD, AccountError, Accounts
from tutelage.web.clips import ClipService
from tutelage.web.guard import COOKIE, Guard
from tutelage.web.instructions import instructions
from tutelage.web.play import PLAY_SECONDS, PLAYABLE, Move, PlayError, Seats, playable
from tutelage.web.room import Room
from tutelage.web.runs import Runs

HERE = Path(__file__).parent
HOME = "home"
"""The name of the one account where a person teaches at home."""


@dataclass(frozen=True)
class Settings:
    """Of one server."""

    store: str
    """URL of the label store."""
    clips: Path
    """Where drawn clips are kept."""
    runs: tuple[Path, ...] = ()
    """Run directories: their segments are drawn and their progress is shown."""
    runs_below: Path | None = None
    """A directory whose runs, also later ones, belong to this room."""
    groups: tuple[str, ...] = ()
    """Whose queries are asked here; empty: whatever the store holds."""
    accounts: bool = False
    """Whether several people come, each with an account; else one person at home, by a link."""
    tls: bool = False
    """Whether browsers come by https, so that cookies may travel by nothing else."""
    clip_quota: int = 2 * 2**30
    """Bytes of clips kept."""
    clip_size: int = 256
    """Width and height of clips in pixels."""


def create_app(settings: Settings) -> FastAPI:
    """The application of one server. Raises StoreError where the store cannot be opened."""
    store = Store(settings.store)
    queue = Queue(store)
    runs = Runs(settings.runs, settings.runs_below)
    clips = ClipService(queue, runs, settings.clips, settings.clip_quota, settings.clip_size)
    templates = Jinja2Templates(HERE / "templates")
    templates.env.filters["moment"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    room = Room(store, queue, Accounts(store), clips, Seats(), runs, templates, settings.accounts, settings.tls, settings.groups)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        clips.start()
        yield
        clips.close()
        room.seats.close()
        store.close()

    app = FastAPI(title="tutelage rating room", version="1", lifespan=life, docs_url=None, redoc_url=None)
    app.state.room = room
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(api.routes(room))
    app.include_router(owner.routes(room))
    _add_entry(app, room)
    _add_pages(app, room)

    @app.exception_handler(StoreFailure)
    def failed(_: Request, error: StoreFailure) -> Response:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})

    @app.exception_handler(FeedbackError)
    def refused(_: Request, error: FeedbackError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    hosts = None if settings.accounts else frozenset({"127.0.0.1", "localhost", "::1"})
    app.add_middleware(Guard, accounts=room.accounts, hosts=hosts)
    return app


def home_link(app: FastAPI) -> str:
    """The path by which the one person at home comes in, also a second time."""
    accounts: Accounts = app.state.room.accounts
    account = accounts.named(HOME) or accounts.create(HOME, None, "owner", consented=True)
    return f"/invite/{accounts.invite('owner', account)}"


def owner_link(app: FastAPI) -> str | None:
    """The path by which the first owner makes an account, once; None where there is an owner who can log in."""
    accounts: Accounts = app.state.room.accounts
    if any(account.role == "owner" and account.name != HOME for account in accounts.all()):
        return None
    return f"/invite/{accounts.invite('owner')}"


def _add_entry(app: FastAPI, room: Room) -> None:
    """Login, invitations, logout."""
    accounts = room.accounts

    def enter(account: Any) -> Response:
        answer = RedirectResponse("/", 303)
        token = accounts.open(account)
        answer.set_cookie(COOKIE, token, max_age=int(accounts.session_seconds), httponly=True, samesite="lax", secure=room.tls)
        return answer

    @app.get("/health")
    def health() -> dict[str, bool]:
        """Whether the server and its store answer."""
        room.store.head()
        return {"ok": True}

    @app.get("/login", include_in_schema=False)
    def login_page(request: Request) -> Response:
        return room.page(request, "login.html", at_home=not room.with_accounts)

    @app.post("/login", include_in_schema=False)
    def login(request: Request, name: Annotated[str, Form(max_length=200)], password: Annotated[str, Form(max_length=1000)]) -> Response:
        try:
            account = accounts.login(name, password)
        except AccountError as error:
            return room.page(request, "login.html", 401, at_home=not room.with_accounts, error=str(error), name=name)
        accounts.note(account, "signed in")
        return enter(account)

    @app.get("/invite/{token}", include_in_schema=False)
    def invitation(request: Request, token: str) -> Response:
        found = accounts.invitation(token)
        if found is None:
            return room.page(request, "invite.html", 404, found=None)
        if found.account is not None:
            account = next((account for account in accounts.all() if account.id == found.account), None)
            if account is not None and "application/json" in request.headers.get("accept", ""):  # a script opened it
                return JSONResponse({"token": accounts.open(account, program=True)})
            if account is not None:
                return enter(account)
        return room.page(request, "invite.html", found=found, token=token, shortest=SHORTEST_PASSWORD)

    @app.post("/invite/{token}", include_in_schema=False)
    def accept(
        request: Request,
        token: str,
        name: Annotated[str, Form(max_length=200)],
        password: Annotated[str, Form(max_length=1000)],
        consent: Annotated[str, Form(max_length=10)] = "",
    ) -> Response:
        try:
            account = accounts.accept(token, name, password, consent == "yes")
        except AccountError as error:
            found = accounts.invitation(token)
            page = {"found": found, "token": token, "shortest": SHORTEST_PASSWORD, "error": str(error), "name": name}
            return room.page(request, "invite.html", 400, **page)
        accounts.note(account, "accepted an invitation", account.role)
        return enter(account)

    @app.post("/logout", include_in_schema=False)
    def logout(request: Request) -> Response:
        accounts.close(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer


def _add_pages(app: FastAPI, room: Room) -> None:
    """What raters see."""

    @app.get("/", include_in_schema=False)
    def start() -> Response:
        return RedirectResponse("/rate", 303)

    def working_page(name: str, kind: str) -> None:
        @app.get(f"/{name}", include_in_schema=False, name=name)
        def page(request: Request) -> Response:
            views = room.runs.all()
            told = instructions(views[0].game) if len(views) == 1 else instructions("")
            return room.page(request, f"{name}.html", kind=kind, guide=told, here=name)

    for name, kind in (("rate", "pair"), ("rank", "rank"), ("judge", "rate"), ("flag", "flag")):
        working_page(name, kind)

    def games() -> list[str]:
        return list(dict.fromkeys([*(view.game for view in room.runs.all() if playable(view.game)), *PLAYABLE]))

    @app.get("/play", include_in_schema=False)
    def play(request: Request) -> Response:
        return room.page(request, "play.html", here="play", games=games(), seconds=PLAY_SECONDS)

    @app.post("/play/step", include_in_schema=False)
    def play_step(request: Request, move: Move) -> Response:
        if move.game not in games():  # an address of one's own choosing could name any module to import
            raise HTTPException(404, "this game cannot be played here")
        try:
            frame = room.seats.advance(request.state.session.account.id, move.game, frozenset(move.keys), move.fresh)
        except PlayError as error:
            raise HTTPException(503, str(error)) from error
        return Response(frame.picture, media_type="image/jpeg", headers={"x-score": f"{frame.score:g}", "x-over": str(int(frame.over))})

    @app.get("/teach", include_in_schema=False)
    def teach(request: Request) -> Response:
        return room.page(request, "teach.html", here="teach", **room.board())

    @app.get("/teach/board", include_in_schema=False)
    def board(request: Request) -> Response:
        return room.page(request, "board.html", **room.board())

    @app.get("/films/{run}/{name:path}", include_in_schema=False)
    def film(run: str, name: str) -> Response:
        path = room.runs.film(run, name)
        if path is None or not path.is_file():
            raise HTTPException(404, "no run has a film of this name")
        return FileResponse(path, media_type="video/mp4", headers={"cache-control": "private, max-age=3600"})

    @app.get("/account", include_in_schema=False)
    def account(request: Request) -> Response:
        own = request.state.session.account
        return room.page(request, "account.html", here="account", answers=len([j for j in room.store.judgements() if j.rater == own.id]))

    @app.post("/account/delete", include_in_schema=False)
    def delete(request: Request, sure: Annotated[str, Form(max_length=10)] = "") -> Response:
        own = request.state.session.account
        if sure != "yes":
            raise HTTPException(400, "tick the box to say that you are sure")
        room.accounts.note(own, "deleted the account with all answers")
        room.accounts.delete(own)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    @app.get("/clips/{item}", include_in_schema=False)
    def clip(item: str) -> Response:
        if len(item) > 64 or not item.isalnum():
            raise HTTPException(404, "a clip is named by the hash of its segment")
        deadline = time.monotonic() + 2.0  # most are drawn by then; the page asks again where they are not
        while (path := room.clips.ready(item)) is None and item not in room.clips.reasons and time.monotonic() < deadline:
            time.sleep(0.05)
        if path is not None:  # named by its content: it never changes
            return FileResponse(path, media_type="video/mp4", headers={"cache-control": "private, max-age=31536000, immutable"})
        if item in room.clips.reasons:
            return JSONResponse({"drawing": False, "reason": room.clips.reasons[item]})
        return JSONResponse({"drawing": True, "reason": "it is being drawn"}, 202, {"retry-after": "1"})
