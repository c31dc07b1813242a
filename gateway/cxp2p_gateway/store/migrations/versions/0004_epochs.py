"""Which receipts count for which epoch, the signed roots, and nodes of their trees."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "epochs",
        sa.Column("gateway", sa.Text, primary_key=True),
        sa.Column("epoch", WHOLE, primary_key=True, autoincrement=False),
        *(sa.Column(name, WHOLE, nullable=False) for name in ("closed_at_ms", "count", "sum")),
        sa.Column("envelope", sa.LargeBinary),
        sa.Column("is_whole", sa.Boolean, nullable=False),
    )
    op.create_index("epochs_by_number", "epochs", ["epoch"])
    op.create_table(
        "epoch_entries",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("receipt_hash", sa.LargeBinary, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("epoch", WHOLE, nullable=False),
        sa.Column("epoch_max", WHOLE, nullable=False),
        sa.Column("node", BYTEWISE, nullable=False),
        sa.Column("lane", sa.LargeBinary, nullable=False),
        sa.Column("seq", WHOLE, nullable=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
    )
    in_order = ["gateway", "epoch", "node", "lane", "seq"]
    op.create_index("epoch_entries_in_order", "epoch_entries", in_order, unique=True)
    op.create_index("epoch_entries_by_receipt", "epoch_entries", ["receipt_hash"])
    op.create_table(
        "epoch_blocks",
        sa.Column("gateway", sa.Text, primary_key=True),
        sa.Column("epoch", WHOLE, primary_key=True, autoincrement=False),
        sa.Column("number", WHOLE, primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("lane", sa.LargeBinary, nullable=False),
        sa.Column("seq", WHOLE, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("a database goes forward only: restore a backup that was made before")
