"""Orders are kept from before they leave until their receipt; what peers signed that they should not have is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("lane", sa.LargeBinary, nullable=False),
        sa.Column("seq", WHOLE, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("sent_at_ms", WHOLE, nullable=False),
        sa.Column("units", WHOLE),
        sa.Column("output_commit", sa.LargeBinary),
        sa.Column("cancelled", sa.Boolean, nullable=False, server_default="0"),
        sa.Column("fault", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("orders_by_age", "orders", ["sent_at_ms", "order_id"])
    op.create_table(
        "evidence",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("wrong", sa.Text, nullable=False),
        sa.Column("says", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("at_ms", WHOLE, nullable=False),
    )
    op.create_index("evidence_by_peer", "evidence", ["peer", "wrong"])
    op.create_index("evidence_by_age", "evidence", ["at_ms", "id"])
    is_late = sa.text("account = 'network'")
    op.create_index(
        "late_generations", "generations", ["node", "created_at_ms"], sqlite_where=is_late, postgresql_where=is_late
    )


def downgrade() -> None:
    raise NotImplementedError("a database goes forward only: restore a backup that was made before")
