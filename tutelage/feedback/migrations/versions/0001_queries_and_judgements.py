"""Queries, judgements, the places of segments, and the counter that numbers commits."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From an empty database."""
    commits = op.create_table(
        "commits",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(commits, [{"id": 1, "number": 0}])
    op.create_table(
        "segments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("location", sa.Text, primary_key=True),
        sa.Column("game", sa.Text, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "queries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("items", sa.JSON, nullable=False),
        sa.Column("group", sa.Text, nullable=False, index=True),
        sa.Column("sampler", sa.Text, nullable=False),
        sa.Column("policy_step", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "judgements",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("query", sa.Text, sa.ForeignKey("queries.id"), nullable=False, index=True),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("shown_order", sa.JSON(none_as_null=True)),
        sa.Column("shown_at", sa.Double),
        sa.Column("answered_at", sa.Double),
        sa.Column("supersedes", sa.Text, sa.ForeignKey("judgements.id"), unique=True),
        sa.Column("commit_number", sa.BigInteger, nullable=False, unique=True),
    )
