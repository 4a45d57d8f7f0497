"""Texts as items, notes and confidence; and all that the rating room needs: queue, accounts, projects, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From a store of queries and judgements; what nobody has answered yet waits."""
    op.add_column("queries", sa.Column("prompt", sa.Text))
    op.add_column("judgements", sa.Column("note", sa.Text))
    op.add_column("judgements", sa.Column("confidence", sa.Integer))
    op.create_index(op.f("ix_judgements_rater"), "judgements", ["rater"])
    op.create_table(
        "texts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "erasures",
        sa.Column("judgement", sa.Text, primary_key=True),
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), nullable=False),
        sa.Column("erased_at", sa.Double, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "projects",
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
    op.create_table(
        "waiting",
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("group", sa.Text, nullable=False, index=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.Column("busy_until", sa.Double, nullable=False, server_default="0"),
        sa.Index("waiting_order", "turn", "commit_number"),
    )
    op.create_table(
        "leases",
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("rater", sa.Text, primary_key=True, index=True),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "withdrawals",
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("withdrawn_at", sa.Double, nullable=False),
    )
    op.create_table(
        "repeats",
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("original", sa.Text, sa.ForeignKey("queries.id"), nullable=False),
        sa.Column("rater", sa.Text, nullable=False, index=True),
    )
    op.create_table(
        "gold",
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), primary_key=True),
        sa.Column("answer", sa.Text, nullable=False),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("password", sa.Text),
        sa.Column("consented_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("csrf", sa.Text, nullable=False),
        sa.Column("program", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("account", sa.Text, sa.ForeignKey("accounts.id")),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
    )
    op.execute(
        sa.text(
            'INSERT INTO waiting (query, "group", turn, commit_number) '
            'SELECT id, "group", -policy_step, commit_number FROM queries '
            "WHERE NOT EXISTS (SELECT 1 FROM judgements WHERE judgements.query = queries.id)"
        )
    )
