"""The tables of the store. Rows of the first four are only ever added; those of the rating room below them may change.

A deletion of a rater's data is the one exception: judgements go, and an erasure says that they went.
"""

import sqlalchemy as sa

METADATA = sa.MetaData()
COMMITS = sa.Table(
    "commits",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""One row: the number of the newest committed row of the other tables."""
SEGMENTS = sa.Table(
    "segments",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("location", sa.Text, primary_key=True),
    sa.Column("game", sa.Text, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
)
TEXTS = sa.Table(
    "texts",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
)
QUERIES = sa.Table(
    "queries",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("items", sa.JSON, nullable=False),
    sa.Column("group", sa.Text, nullable=False, index=True),
    sa.Column("sampler", sa.Text, nullable=False),
    sa.Column("policy_step", sa.BigInteger, nullable=False),
    sa.Column("prompt", sa.Text),
    sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
)
JUDGEMENTS = sa.Table(
    "judgements",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), nullable=False, index=True),
    sa.Column("rater", sa.Text, nullable=False, index=True),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("shown_order", sa.JSON(none_as_null=True)),
    sa.Column("shown_at", sa.Double),
    sa.Column("answered_at", sa.Double),
    sa.Column("supersedes", sa.Text, sa.ForeignKey("judgements.id"), unique=True),
    sa.Column("note", sa.Text),
    sa.Column("confidence", sa.Integer),
    sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
)
ERASURES = sa.Table(
    "erasures",
    METADATA,
    sa.Column("judgement", sa.Text, primary_key=True),
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), nullable=False),
    sa.Column("erased_at", sa.Double, nullable=False),
    sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
)
"""What is left of a judgement whose rater asked for deletion: that it was there, not who gave it nor what it said."""

PROJECTS = sa.Table(
    "projects",
    METADATA,
    sa.Column("group", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("instructions", sa.Text, nullable=False),
    sa.Column("raters", sa.Integer, nullable=False),
    sa.Column("repeats", sa.Double, nullable=False),
    sa.Column("gold", sa.Double, nullable=False),
    sa.Column("quota", sa.Integer),
    sa.Column("limit", sa.Integer, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
)
"""How a group of queries is asked; a group without a row is asked by the defaults of `queue.Project`."""
WAITING = sa.Table(
    "waiting",
    METADATA,
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("group", sa.Text, nullable=False, index=True),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("commit_number", sa.BigInteger, nullable=False),
    sa.Column("busy_until", sa.Double, nullable=False, server_default="0"),
    sa.Index("waiting_order", "turn", "commit_number"),
)
"""Queries that may still need an answer: the smallest `turn` (minus the policy's step) first, then in the sampler's order.

It only says where to look. Whether a query is answered, its judgements say; until `busy_until` enough raters look at it.
"""
LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("rater", sa.Text, primary_key=True, index=True),
    sa.Column("expires_at", sa.Double, nullable=False),
)
WITHDRAWALS = sa.Table(
    "withdrawals",
    METADATA,
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("withdrawn_at", sa.Double, nullable=False),
)
"""Queries that nobody needs to answer any more."""
REPEATS = sa.Table(
    "repeats",
    METADATA,
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("original", sa.Text, sa.ForeignKey("queries.id"), nullable=False),
    sa.Column("rater", sa.Text, nullable=False, index=True),
)
"""Queries that ask one rater a second time, to see whether the answer stays. No lesson learns from them."""
GOLD = sa.Table(
    "gold",
    METADATA,
    sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("answer", sa.Text, nullable=False),
)
"""Queries whose answer the owner knows; every rater meets them."""

ACCOUNTS = sa.Table(
    "accounts",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("password", sa.Text),
    sa.Column("consented_at", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
)
"""`password` is an argon2 hash; an account without one enters by links only."""
SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("program", sa.Boolean, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
"""`hash` is that of the token, so that a stolen database opens no door. `program`: the token travels in a header."""
INVITATIONS = sa.Table(
    "invitations",
    METADATA,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id")),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
)
"""`account`: whose door the link opens without a password; null where it makes a new account, once."""
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
)
