"""The door: every request passes here first, and only five paths are open to strangers.

Whoever adds a page need not think of it: what is not public needs a session, what lies below /owner or /api/owner an owner's,
and what changes something a token that no other site can know. Bodies are read here, up to a limit, before anything parses them.
"""

import hmac
import html
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.web.accounts import Accounts

PUBLIC = re.compile(r"/login|/invite/[^/]+|/static/.+|/health|/openapi\.json")
OWNERS = re.compile(r"(/api)?/owner(/.*)?")
SAFE = ("GET", "HEAD")
COOKIE = "tutelage_session"
LARGEST_BODY = 2**20
LARGEST_IMPORT = 64 * 2**20
IMPORTS = ("/api/owner/import",)
ENTRIES_PER_MINUTE = 20
"""Passwords and invitations that one address may try."""
REQUESTS_PER_SECOND, BURST = 60.0, 240.0
"""Of one session: a page asks for eight pairs of clips at once, and a scripted rater hurries."""
HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",  # with "no-referrer" browsers would not say that our own forms are ours
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


class TooLarge(Exception):
    """A body beyond its limit."""


class Pace:
    """How often somebody may do something: a bucket that fills steadily."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self.clock = per_second, burst, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def permits(self, who: str) -> bool:
        """Whether there is one left; takes it."""
        now = self.clock()
        level, at = self._buckets.get(who, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.per_second)
        if len(self._buckets) > 10_000:  # whoever has a full bucket need not be remembered
            self._buckets = {
                name: (had, then) for name, (had, then) in self._buckets.items() if had + (now - then) * self.per_second < self.burst
            }
        self._buckets[who] = (max(level - 1.0, 0.0), now)
        return level >= 1.0


class Guard:
    """Wraps the application; `request.state.session` is set wherever it lets somebody in."""

    def __init__(self, app: ASGIApp, accounts: Accounts, hosts: frozenset[str] | None) -> None:
        """hosts: names by which this server may be called; None: any. At home a page elsewhere may not borrow the browser by
        giving its own name this machine's address."""
        self.app, self.accounts, self.hosts = app, accounts, hosts
        self._entries = Pace(ENTRIES_PER_MINUTE / 60.0, float(ENTRIES_PER_MINUTE))
        self._requests = Pace(REQUESTS_PER_SECOND, BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.setdefault("headers", [])
                present = {name.lower() for name, _ in given}
                given += [(name, value) for name, value in HEADERS.items() if name not in present]
                if b"cache-control" not in present:
                    given.append((b"cache-control", b"no-store"))
            await send(message)

        request = Request(scope, receive)
        try:
            body = await _body(request, LARGEST_IMPORT if scope["path"] in IMPORTS else LARGEST_BODY)
        except TooLarge:
            refusal: Response | None = _refusal(request, 413, f"the body is larger than {LARGEST_BODY:,} bytes")
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send_with_headers)
            return
        if self.accounts.recalls(*_token(request)):  # the usual case: nothing to look up, so no other thread to wait for
            refusal = self._refusal(request, body)
        else:
            refusal = await run_in_threadpool(self._refusal, request, body)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, _again(body, receive), send_with_headers)

    def _refusal(self, request: Request, body: bytes) -> Response | None:
        path, method = request.url.path, request.method
        if self.hosts is not None and (request.url.hostname or "") not in self.hosts:
            return PlainTextResponse(f"this server answers to {', '.join(sorted(self.hosts))} only", 421)
        address = request.client.host if request.client else ""
        if PUBLIC.fullmatch(path):
            if method not in SAFE and not self._entries.permits(address):
                return _refusal(request, 429, "too many attempts from this address; wait a minute", {"retry-after": "60"})
            if method not in SAFE and not _same_origin(request):
                return _refusal(request, 403, "this form was sent by another site")
            return None
        session = self.accounts.session(*_token(request))
        if session is None:
            if method in SAFE and "text/html" in request.headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return _refusal(request, 401, "sign in first: this session is unknown or has expired")
        if not self._requests.permits(session.account.id):
            return _refusal(request, 429, "too many requests; slow down", {"retry-after": "1"})
        if OWNERS.fullmatch(path) and session.account.role != "owner":
            return _refusal(request, 403, "only owners may do this")
        if method not in SAFE and not session.program and not (_same_origin(request) and _has_token(request, body, session.csrf)):
            return _refusal(request, 403, "the form's token is missing or old: open the page again")
        request.state.session = session
        return None


def _token(request: Request) -> tuple[str, bool]:
    """What the request shows at the door, and whether it is a program's."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return (token.strip(), True) if kind.lower() == "bearer" else (request.cookies.get(COOKIE, ""), False)


async def _body(request: Request, limit: int) -> bytes:
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit:
        raise TooLarge
    chunks, size = deque[bytes](), 0
    async for chunk in request.stream():  # whoever tells no length, or lies, is cut off here
        size += len(chunk)
        if size > limit:
            raise TooLarge
        chunks.append(chunk)
    return b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the application; then whatever the connection still says."""
    told = False

    async def receive_again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _same_origin(request: Request) -> bool:
    """Browsers say where a form came from; what says nothing is no browser's form from elsewhere."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")


def _has_token(request: Request, body: bytes, csrf: str) -> bool:
    given = request.headers.get("x-csrf-token", "")
    if not given and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        given = parse_qs(body.decode("utf-8", "replace"), max_num_fields=100).get("csrf", [""])[0] if body.count(b"&") < 100 else ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), csrf.encode())


def _refusal(request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_PAGE.format(html.escape(sentence)), status, headers)
    return JSONResponse({"detail": sentence}, status, headers)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tutelage</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/room.css">
</head>
<body>
<main>
<section class="narrow">
<h1>This is not open to you</h1>
<p>{}.</p>
<p><a href="/">Back to the room</a></p>
</section>
</main>
</body>
</html>
"""
