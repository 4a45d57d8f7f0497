"""Who may come in: accounts, sessions, invitations, and the log of what owners did.

Passwords are kept as argon2 hashes, tokens as SHA-256: whoever steals the database cannot come in with what it holds.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from tutelage.feedback.query import FeedbackError
from tutelage.feedback.store import Store
from tutelage.feedback.tables import ACCOUNTS, AUDIT, INVITATIONS, SESSIONS

SESSION_SECONDS = 12 * 3600.0
PROGRAM_SECONDS = 365 * 24 * 3600.0
INVITATION_SECONDS = 7 * 24 * 3600.0
REMEMBERED_SECONDS = 2.0
"""How long a session is not looked up again; another server on the same store may have ended it so long ago."""
ROLES = ("owner", "rater")
NAME = re.compile(r"[\w.@+-]{1,64}")
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 256


class AccountError(FeedbackError):
    """An account that cannot be made or entered; one sentence for whoever tried."""


@dataclass(frozen=True)
class Account:
    """One person or program."""

    id: str
    """What stands in the judgements: it tells raters apart and names nobody."""
    name: str
    role: str
    consented_at: float | None


@dataclass(frozen=True)
class Session:
    """A door that is open for a while."""

    account: Account
    csrf: str
    """What a form must bring along, so that another site cannot send it."""
    program: bool
    """The token came in a header, which no other site can make a browser send."""


@dataclass(frozen=True)
class Invitation:
    """A link that is still good."""

    role: str
    account: str | None
    """Whose door it opens; None: it makes a new account."""


class Accounts:
    """Accounts of one store."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time, session_seconds: float = SESSION_SECONDS) -> None:
        self.store, self.clock, self.session_seconds = store, clock, session_seconds
        self._hasher = PasswordHasher()
        self._known: dict[tuple[str, bool], tuple[Session, float]] = {}
        self._nobody = self._hasher.hash(secrets.token_urlsafe())  # so that an unknown name takes as long as a wrong password

    def create(self, name: str, password: str | None, role: str, consented: bool = False) -> Account:
        """A new account. Raises AccountError for a name that is taken or malformed, and for a password that is too short."""
        if not NAME.fullmatch(name):
            raise AccountError("a name has 1 to 64 letters, digits, or any of . _ @ + -")
        if password is not None and not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise AccountError(f"a password of {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters was expected, not of {len(password)}")
        if role not in ROLES:
            raise AccountError(f"role {role[:20]!r} is none of {', '.join(ROLES)}")
        now, hashed = self.clock(), None if password is None else self._hasher.hash(password)
        account = Account(secrets.token_hex(8), name, role, now if consented else None)
        row = {"id": account.id, "name": name, "role": role, "password": hashed, "consented_at": account.consented_at, "created_at": now}
        with self.store.transaction(write=True) as connection:
            self.store.next_number(connection)
            if connection.execute(sa.select(ACCOUNTS.c.id).where(ACCOUNTS.c.name == name)).first() is not None:
                raise AccountError(f'the name "{name}" is taken; choose another')
            connection.execute(sa.insert(ACCOUNTS).values(row))
        return account

    def named(self, name: str) -> Account | None:
        """The account of that name."""
        return next((account for account in self.all() if account.name == name), None)

    def all(self) -> list[Account]:
        """Every account, by name."""
        with self.store.transaction() as connection:
            return [_account(row) for row in connection.execute(sa.select(ACCOUNTS).order_by(ACCOUNTS.c.name))]

    def login(self, name: str, password: str) -> Account:
        """Raises AccountError, with the same words for an unknown name and a wrong password."""
        with self.store.transaction() as connection:
            row = connection.execute(sa.select(ACCOUNTS).where(ACCOUNTS.c.name == name)).first()
        kept = self._nobody if row is None or row.password is None else row.password
        try:
            self._hasher.verify(kept, password[: LONGEST_PASSWORD + 1])
        except (VerificationError, InvalidHashError):
            raise AccountError("this name and this password do not belong together") from None
        if row is None or row.password is None:
            raise AccountError("this name and this password do not belong together")
        return _account(row)

    def open(self, account: Account, program: bool = False) -> str:
        """A new session; returns its token. program: for a script, which keeps it and sends it in a header."""
        token, seconds = secrets.token_urlsafe(32), PROGRAM_SECONDS if program else self.session_seconds
        row = {"hash": _hash(token), "account": account.id, "csrf": secrets.token_urlsafe(24), "program": program}
        with self.store.transaction(write=True) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.expires_at <= self.clock()))
            connection.execute(sa.insert(SESSIONS).values(row | {"expires_at": self.clock() + seconds}))
        return token

    def session(self, token: str, program: bool = False) -> Session | None:
        """Whose it is; None for a token that is unknown, expired or of the other kind."""
        key, now = (_hash(token), program), self.clock()
        known = self._known.get(key)
        if known is not None and now < known[1]:
            return known[0]
        select = sa.select(ACCOUNTS, SESSIONS.c.csrf, SESSIONS.c.expires_at).join(SESSIONS, SESSIONS.c.account == ACCOUNTS.c.id)
        good = (SESSIONS.c.hash == key[0], SESSIONS.c.expires_at > now, SESSIONS.c.program.is_(program))
        with self.store.transaction() as connection:
            row = connection.execute(select.where(*good)).first()
        if row is None:
            return None
        if len(self._known) > 10_000:
            self._known.clear()
        session = Session(_account(row), row.csrf, program)
        self._known[key] = session, min(now + REMEMBERED_SECONDS, row.expires_at)
        return session

    def recalls(self, token: str, program: bool) -> bool:
        """Whether `session` would answer without asking the database."""
        known = self._known.get((_hash(token), program))
        return known is not None and self.clock() < known[1]

    def close(self, token: str) -> None:
        """Ends a session."""
        self._known.clear()
        with self.store.transaction(write=True) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.hash == _hash(token)))

    def invite(self, role: str, account: Account | None = None) -> str:
        """A link's token: for a new account of that role, once; or to the door of an existing account."""
        token = secrets.token_urlsafe(24)
        row = {"hash": _hash(token), "role": role, "account": account.id if account else None}
        with self.store.transaction(write=True) as connection:
            connection.execute(sa.insert(INVITATIONS).values(row | {"expires_at": self.clock() + INVITATION_SECONDS}))
        return token

    def invitation(self, token: str) -> Invitation | None:
        """What the link is good for; None where it is unknown, used or expired."""
        good = (INVITATIONS.c.hash == _hash(token), INVITATIONS.c.expires_at > self.clock(), INVITATIONS.c.used_at.is_(None))
        with self.store.transaction() as connection:
            row = connection.execute(sa.select(INVITATIONS.c.role, INVITATIONS.c.account).where(*good)).first()
        return None if row is None else Invitation(row.role, row.account)

    def accept(self, token: str, name: str, password: str, consented: bool) -> Account:
        """The new account that the link was for. Raises AccountError; the link then stays good."""
        invitation = self.invitation(token)
        if invitation is None or invitation.account is not None:
            raise AccountError("this invitation is used, expired or never was; ask the owner for another")
        if not consented:
            raise AccountError("your consent is needed: tick the box, or leave without an account")
        mine = sa.update(INVITATIONS).where(INVITATIONS.c.hash == _hash(token), INVITATIONS.c.used_at.is_(None))
        with self.store.transaction(write=True) as connection:  # before the account: of two who come at once one is refused
            if connection.execute(mine.values(used_at=self.clock())).rowcount != 1:
                raise AccountError("this invitation is used, expired or never was; ask the owner for another")
        try:
            return self.create(name, password, invitation.role, consented)
        except AccountError:
            with self.store.transaction(write=True) as connection:
                connection.execute(sa.update(INVITATIONS).where(INVITATIONS.c.hash == _hash(token)).values(used_at=None))
            raise

    def delete(self, account: Account) -> int:
        """An account with all its judgements, for ever; returns how many there were."""
        self._known.clear()
        with self.store.transaction(write=True) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.account == account.id))
            connection.execute(sa.delete(INVITATIONS).where(INVITATIONS.c.account == account.id))
            connection.execute(sa.delete(ACCOUNTS).where(ACCOUNTS.c.id == account.id))
        return self.store.erase(account.id, self.clock())

    def note(self, account: Account, action: str, about: str = "") -> None:
        """One line of the log of what was done by whom."""
        with self.store.transaction(write=True) as connection:
            connection.execute(sa.insert(AUDIT).values(at=self.clock(), account=account.id, action=action, about=about[:500]))

    def log(self, count: int = 100) -> list[tuple[float, str, str, str]]:
        """(Unix seconds, account, action, about), newest first."""
        select = sa.select(AUDIT.c.at, AUDIT.c.account, AUDIT.c.action, AUDIT.c.about).order_by(AUDIT.c.number.desc()).limit(count)
        with self.store.transaction() as connection:
            return [tuple(row) for row in connection.execute(select)]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _account(row: Any) -> Account:
    return Account(row.id, row.name, row.role, row.consented_at)
