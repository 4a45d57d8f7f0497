"""Run by Alembic inside the transaction that `Store` has begun: a migration happens as a whole or not at all."""

from alembic import context

from tutelage.feedback.store import VERSION_TABLE
from tutelage.feedback.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
