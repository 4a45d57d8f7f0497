"""No one gets in: the routes that strangers reach are exactly five, and this is the list."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.web.conftest import HTML, PASSWORD, Lab, answer
from tutelage.web.accounts import SESSION_SECONDS, AccountError
from tutelage.web.app import Settings, create_app, home_link, owner_link
from tutelage.web.guard import COOKIE, HEADERS, LARGEST_BODY, Pace

PUBLIC = {"/login", "/invite/{token}", "/static", "/health", "/openapi.json"}
"""What a stranger may reach. Nothing else, ever: see the design."""


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything that the application answers, however deep a router hides it."""
    found: list[tuple[str, str]] = []

    def walk(routes: Any, prefix: str = "") -> None:
        for route in routes:
            path = prefix + getattr(route, "path", "")
            if getattr(route, "methods", None):
                found.extend((method, path) for method in route.methods)
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes, prefix)
            elif getattr(route, "routes", None):
                walk(route.routes, path)
            else:
                found.append(("GET", path))

    walk(app.routes)
    return found


def filled(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "0123456789abcdef", path)


def closed(lab: Lab) -> list[tuple[str, str]]:
    return [(method, path) for method, path in routes_of(lab.app) if path not in PUBLIC]


def test_the_table_is_whole(lab: Lab):
    paths = {path for _, path in routes_of(lab.app)}
    assert paths >= PUBLIC
    assert {"/rate", "/owner", "/owner/raters/{rater}/delete", "/api/leases", "/api/owner/export", "/clips/{item}"} <= paths
    assert set(lab.app.openapi()["paths"]) <= paths and len(lab.app.openapi()["paths"]) > 6
    assert len(paths) > 25


def test_every_other_route_refuses_a_stranger(lab: Lab):
    lab.account("olga", "owner")
    stale = lab.room.accounts.open(lab.account("rita"))
    later = lab.room.accounts.clock() + SESSION_SECONDS + 1
    lab.room.accounts.clock = lambda: later
    strangers: list[dict[str, Any]] = [
        {},
        {"cookies": {COOKIE: "wrong"}},
        {"cookies": {COOKIE: stale}},
        {"headers": {"authorization": "Bearer wrong"}},
        {"headers": {"authorization": f"Bearer {stale}"}},
        {"headers": {"x-forwarded-for": "127.0.0.1", "x-csrf-token": "wrong"}},
    ]
    for how in strangers:
        client = TestClient(lab.app, follow_redirects=False, **how)
        for method, path in closed(lab):
            refused = client.request(method, filled(path))
            assert refused.status_code == 401, (method, path, how)
            page = client.request(method, filled(path), headers=HTML)
            assert page.status_code in (303, 401) and page.headers.get("location", "/login") == "/login", (method, path, how)
    for path in (
        "/nowhere",
        "/api/nowhere",
        "/docs",
        "/redoc",
        "/statics/room.css",
        "/static/../owner",
        "/invite/a/b",
        "//login",
        "/login/",
    ):
        assert lab.client.get(path).status_code == 401, path


def test_raters_do_not_reach_what_is_the_owners(lab: Lab):
    rita = lab.enter("rita")
    owners = [(method, path) for method, path in closed(lab) if path.startswith(("/owner", "/api/owner"))]
    assert len(owners) > 12
    for method, path in owners:
        assert rita.request(method, filled(path)).status_code == 403, (method, path)
    assert rita.get("/owner/").status_code == rita.get("/api/owner/x").status_code == 403
    assert lab.enter("olga", "owner").get("/owner").status_code == 200


