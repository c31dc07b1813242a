"""People and sessions, what keys are limited to, what was used each day; holds know their key and their keeper.

The generations get a row number of their own, which both databases count.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEPT = (
    "order_id, id, account, key, model, node, charge, in_units, out_units, finish, created_at_ms, "
    "order_envelope, receipt_envelope, countersign_envelope"
)


def upgrade() -> None:
    _add_people()
    _add_limits()
    _add_to_holds()
    _renew_generations()
    op.create_table(
        "uses",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("account", "day", "key", "service", "model", "app")),
        *(sa.Column(name, WHOLE, nullable=False) for name in ("requests", "in_units", "out_units", "charge")),
    )
    op.create_index("uses_by_key", "uses", ["key", "day"])


def _add_people() -> None:
    op.add_column("accounts", sa.Column("email", sa.Text))
    op.add_column("accounts", sa.Column("password_hash", sa.Text))
    op.add_column("accounts", sa.Column("is_admin", sa.Boolean, nullable=False, server_default="0"))
    op.add_column("accounts", sa.Column("disabled_at_ms", WHOLE))
    op.add_column("accounts", sa.Column("referred_by", sa.Text))
    op.create_index("accounts_by_email", "accounts", ["email"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("created_at_ms", WHOLE, nullable=False),
        sa.Column("expires_at_ms", WHOLE, nullable=False),
    )
    op.create_index("sessions_by_account", "sessions", ["account"])


def _add_limits() -> None:
    for name, default in (("kind", "base"), ("name", ""), ("spend_reset", "never")):
        op.add_column("keys", sa.Column(name, sa.Text, nullable=False, server_default=default))
    for name in ("services", "models"):
        op.add_column("keys", sa.Column(name, sa.JSON, nullable=False, server_default="[]"))
    for name in ("spend_limit", "rpm", "tpm", "parallel_max", "old_until_ms"):
        op.add_column("keys", sa.Column(name, WHOLE))
    op.add_column("keys", sa.Column("old_digest", sa.LargeBinary))
    op.create_index("keys_by_account", "keys", ["account"])
    op.create_table(
        "budgets",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("since_ms", WHOLE, nullable=False),
        sa.Column("spent", WHOLE, nullable=False),
    )
    op.create_table(
        "rates",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("empty_at_us", WHOLE, nullable=False),
    )


def _add_to_holds() -> None:
    for name in ("key", "request"):
        op.add_column("holds", sa.Column(name, sa.Text, nullable=False, server_default=""))
    op.add_column("holds", sa.Column("keeper", WHOLE, nullable=False, server_default="0"))
    is_open = sa.text("state = 'open'")
    op.create_index("open_holds_by_key", "holds", ["key"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "keepers",
        sa.Column("id", WHOLE, primary_key=True, autoincrement=True),
        sa.Column("started_at_ms", WHOLE, nullable=False),
    )


def _renew_generations() -> None:
    op.drop_index("generations_by_id", "generations")
    op.rename_table("generations", "generations_before")
    texts = ("id", "account", "key", "model", "node")
    op.create_table(
        "generations",
        sa.Column("row", WHOLE, primary_key=True, autoincrement=True),
        sa.Column("order_id", sa.Text, nullable=False, unique=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        *(sa.Column(name, WHOLE, nullable=False) for name in ("charge", "in_units", "out_units")),
        sa.Column("finish", sa.Text, nullable=False),
        sa.Column("created_at_ms", WHOLE, nullable=False),
        *(
            sa.Column(f"{name}_envelope", sa.LargeBinary, nullable=False)
            for name in ("order", "receipt", "countersign")
        ),
        sa.Column("service", sa.Text, nullable=False, server_default="chat"),
        sa.Column("app", sa.Text, nullable=False, server_default=""),
        sa.Column("origin", sa.Text, nullable=False, server_default=""),
        sa.Column("streamed", sa.Boolean, nullable=False, server_default="0"),
    )
    order = "rowid" if op.get_bind().dialect.name == "sqlite" else "created_at_ms"
    op.execute(f"INSERT INTO generations ({KEPT}) SELECT {KEPT} FROM generations_before ORDER BY {order}")
    op.drop_table("generations_before")
    op.create_index("generations_by_id", "generations", ["id", "account"])
    op.create_index("generations_by_account", "generations", ["account", "row"])


def downgrade() -> None:
    raise NotImplementedError("a database goes forward only: restore a backup that was made before")
