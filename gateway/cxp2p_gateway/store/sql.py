"""`Tables` over one connection to SQLite or PostgreSQL. No rules: those are the ledger's, and the store's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Table,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from cxp2p.ledger import Account, Change, Hold, HoldState, Transfer
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.spending import Budget, Reset
from cxp2p_gateway.store.rows import GENERATIONS_MAX, Generation
from cxp2p_gateway.store.schema import (
    BALANCES,
    BUDGETS,
    GENERATIONS,
    HOLDS,
    KEEPERS,
    KEYS,
    RATES,
    TRANSFERS,
    columns_of,
    values_of,
)
from cxp2p_gateway.store.sql_epochs import SqlEpochs, awaits_root
from cxp2p_gateway.store.sql_orders import SqlOrders
from cxp2p_gateway.store.sql_people import SqlPeople
from cxp2p_gateway.store.sql_uses import SqlUses

_ID: Final[BindParameter[str]] = bindparam("wanted")
_OF_ACCOUNT: Final[BindParameter[str]] = bindparam("account")

_IS_OPEN: Final = HOLDS.c.state == HoldState.OPEN.value
_BALANCE: Final = select(*columns_of(BALANCES, Account)).where(BALANCES.c.id == _ID)
_HOLD: Final = select(*columns_of(HOLDS, Hold)).where(HOLDS.c.id == _ID)
_TRANSFER: Final = select(*columns_of(TRANSFERS, Transfer)).where(TRANSFERS.c.id == _ID)
_KEY: Final = select(*columns_of(KEYS, Key)).where(KEYS.c.id == _ID)
_KEYS_OF: Final = select(*columns_of(KEYS, Key)).where(KEYS.c.account == _ID).order_by(KEYS.c.created_at_ms, KEYS.c.id)
_BUDGET: Final = select(*columns_of(BUDGETS, Budget)).where(BUDGETS.c.key == _ID)
_RATE: Final = select(RATES.c.empty_at_us).where(RATES.c.key == _ID, RATES.c.kind == bindparam("kind"))
_HELD_BY_KEY: Final = select(func.coalesce(func.sum(HOLDS.c.amount), 0)).where(_IS_OPEN, HOLDS.c.key == _ID)
_REQUESTS_OF_KEY: Final = select(HOLDS.c.request).distinct().where(_IS_OPEN, HOLDS.c.key == _ID)
_OPEN_HOLDS: Final = select(*columns_of(HOLDS, Hold)).where(_IS_OPEN)
_NEWEST_GENERATIONS: Final = (
    select(*columns_of(GENERATIONS, Generation))
    .where(GENERATIONS.c.id == _ID, GENERATIONS.c.account == _OF_ACCOUNT)
    .order_by(GENERATIONS.c.created_at_ms.desc(), GENERATIONS.c.row.desc())
    .limit(GENERATIONS_MAX)
)
_LATEST_GENERATIONS: Final = (
    select(*columns_of(GENERATIONS, Generation))
    .where(GENERATIONS.c.account == _OF_ACCOUNT)
    .order_by(GENERATIONS.c.row.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)
_OLDEST: Final = (
    select(GENERATIONS.c.row, GENERATIONS.c.created_at_ms, GENERATIONS.c.order_id)
    .order_by(GENERATIONS.c.row)
    .limit(bindparam("step"))
    .subquery("oldest")
)
_NEWEST_ROW: Final = select(func.max(GENERATIONS.c.row)).scalar_subquery()
_OVERDUE: Final = select(_OLDEST.c.order_id).where(
    (_OLDEST.c.created_at_ms < bindparam("before_ms")) | (_OLDEST.c.row <= _NEWEST_ROW - bindparam("kept_max")),
    ~awaits_root(_OLDEST.c.order_id, _OLDEST.c.created_at_ms),
)
_FORGET_GENERATIONS: Final = delete(GENERATIONS).where(GENERATIONS.c.order_id.in_(bindparam("ids", expanding=True)))


class Upserts:
    """Statements that add a row or replace it, which each database says in words of its own."""

    def __init__(self, insert: Callable[[Table], Any]) -> None:
        self.insert = insert
        self.balance = self._put(BALANCES, ("id",), ("balance", "held"))
        self.hold = self._put(HOLDS, ("id",), ("state", "charge", "target"))
        self.key = self._put(KEYS, ("id",), tuple(each.name for each in fields(Key) if each.name != "id"))
        self.budget = self._put(BUDGETS, ("key",), ("since_ms", "spent"))
        self.rate = self._put(RATES, ("key", "kind"), ("empty_at_us",))
        self.generation = (
            insert(GENERATIONS).on_conflict_do_nothing(index_elements=["order_id"]).returning(GENERATIONS.c.row)
        )

    def _put(self, table: Table, by: tuple[str, ...], changed: tuple[str, ...]) -> Any:
        written = self.insert(table)
        return written.on_conflict_do_update(
            index_elements=list(by), set_={name: written.excluded[name] for name in changed}
        )


UPSERTS: Final = {"sqlite": Upserts(sqlite.insert), "postgresql": Upserts(postgresql.insert)}


class SqlTables(SqlPeople, SqlOrders, SqlUses, SqlEpochs):
    """`Tables` over a connection that is in a transaction. `keeper`: whose the holds are that are written."""

    def __init__(self, connection: Connection, keeper: int = 0) -> None:
        super().__init__(connection)
        self._keeper = keeper
        self._put = UPSERTS[connection.dialect.name]

    @property
    def connection(self) -> Connection:
        """What all this is read from and written to."""
        return self._connection

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

    def open_holds_kept_by(self, keeper: int) -> tuple[Hold, ...]:
        """The open holds of one gateway process."""
        return tuple(_hold(row) for row in self._connection.execute(_OPEN_HOLDS.where(HOLDS.c.keeper == keeper)))

    def other_keepers(self) -> tuple[int, ...]:
        """All gateway processes that may have open holds, but for this one."""
        return tuple(self._connection.execute(select(KEEPERS.c.id).where(KEEPERS.c.id != self._keeper)).scalars())

    def is_gone(self, locks: int, keeper: int) -> bool:
        """Whether nobody has a keeper's lock (PostgreSQL); it is taken until this transaction ends."""
        taken = select(func.pg_try_advisory_xact_lock(locks, keeper))
        return bool(self._connection.execute(taken).scalar_one())

    def forget_keeper(self, keeper: int) -> None:
        self._connection.execute(delete(KEEPERS).where(KEEPERS.c.id == keeper))

    def write(self, change: Change, at_ms: int) -> None:
        if change.transfers:
            self._connection.execute(
                TRANSFERS.insert(), [{**values_of(each), "at_ms": at_ms} for each in change.transfers]
            )
        if change.holds:
            kept = {"at_ms": at_ms, "keeper": self._keeper}
            holds = [{**values_of(each), "state": each.state.value, **kept} for each in change.holds]
            self._connection.execute(self._put.hold, holds)
        if change.accounts:
            self._connection.execute(self._put.balance, [values_of(each) for each in change.accounts])

    # Keys, and what they may.

    def key(self, key_id: str) -> Key | None:
        row = self._one(_KEY, wanted=key_id)
        return _key(row) if row else None

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        return tuple(_key(row) for row in self._connection.execute(_KEYS_OF, {"wanted": account_id}))

    def put_key(self, key: Key) -> None:
        values = {**values_of(key), "kind": key.kind.value, "spend_reset": key.spend_reset.value}
        lists = {"services": list(key.services), "models": list(key.models)}
        self._connection.execute(self._put.key, {**values, **lists})

    def drop_key(self, key_id: str) -> None:
        for named in (RATES.c.key, BUDGETS.c.key, KEYS.c.id):
            self._connection.execute(delete(named.table).where(named == key_id))

    def budget(self, key_id: str) -> Budget:
        row = self._one(_BUDGET, wanted=key_id)
        return Budget(**row._mapping) if row else Budget(key=key_id)

    def put_budget(self, budget: Budget) -> None:
        self._connection.execute(self._put.budget, values_of(budget))

    def held_by_key(self, key_id: str) -> int:
        return int(self._connection.execute(_HELD_BY_KEY, {"wanted": key_id}).scalar_one())

    def requests_of_key(self, key_id: str) -> frozenset[str]:
        return frozenset(self._connection.execute(_REQUESTS_OF_KEY, {"wanted": key_id}).scalars())

    def rate_empty_at_us(self, key_id: str, kind: str) -> int:
        row = self._one(_RATE, wanted=key_id, kind=kind)
        return row.empty_at_us if row else 0

    def put_rate(self, key_id: str, kind: str, empty_at_us: int) -> None:
        self._connection.execute(self._put.rate, {"key": key_id, "kind": kind, "empty_at_us": empty_at_us})

    # What was signed.

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        wanted = {"wanted": generation_id, "account": account_id}
        rows = self._connection.execute(_NEWEST_GENERATIONS, wanted).all()
        return tuple(Generation(**row._mapping) for row in reversed(rows))

    def latest_generations(self, account_id: str, limit: int, offset: int) -> tuple[Generation, ...]:
        wanted = {"account": account_id, "limit": limit, "offset": offset}
        return tuple(Generation(**row._mapping) for row in self._connection.execute(_LATEST_GENERATIONS, wanted))

    def add_generation(self, generation: Generation) -> bool:
        return self._connection.execute(self._put.generation, values_of(generation)).first() is not None

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        wanted = {"before_ms": before_ms, "kept_max": kept_max, "step": step}
        ids = self._connection.execute(_OVERDUE, wanted).scalars().all()
        if ids:
            self.forget_epoch_entries(ids)
            self._connection.execute(_FORGET_GENERATIONS, {"ids": ids})
        return len(ids)

    # All of them, for the audit.

    def all_balances(self) -> tuple[Account, ...]:
        rows = self._connection.execute(select(*columns_of(BALANCES, Account)))
        return tuple(Account(**row._mapping) for row in rows)

    def all_holds(self) -> tuple[Hold, ...]:
        return tuple(_hold(row) for row in self._connection.execute(select(*columns_of(HOLDS, Hold))))

    def all_transfers(self) -> tuple[Transfer, ...]:
        rows = self._connection.execute(select(*columns_of(TRANSFERS, Transfer)))
        return tuple(Transfer(**row._mapping) for row in rows)


def _hold(row: Row[Any]) -> Hold:
    return Hold(**{**row._mapping, "state": HoldState(row.state)})


def _key(row: Row[Any]) -> Key:
    told = {"kind": Kind(row.kind), "spend_reset": Reset(row.spend_reset)}
    lists = {"services": tuple(row.services), "models": tuple(row.models)}
    return Key(**{**row._mapping, **told, **lists})