def test_what_changes_something_needs_the_forms_token(lab: Lab):
    (query,) = lab.ask()
    olga = lab.enter("olga", "owner")
    old = olga.headers.pop("x-csrf-token")
    other = lab.enter("rita").headers["x-csrf-token"]
    for method, path in closed(lab):
        if method in ("GET", "HEAD"):
            continue
        wrong: list[Any] = [{}, {"x-csrf-token": ""}, {"x-csrf-token": other}, {"x-csrf-token": "é".encode()}]
        for token in wrong:
            assert olga.request(method, filled(path), headers=token).status_code == 403, (method, path, token)
        assert olga.request(method, filled(path), data={"csrf": other}).status_code == 403
    foreign = {"x-csrf-token": old, "origin": "https://elsewhere.example"}
    assert olga.post("/api/judgements", json=answer(query.id), headers=foreign).status_code == 403
    assert (
        olga.post("/api/judgements", json=answer(query.id), headers={"x-csrf-token": old, "sec-fetch-site": "cross-site"}).status_code
        == 403
    )
    assert olga.post("/logout", data={"csrf": old}).status_code == 303
    again = lab.enter("olga")
    again.headers["x-csrf-token"] = old  # replayed in a later session
    assert again.post("/api/judgements", json=answer(query.id)).status_code == 403
    assert lab.room.store.judgements() == []


def test_another_raters_answers_are_out_of_reach(lab: Lab):
    (query,) = lab.ask()
    ann, bob = lab.enter("ann"), lab.enter("bob")
    assert ann.post("/api/judgements", json=answer(query.id)).json()["outcomes"] == [{"id": "j1", "status": "new"}]
    for theft in (answer(query.id, "j2", supersedes="j1"), answer(query.id, "j1"), answer(query.id, "j1", "right")):
        (outcome,) = bob.post("/api/judgements", json=theft).json()["outcomes"]
        assert outcome["status"] == "refused"
    assert bob.post("/api/judgements", json={"judgements": [answer(query.id)["judgements"][0] | {"rater": "ann"}]}).status_code == 422
    (kept,) = lab.room.store.judgements()
    assert (kept.rater, kept.answer) == (lab.account("ann").id, "left")


