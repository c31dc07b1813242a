"""The tables as they are now. How they came to be so stands in `migrations/`; a test holds both together.

The checks are a last line behind the rules: the database itself refuses an overdrawn account.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from cxp2p.ledger import NETWORK, HoldState

METADATA: Final = MetaData()
WHOLE: Final = BigInteger().with_variant(Integer(), "sqlite")  # 64 bits; SQLite counts rows only in its INTEGER

BYTEWISE: Final = Text().with_variant(Text(collation="C"), "postgresql")  # in the order of its bytes, as Python sorts
IN_ORDER: Final = ("node", "lane", "seq")  # as the receipts of an epoch are

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("created_at_ms", WHOLE, nullable=False),
    Column("email", Text),
    Column("password_hash", Text),
    Column("is_admin", Boolean, nullable=False, server_default="0"),
    Column("disabled_at_ms", WHOLE),
    Column("referred_by", Text),
)
SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("account", Text, nullable=False),
    Column("created_at_ms", WHOLE, nullable=False),
    Column("expires_at_ms", WHOLE, nullable=False),
)
KEYS: Final = Table(
    "keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at_ms", WHOLE, nullable=False),
    Column("expires_at_ms", WHOLE),
    Column("revoked_at_ms", WHOLE),
    Column("used_at_ms", WHOLE),
    Column("kind", Text, nullable=False, server_default="base"),
    Column("name", Text, nullable=False, server_default=""),
    Column("spend_limit", WHOLE),
    Column("spend_reset", Text, nullable=False, server_default="never"),
    Column("services", JSON, nullable=False, server_default="[]"),
    Column("models", JSON, nullable=False, server_default="[]"),
    Column("rpm", WHOLE),
    Column("tpm", WHOLE),
    Column("parallel_max", WHOLE),
    Column("old_digest", LargeBinary),
    Column("old_until_ms", WHOLE),
)
BUDGETS: Final = Table(
    "budgets",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("since_ms", WHOLE, nullable=False),
    Column("spent", WHOLE, nullable=False),
)
RATES: Final = Table(
    "rates",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("empty_at_us", WHOLE, nullable=False),
)
BALANCES: Final = Table(
    "balances",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("balance", WHOLE, nullable=False),
    Column("held", WHOLE, nullable=False),
    CheckConstraint(f"held >= 0 AND (balance >= held OR id = '{NETWORK}')", name="not_overdrawn"),
)
TRANSFERS: Final = Table(
    "transfers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("amount", WHOLE, nullable=False),
    Column("at_ms", WHOLE, nullable=False),
    CheckConstraint("amount >= 0 AND source <> target", name="moves"),
)
HOLDS: Final = Table(
    "holds",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("amount", WHOLE, nullable=False),
    Column("expires_at_ms", WHOLE, nullable=False),
    Column("state", Text, nullable=False),
    Column("charge", WHOLE, nullable=False),
    Column("target", Text, nullable=False),
    Column("at_ms", WHOLE, nullable=False),
    Column("key", Text, nullable=False, server_default=""),
    Column("request", Text, nullable=False, server_default=""),
    Column("keeper", WHOLE, nullable=False, server_default="0"),
    CheckConstraint("charge BETWEEN 0 AND amount", name="charge_within_hold"),
)
KEEPERS: Final = Table(
    "keepers",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("started_at_ms", WHOLE, nullable=False),
)
GENERATIONS: Final = Table(
    "generations",
    METADATA,
    Column("row", WHOLE, primary_key=True, autoincrement=True),  # rows are only ever taken from the start
    Column("order_id", Text, nullable=False, unique=True),
    Column("id", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("charge", WHOLE, nullable=False),
    Column("in_units", WHOLE, nullable=False),
    Column("out_units", WHOLE, nullable=False),
    Column("finish", Text, nullable=False),
    Column("created_at_ms", WHOLE, nullable=False),
    Column("order_envelope", LargeBinary, nullable=False),
    Column("receipt_envelope", LargeBinary, nullable=False),
    Column("countersign_envelope", LargeBinary, nullable=False),
    Column("service", Text, nullable=False, server_default="chat"),
    Column("app", Text, nullable=False, server_default=""),
    Column("origin", Text, nullable=False, server_default=""),
    Column("streamed", Boolean, nullable=False, server_default="0"),
)
USES: Final = Table(
    "uses",
    METADATA,
    Column("account", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("service", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("app", Text, primary_key=True),
    Column("requests", WHOLE, nullable=False),
    Column("in_units", WHOLE, nullable=False),
    Column("out_units", WHOLE, nullable=False),
    Column("charge", WHOLE, nullable=False),
)
ORDERS: Final = Table(
    "orders",
    METADATA,
    Column("order_id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("lane", LargeBinary, nullable=False),
    Column("seq", WHOLE, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("sent_at_ms", WHOLE, nullable=False),
    Column("units", WHOLE),
    Column("output_commit", LargeBinary),
    Column("cancelled", Boolean, nullable=False, server_default="0"),
    Column("fault", Text, nullable=False, server_default=""),
)
EVIDENCE: Final = Table(
    "evidence",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("peer", Text, nullable=False),
    Column("wrong", Text, nullable=False),
    Column("says", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("at_ms", WHOLE, nullable=False),
)

EPOCHS: Final = Table(
    "epochs",
    METADATA,
    Column("gateway", Text, primary_key=True),
    Column("epoch", WHOLE, primary_key=True, autoincrement=False),
    Column("closed_at_ms", WHOLE, nullable=False),
    Column("count", WHOLE, nullable=False),
    Column("sum", WHOLE, nullable=False),
    Column("envelope", LargeBinary),
    Column("is_whole", Boolean, nullable=False),
)
EPOCH_ENTRIES: Final = Table(
    "epoch_entries",
    METADATA,
    Column("order_id", Text, primary_key=True),
    Column("receipt_hash", LargeBinary, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("epoch", WHOLE, nullable=False),
    Column("epoch_max", WHOLE, nullable=False),
    Column("node", BYTEWISE, nullable=False),
    Column("lane", LargeBinary, nullable=False),
    Column("seq", WHOLE, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
)
EPOCH_BLOCKS: Final = Table(
    "epoch_blocks",
    METADATA,
    Column("gateway", Text, primary_key=True),
    Column("epoch", WHOLE, primary_key=True, autoincrement=False),
    Column("number", WHOLE, primary_key=True, autoincrement=False),
    Column("node", Text, nullable=False),
    Column("lane", LargeBinary, nullable=False),
    Column("seq", WHOLE, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)

_IS_OPEN: Final = HOLDS.c.state == HoldState.OPEN.value
Index("open_holds", HOLDS.c.expires_at_ms, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
Index("open_holds_by_key", HOLDS.c.key, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
Index("generations_by_id", GENERATIONS.c.id, GENERATIONS.c.account)
Index("generations_by_account", GENERATIONS.c.account, GENERATIONS.c.row)
_IS_LATE: Final = GENERATIONS.c.account == NETWORK
Index(
    "late_generations",
    GENERATIONS.c.node,
    GENERATIONS.c.created_at_ms,
    sqlite_where=_IS_LATE,
    postgresql_where=_IS_LATE,
)
Index("orders_by_age", ORDERS.c.sent_at_ms, ORDERS.c.order_id)
Index("evidence_by_peer", EVIDENCE.c.peer, EVIDENCE.c.wrong)
Index("evidence_by_age", EVIDENCE.c.at_ms, EVIDENCE.c.id)
Index("epochs_by_number", EPOCHS.c.epoch)
Index("epoch_entries_in_order", *(EPOCH_ENTRIES.c[name] for name in ("gateway", "epoch", *IN_ORDER)), unique=True)
Index("epoch_entries_by_receipt", EPOCH_ENTRIES.c.receipt_hash)
Index("accounts_by_email", ACCOUNTS.c.email, unique=True)
Index("keys_by_account", KEYS.c.account)
Index("sessions_by_account", SESSIONS.c.account)
Index("uses_by_key", USES.c.key, USES.c.day)


def columns_of(table: Table, kind: type[Any]) -> tuple[Column[Any], ...]:
    """The columns that a dataclass is read from: those of its fields' names."""
    return tuple(table.c[each.name] for each in fields(kind))


def values_of(row: Any) -> dict[str, Any]:
    """What a dataclass is written as, by column."""
    return {each.name: getattr(row, each.name) for each in fields(row)}
