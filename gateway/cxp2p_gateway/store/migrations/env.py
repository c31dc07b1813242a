"""What Alembic runs the steps in: the connection, and the transaction, of whoever opens the store."""

from __future__ import annotations

from alembic import context

from cxp2p_gateway.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
