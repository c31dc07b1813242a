"""The part of `SqlTables` that keeps epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, select, tuple_, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from cxp2p_gateway.store.epoch_rows import AWAITED_MS, EpochBlock, EpochEntry, EpochPair, EpochRow, Key
from cxp2p_gateway.store.schema import (
    EPOCH_BLOCKS,
    EPOCH_ENTRIES,
    EPOCHS,
    GENERATIONS,
    columns_of,
    values_of,
)

_ENTRY: Final = columns_of(EPOCH_ENTRIES, EpochEntry)
_ROW: Final = columns_of(EPOCHS, EpochRow)
_OF_EPOCH: Final = (
    EPOCH_ENTRIES.c.gateway == bindparam("gateway"),
    EPOCH_ENTRIES.c.epoch == bindparam("epoch"),
)
_KEY: Final = (EPOCH_ENTRIES.c.node, EPOCH_ENTRIES.c.lane, EPOCH_ENTRIES.c.seq)
_AFTER: Final = tuple_(*_KEY) > tuple_(bindparam("node"), bindparam("lane"), bindparam("seq"))
_ENTRIES: Final = select(*_ENTRY).where(*_OF_EPOCH, _AFTER).order_by(*_KEY).limit(bindparam("limit"))
_PAIRS: Final = (
    select(*_ENTRY, GENERATIONS.c.account, GENERATIONS.c.receipt_envelope, GENERATIONS.c.countersign_envelope)
    .join(GENERATIONS, GENERATIONS.c.order_id == EPOCH_ENTRIES.c.order_id)
    .where(*_OF_EPOCH, _AFTER)
    .order_by(*_KEY)
    .limit(bindparam("limit"))
)
_BY_HASH: Final = select(*_ENTRY).where(EPOCH_ENTRIES.c.receipt_hash == bindparam("wanted"))
_LAST: Final = select(func.coalesce(func.max(EPOCHS.c.epoch), -1)).where(EPOCHS.c.gateway == bindparam("gateway"))
_ONE: Final = select(*_ROW).where(EPOCHS.c.gateway == bindparam("gateway"), EPOCHS.c.epoch == bindparam("epoch"))
_BEGUN: Final = select(func.min(EPOCHS.c.epoch).label("epoch")).where(
    EPOCHS.c.gateway == bindparam("gateway"), EPOCHS.c.envelope.is_(None), EPOCHS.c.epoch < bindparam("before")
)
_UNBEGUN: Final = select(func.min(EPOCH_ENTRIES.c.epoch).label("epoch")).where(
    EPOCH_ENTRIES.c.gateway == bindparam("gateway"),
    EPOCH_ENTRIES.c.epoch > _LAST.scalar_subquery(),
    EPOCH_ENTRIES.c.epoch < bindparam("before"),
)
_TO_CLOSE: Final = select(func.min(union_all(_BEGUN, _UNBEGUN).subquery("open").c.epoch))
_NUMBERED: Final = (
    select(*_ROW)
    .where(EPOCHS.c.epoch == bindparam("epoch"), EPOCHS.c.envelope.is_not(None))
    .order_by(EPOCHS.c.gateway)
    .limit(bindparam("limit"))
)
_LATEST: Final = (
    select(*_ROW)
    .where(EPOCHS.c.envelope.is_not(None), EPOCHS.c.epoch < bindparam("before"))
    .order_by(EPOCHS.c.epoch.desc(), EPOCHS.c.gateway)
    .limit(bindparam("limit"))
)
_BLOCKS: Final = (
    select(*columns_of(EPOCH_BLOCKS, EpochBlock))
    .where(EPOCH_BLOCKS.c.gateway == bindparam("gateway"), EPOCH_BLOCKS.c.epoch == bindparam("epoch"))
    .order_by(EPOCH_BLOCKS.c.number)
)


_HAS_ROOT: Final = exists().where(
    EPOCHS.c.gateway == EPOCH_ENTRIES.c.gateway,
    EPOCHS.c.epoch == EPOCH_ENTRIES.c.epoch,
    EPOCHS.c.envelope.is_not(None),
)
_NEWEST_ROW: Final = select(func.max(GENERATIONS.c.row)).scalar_subquery()
_NEWEST_MS: Final = select(GENERATIONS.c.created_at_ms).where(GENERATIONS.c.row == _NEWEST_ROW).scalar_subquery()


def awaits_root(order_id: Any, created_at_ms: Any) -> Any:
    """Whether an epoch is still to be closed over an order; not for ever, as its gateway may be gone."""
    awaits = exists().where(EPOCH_ENTRIES.c.order_id == order_id, ~_HAS_ROOT)
    return and_(created_at_ms > _NEWEST_MS - AWAITED_MS, awaits)


class _Puts:
    """Statements that each database says in words of its own."""

    def __init__(self, insert: Any) -> None:
        self.entry = insert(EPOCH_ENTRIES).on_conflict_do_nothing()
        epoch, block = insert(EPOCHS), insert(EPOCH_BLOCKS)
        self.epoch = epoch.on_conflict_do_update(
            index_elements=["gateway", "epoch"],
            set_={name: epoch.excluded[name] for name in ("count", "sum", "envelope", "is_whole")},
            where=EPOCHS.c.envelope.is_(None),
        )
        self.block = block.on_conflict_do_update(
            index_elements=["gateway", "epoch", "number"],
            set_={name: block.excluded[name] for name in ("node", "lane", "seq", "packed")},
        )


_PUTS: Final = {"sqlite": _Puts(sqlite.insert), "postgresql": _Puts(postgresql.insert)}


class SqlEpochs:
    """Epochs over a connection that is in a transaction."""

    _connection: Connection

    def add_epoch_entry(self, entry: EpochEntry) -> None:
        self._connection.execute(self._puts.entry, values_of(entry))

    def epoch_entry(self, receipt_hash: bytes) -> EpochEntry | None:
        row = self._connection.execute(_BY_HASH, {"wanted": receipt_hash}).first()
        return EpochEntry(**row._mapping) if row else None

    def epoch_entries(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochEntry, ...]:
        rows = self._connection.execute(_ENTRIES, _wanted(gateway, epoch, after, limit))
        return tuple(EpochEntry(**row._mapping) for row in rows)

    def epoch_pairs(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochPair, ...]:
        rows = self._connection.execute(_PAIRS, _wanted(gateway, epoch, after, limit))
        return tuple(_pair(dict(row._mapping)) for row in rows)

    def last_epoch(self, gateway: str) -> int:
        return int(self._connection.execute(_LAST, {"gateway": gateway}).scalar_one())

    def epoch_to_close(self, gateway: str, before: int) -> int | None:
        found: int | None = self._connection.execute(_TO_CLOSE, {"gateway": gateway, "before": before}).scalar()
        return found

    def put_epoch(self, row: EpochRow) -> None:
        self._connection.execute(self._puts.epoch, values_of(row))

    def epoch(self, gateway: str, epoch: int) -> EpochRow | None:
        row = self._connection.execute(_ONE, {"gateway": gateway, "epoch": epoch}).first()
        return EpochRow(**row._mapping) if row else None

    def epochs_numbered(self, epoch: int, limit: int) -> tuple[EpochRow, ...]:
        rows = self._connection.execute(_NUMBERED, {"epoch": epoch, "limit": limit})
        return tuple(EpochRow(**row._mapping) for row in rows)

    def latest_epochs(self, gateway: str | None, before: int, limit: int) -> tuple[EpochRow, ...]:
        chosen = _LATEST if gateway is None else _LATEST.where(EPOCHS.c.gateway == gateway)
        rows = self._connection.execute(chosen, {"before": before, "limit": limit})
        return tuple(EpochRow(**row._mapping) for row in rows)

    def put_epoch_block(self, block: EpochBlock) -> None:
        self._connection.execute(self._puts.block, values_of(block))

    def epoch_blocks(self, gateway: str, epoch: int) -> tuple[EpochBlock, ...]:
        rows = self._connection.execute(_BLOCKS, {"gateway": gateway, "epoch": epoch})
        return tuple(EpochBlock(**row._mapping) for row in rows)

    def forget_epoch_entries(self, order_ids: Sequence[str]) -> None:
        dropped = EPOCH_ENTRIES.c.order_id.in_(order_ids)
        epochs = self._connection.execute(
            select(EPOCH_ENTRIES.c.gateway, EPOCH_ENTRIES.c.epoch).where(dropped).distinct()
        ).all()
        for gateway, epoch in epochs:
            named = (EPOCHS.c.gateway == gateway, EPOCHS.c.epoch == epoch)
            self._connection.execute(update(EPOCHS).where(*named).values(is_whole=False))
            in_blocks = (EPOCH_BLOCKS.c.gateway == gateway, EPOCH_BLOCKS.c.epoch == epoch)
            self._connection.execute(delete(EPOCH_BLOCKS).where(*in_blocks))
        self._connection.execute(delete(EPOCH_ENTRIES).where(dropped))

    @property
    def _puts(self) -> _Puts:
        return _PUTS[self._connection.dialect.name]


def _wanted(gateway: str, epoch: int, after: Key, limit: int) -> dict[str, object]:
    node, lane, seq = after
    return {"gateway": gateway, "epoch": epoch, "node": node, "lane": lane, "seq": seq, "limit": limit}


def _pair(values: dict[str, Any]) -> EpochPair:
    envelopes = {name: values.pop(name) for name in ("account", "receipt_envelope", "countersign_envelope")}
    return EpochPair(entry=EpochEntry(**values), **envelopes)
