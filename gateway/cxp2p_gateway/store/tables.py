"""The tables of the store, and `Tables` over one connection to them. No rules: those are the ledger's.

The checks are a last line behind the rules: SQLite itself refuses an overdrawn account.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from cxp2p.ledger import NETWORK, Account, Change, Hold, HoldState, Transfer
from cxp2p_gateway.keys import Key
from cxp2p_gateway.store import GENERATIONS_MAX, Generation

METADATA: Final = MetaData()

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("created_at_ms", Integer, nullable=False),
)
KEYS: Final = Table(
    "keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at_ms", Integer, nullable=False),
    Column("expires_at_ms", Integer),
    Column("revoked_at_ms", Integer),
    Column("used_at_ms", Integer),
)
BALANCES: Final = Table(
    "balances",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("balance", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    CheckConstraint(f"held >= 0 AND (balance >= held OR id = '{NETWORK}')", name="not_overdrawn"),
)
TRANSFERS: Final = Table(
    "transfers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("amount", Integer, nullable=False),
    Column("at_ms", Integer, nullable=False),
    CheckConstraint("amount >= 0 AND source <> target", name="moves"),
)
HOLDS: Final = Table(
    "holds",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("amount", Integer, nullable=False),
    Column("expires_at_ms", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("charge", Integer, nullable=False),
    Column("target", Text, nullable=False),
    Column("at_ms", Integer, nullable=False),
    CheckConstraint("charge BETWEEN 0 AND amount", name="charge_within_hold"),
)
GENERATIONS: Final = Table(
    "generations",
    METADATA,
    Column("order_id", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("charge", Integer, nullable=False),
    Column("in_units", Integer, nullable=False),
    Column("out_units", Integer, nullable=False),
    Column("finish", Text, nullable=False),
    Column("created_at_ms", Integer, nullable=False),
    Column("order_envelope", LargeBinary, nullable=False),
    Column("receipt_envelope", LargeBinary, nullable=False),
    Column("countersign_envelope", LargeBinary, nullable=False),
)
Index("open_holds", HOLDS.c.expires_at_ms, sqlite_where=HOLDS.c.state == HoldState.OPEN.value)
Index("generations_by_id", GENERATIONS.c.id, GENERATIONS.c.account)


def _columns(table: Table, kind: type[Any]) -> tuple[Column[Any], ...]:
    return tuple(table.c[each.name] for each in fields(kind))


_ID: Final[BindParameter[str]] = bindparam("wanted")
_OF_ACCOUNT: Final[BindParameter[str]] = bindparam("account")

_BALANCE: Final = select(*_columns(BALANCES, Account)).where(BALANCES.c.id == _ID)
_HOLD: Final = select(*_columns(HOLDS, Hold)).where(HOLDS.c.id == _ID)
_TRANSFER: Final = select(*_columns(TRANSFERS, Transfer)).where(TRANSFERS.c.id == _ID)
_KEY: Final = select(*_columns(KEYS, Key)).where(KEYS.c.id == _ID)
_KEYS_OF: Final = select(*_columns(KEYS, Key)).where(KEYS.c.account == _ID).order_by(KEYS.c.created_at_ms, KEYS.c.id)
_OPEN_HOLDS: Final = select(*_columns(HOLDS, Hold)).where(HOLDS.c.state == HoldState.OPEN.value)
_NEWEST_GENERATIONS: Final = (
    select(*_columns(GENERATIONS, Generation))
    .where(GENERATIONS.c.id == _ID, GENERATIONS.c.account == _OF_ACCOUNT)
    .order_by(GENERATIONS.c.created_at_ms.desc(), literal_column("rowid").desc())
    .limit(GENERATIONS_MAX)
)
_CLIENT_ACCOUNTS: Final = select(ACCOUNTS.c.id).order_by(ACCOUNTS.c.created_at_ms, ACCOUNTS.c.id)

_WRITE_BALANCE: Final = insert(BALANCES)
_PUT_BALANCE: Final = _WRITE_BALANCE.on_conflict_do_update(
    index_elements=["id"],
    set_={"balance": _WRITE_BALANCE.excluded.balance, "held": _WRITE_BALANCE.excluded.held},
)
_WRITE_HOLD: Final = insert(HOLDS)
_PUT_HOLD: Final = _WRITE_HOLD.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _WRITE_HOLD.excluded[name] for name in ("state", "charge", "target")},
)
_PUT_KEY: Final = insert(KEYS).prefix_with("OR REPLACE")
_ADD_GENERATION: Final = insert(GENERATIONS).on_conflict_do_nothing(index_elements=["order_id"])


_ROW: Final = literal_column("rowid", Integer)  # in the order of their coming: rows are only ever taken from the start
_NEWEST_ROW: Final = select(func.max(_ROW)).select_from(GENERATIONS).scalar_subquery()
_OLDEST: Final = (
    select(_ROW.label("row"), GENERATIONS.c.created_at_ms).order_by(_ROW).limit(bindparam("step")).subquery("oldest")
)
_OVERDUE: Final = select(_OLDEST.c.row).where(
    (_OLDEST.c.created_at_ms < bindparam("before_ms")) | (_OLDEST.c.row <= _NEWEST_ROW - bindparam("kept_max"))
)
_FORGET_GENERATIONS: Final = delete(GENERATIONS).where(_ROW.in_(_OVERDUE))


class SqlTables:
    """`Tables` over a connection that is in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # What the ledger reads and writes.

    def account(self, account_id: str) -> Account:
        row = self._one(_BALANCE, wanted=account_id)
        return Account(**row._mapping) if row else Account(id=account_id)

    def hold(self, hold_id: str) -> Hold | None:
        row = self._one(_HOLD, wanted=hold_id)
        return _hold(row) if row else None

    def transfer(self, transfer_id: str) -> Transfer | None:
        row = self._one(_TRANSFER, wanted=transfer_id)
        return Transfer(**row._mapping) if row else None

    def open_holds(self) -> tuple[Hold, ...]:
        return tuple(_hold(row) for row in self._connection.execute(_OPEN_HOLDS))

    def write(self, change: Change, at_ms: int) -> None:
        if change.transfers:
            self._connection.execute(
                TRANSFERS.insert(), [{**_values(each), "at_ms": at_ms} for each in change.transfers]
            )
        if change.holds:
            holds = [{**_values(each), "state": each.state.value, "at_ms": at_ms} for each in change.holds]
            self._connection.execute(_PUT_HOLD, holds)
        if change.accounts:
            self._connection.execute(_PUT_BALANCE, [_values(each) for each in change.accounts])

    # Accounts, keys, and what was signed.

    def add_account(self, account_id: str, at_ms: int) -> None:
        self._connection.execute(ACCOUNTS.insert(), {"id": account_id, "created_at_ms": at_ms})

    def client_accounts(self) -> tuple[str, ...]:
        return tuple(self._connection.execute(_CLIENT_ACCOUNTS).scalars())

    def key(self, key_id: str) -> Key | None:
        row = self._one(_KEY, wanted=key_id)
        return Key(**row._mapping) if row else None

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        return tuple(Key(**row._mapping) for row in self._connection.execute(_KEYS_OF, {"wanted": account_id}))

    def put_key(self, key: Key) -> None:
        self._connection.execute(_PUT_KEY, _values(key))

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        wanted = {"wanted": generation_id, "account": account_id}
        rows = self._connection.execute(_NEWEST_GENERATIONS, wanted).all()
        return tuple(Generation(**row._mapping) for row in reversed(rows))

    def add_generation(self, generation: Generation) -> None:
        self._connection.execute(_ADD_GENERATION, _values(generation))

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        wanted = {"before_ms": before_ms, "kept_max": kept_max, "step": step}
        return self._connection.execute(_FORGET_GENERATIONS, wanted).rowcount

    # All of them, for the audit.

    def all_balances(self) -> tuple[Account, ...]:
        rows = self._connection.execute(select(*_columns(BALANCES, Account)))
        return tuple(Account(**row._mapping) for row in rows)

    def all_holds(self) -> tuple[Hold, ...]:
        return tuple(_hold(row) for row in self._connection.execute(select(*_columns(HOLDS, Hold))))

    def all_transfers(self) -> tuple[Transfer, ...]:
        rows = self._connection.execute(select(*_columns(TRANSFERS, Transfer)))
        return tuple(Transfer(**row._mapping) for row in rows)

    def _one(self, query: Any, **wanted: str) -> Row[Any] | None:
        return self._connection.execute(query, wanted).first()


def _hold(row: Row[Any]) -> Hold:
    return Hold(**{**row._mapping, "state": HoldState(row.state)})


def _values(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}
