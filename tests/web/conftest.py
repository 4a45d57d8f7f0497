"""A rating room within the test's process, with an owner, raters, and something to ask."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tutelage.feedback.query import Query, TextRecord, new_query, text_hash
from tutelage.web.accounts import Account
from tutelage.web.app import Settings, create_app
from tutelage.web.guard import COOKIE
from tutelage.web.room import Room

PASSWORD = "correct horse battery"
HTML = {"accept": "text/html"}


@dataclass
class Lab:
    """A room with accounts."""

    app: FastAPI
    client: TestClient
    """Nobody in particular."""

    @property
    def room(self) -> Room:
        return self.app.state.room

    def account(self, name: str, role: str = "rater") -> Account:
        return self.room.accounts.named(name) or self.room.accounts.create(name, PASSWORD, role, consented=True)

    def enter(self, name: str, role: str = "rater") -> TestClient:
        """Signed in as a browser is, with the token that its pages send along."""
        token = self.room.accounts.open(self.account(name, role))
        session = self.room.accounts.session(token)
        assert session is not None
        return TestClient(self.app, cookies={COOKIE: token}, headers={"x-csrf-token": session.csrf}, follow_redirects=False)

    def program(self, name: str = "olga", role: str = "owner") -> TestClient:
        """A script with a token."""
        token = self.room.accounts.open(self.account(name, role), program=True)
        return TestClient(self.app, headers={"authorization": f"Bearer {token}"}, follow_redirects=False)

    def ask(self, count: int = 1, kind: str = "pair", group: str = "run/seed-0") -> list[Query]:
        """Queries about texts: no world is needed to show them."""
        width = {"pair": 2, "rank": 5, "rate": 1, "flag": 1}[kind]
        queries: list[Query] = []
        for number in range(count):
            texts = [TextRecord(text_hash(text), text) for text in (f"{kind} {number}, text {i}" for i in range(width))]
            queries.append(new_query(kind, [text.id for text in texts], group, "uniform", 0))
            self.room.store.add([*texts, queries[-1]])
        return queries


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    app = create_app(Settings(f"sqlite:///{tmp_path / 'labels.sqlite'}", tmp_path / "clips", accounts=True))
    with TestClient(app, follow_redirects=False) as client:
        yield Lab(app, client)


def answer(query: str, id: str = "j1", given: str = "left", **more: Any) -> dict[str, Any]:
    return {"judgements": [{"id": id, "query": query, "answer": given} | more]}