class TestEntering:
    def test_by_name_and_password(self, lab: Lab):
        lab.account("ann")
        wrong = lab.client.post("/login", data={"name": "ann", "password": "wrong"})
        unknown = lab.client.post("/login", data={"name": "nobody", "password": "wrong"})
        assert wrong.status_code == unknown.status_code == 401
        assert "do not belong together" in wrong.text and "do not belong together" in unknown.text
        entered = lab.client.post("/login", data={"name": "ann", "password": PASSWORD})
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie and "secure" not in cookie
        assert lab.client.get("/rate").status_code == 200
        assert lab.client.post("/logout", data={"csrf": csrf(lab.client.get("/account").text)}).status_code == 303
        assert lab.client.get("/rate").status_code == 401

    def test_a_cookie_travels_by_https_only_where_there_is_https(self, tmp_path: Path):
        app = create_app(Settings(f"sqlite:///{tmp_path / 'l.sqlite'}", tmp_path / "clips", accounts=True, tls=True))
        with TestClient(app, follow_redirects=False) as client:
            app.state.room.accounts.create("ann", PASSWORD, "rater")
            assert "secure" in client.post("/login", data={"name": "ann", "password": PASSWORD}).headers["set-cookie"].lower()

    def test_guessing_is_slow(self, lab: Lab):
        codes = [lab.client.post("/login", data={"name": "ann", "password": "x" * 12}).status_code for _ in range(25)]
        assert codes[:20] == [401] * 20 and codes[-1] == 429

    def test_an_invitation_makes_one_account(self, lab: Lab):
        link = f"/invite/{lab.room.accounts.invite('rater')}"
        assert "Choose a name" in lab.client.get(link).text
        form = {"name": "eve", "password": "long enough", "consent": "yes"}
        for change, sentence in (
            ({"password": "short"}, "10 to 256 characters"),
            ({"consent": ""}, "consent is needed"),
            ({"name": "a b"}, "a name has"),
        ):
            refused = lab.client.post(link, data=form | change)
            assert refused.status_code == 400 and sentence in refused.text
        assert lab.client.post(link, data=form).status_code == 303
        eve = lab.room.accounts.named("eve")
        assert eve is not None and eve.role == "rater" and eve.consented_at is not None
        again = TestClient(lab.app, follow_redirects=False).post(link, data=form | {"name": "eva"})
        assert again.status_code == 400 and "used, expired or never was" in again.text
        assert lab.client.get("/invite/wrong").status_code == 404

    def test_a_taken_name_leaves_the_link_good(self, lab: Lab):
        lab.account("eve")
        token = lab.room.accounts.invite("rater")
        with pytest.raises(AccountError, match='the name "eve" is taken'):
            lab.room.accounts.accept(token, "eve", "long enough", True)
        assert lab.room.accounts.accept(token, "eva", "long enough", True).name == "eva"

    def test_the_first_owner_by_a_link_that_works_once(self, lab: Lab):
        link = owner_link(lab.app)
        assert link is not None
        assert lab.client.post(link, data={"name": "olga", "password": "long enough", "consent": "yes"}).status_code == 303
        assert lab.client.get("/owner").status_code == 200
        assert owner_link(lab.app) is None

    def test_at_home_by_the_printed_link_and_this_machines_names_only(self, tmp_path: Path):
        app = create_app(Settings(f"sqlite:///{tmp_path / 'l.sqlite'}", tmp_path / "clips"))
        with TestClient(app, base_url="http://127.0.0.1:8765", follow_redirects=False) as client:
            assert client.get("/rate").status_code == 401
            assert "printed" in client.get("/login").text
            link = home_link(app)
            assert client.get(link).headers["location"] == "/" and client.get("/rate").status_code == 200
            assert client.get("/rate", headers={"host": "evil.example"}).status_code == 421
            assert TestClient(app, base_url="http://localhost").get(link, follow_redirects=False).status_code == 303

    def test_a_program_needs_no_form(self, lab: Lab):
        (query,) = lab.ask()
        assert lab.program().post("/api/judgements", json=answer(query.id)).status_code == 200


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" content="([^"]+)"', page)
    assert found is not None
    return found[1]


class TestLimits:
    def test_a_large_body_is_refused_before_it_is_read(self, lab: Lab):
        ann = lab.enter("ann")
        told = ann.post("/api/judgements", content=b"", headers={"content-length": str(2 * 2**30)})
        assert told.status_code == 413
        sent = 0

        def endless():
            nonlocal sent
            while sent < 2 * 2**30:
                sent += 2**16
                yield b"x" * 2**16

        assert lab.client.post("/login", content=endless()).status_code == 413
        assert (
            ann.post("/api/owner/import", content=b"x" * (LARGEST_BODY + 1)).status_code == 403
        )  # imports may be larger, but are the owner's

    def test_a_bucket_fills_steadily(self):
        now = [0.0]
        pace = Pace(per_second=2.0, burst=3.0, clock=lambda: now[0])
        assert [pace.permits("ann") for _ in range(4)] == [True, True, True, False]
        assert pace.permits("bob")
        now[0] = 1.0
        assert [pace.permits("ann") for _ in range(3)] == [True, True, False]

    def test_every_answer_carries_the_policy(self, lab: Lab):
        for client, path in (
            (lab.client, "/login"),
            (lab.client, "/nowhere"),
            (lab.enter("ann"), "/rate"),
            (lab.client, "/static/room.css"),
        ):
            headers = client.get(path).headers
            for name, value in HEADERS.items():
                assert headers[name.decode()] == value.decode(), path


def test_a_deleted_account_is_gone_with_its_answers(lab: Lab):
    queries = lab.ask(2)
    ann, bob = lab.enter("ann"), lab.enter("bob")
    ann.post("/api/judgements", json=answer(queries[0].id))
    bob.post("/api/judgements", json=answer(queries[1].id, "j2"))
    number = lab.account("ann").id
    assert ann.post("/account/delete", data={}).status_code == 400
    assert ann.post("/account/delete", data={"sure": "yes"}).status_code == 303
    assert ann.get("/rate").status_code == 401
    olga = lab.enter("olga", "owner")
    exported = olga.get("/api/owner/export").text
    assert number not in exported and '"j1"' not in exported and '"j2"' in exported
    assert olga.get("/api/owner/judgements", params={"group": "run/seed-0"}).json()["erased"] == ["j1"]
    assert "deleted the account" in olga.get("/owner/log").text
