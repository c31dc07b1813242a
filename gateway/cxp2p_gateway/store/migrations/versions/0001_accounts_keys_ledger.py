"""Accounts, keys, the ledger's tables and what was signed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounts", sa.Column("id", sa.Text, primary_key=True), sa.Column("created_at_ms", WHOLE, nullable=False)
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created_at_ms", WHOLE, nullable=False),
        sa.Column("expires_at_ms", WHOLE),
        sa.Column("revoked_at_ms", WHOLE),
        sa.Column("used_at_ms", WHOLE),
    )
    _create_ledger()
    op.create_table("generations", sa.Column("order_id", sa.Text, primary_key=True), *generation_columns())
    op.create_index("generations_by_id", "generations", ["id", "account"])


def _create_ledger() -> None:
    op.create_table(
        "balances",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("balance", WHOLE, nullable=False),
        sa.Column("held", WHOLE, nullable=False),
        sa.CheckConstraint("held >= 0 AND (balance >= held OR id = 'network')", name="not_overdrawn"),
    )
    op.create_table(
        "transfers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("amount", WHOLE, nullable=False),
        sa.Column("at_ms", WHOLE, nullable=False),
        sa.CheckConstraint("amount >= 0 AND source <> target", name="moves"),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("amount", WHOLE, nullable=False),
        sa.Column("expires_at_ms", WHOLE, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("charge", WHOLE, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("at_ms", WHOLE, nullable=False),
        sa.CheckConstraint("charge BETWEEN 0 AND amount", name="charge_within_hold"),
    )
    is_open = sa.text("state = 'open'")
    op.create_index("open_holds", "holds", ["expires_at_ms"], sqlite_where=is_open, postgresql_where=is_open)


def generation_columns() -> list[sa.Column[Any]]:
    texts = ("id", "account", "key", "model", "node")
    numbers = ("charge", "in_units", "out_units")
    envelopes = ("order_envelope", "receipt_envelope", "countersign_envelope")
    return [
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        *(sa.Column(name, WHOLE, nullable=False) for name in numbers),
        sa.Column("finish", sa.Text, nullable=False),
        sa.Column("created_at_ms", WHOLE, nullable=False),
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in envelopes),
    ]


def downgrade() -> None:
    raise NotImplementedError("a database goes forward only: restore a backup that was made before")
