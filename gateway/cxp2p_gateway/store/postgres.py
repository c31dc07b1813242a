"""The store in PostgreSQL, which several gateway processes may share.

All write as they do in SQLite, one transaction after the other: each begins by taking the database's write lock (an
advisory one), so that what a rule read is still so when its change is written. Within a process acts that come
together are one transaction, so that the lock is taken seldom.

Holds belong to the process that took them, its keeper. A keeper keeps a lock of its own for as long as its connection
lives; whoever can take it knows that the process is gone, and voids what it left.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio
from sqlalchemy import URL, Connection, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cxp2p import ledger
from cxp2p.net.tasks import background
from cxp2p_gateway.store import Store, StoreError
from cxp2p_gateway.store.migrations import is_known, step_of, upgrade
from cxp2p_gateway.store.opening import READERS, open_sql_store
from cxp2p_gateway.store.schema import KEEPERS
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.tables import Tables

log = logging.getLogger("cxp2p.store")

WRITE_LOCK: Final = 0x63787032  # one number for all gateways of a database; it means nothing to PostgreSQL
KEEPER_LOCKS: Final = 0x63787033  # with a keeper's id
SWEEP_S: Final = 5.0
CONNECT_S: Final = 10
STATEMENT_MS_MAX: Final = 30_000  # a lost lock or a hanging disk is an error, and not a gateway that stands still


@asynccontextmanager
async def open_store(url: str, wall_ms: Callable[[], int]) -> AsyncIterator[Store]:
    """Opens the database at `url` (`postgresql://user:password@host/name`), and shares it while the block runs.

    Raises StoreError: it cannot be reached or used, a newer program made its tables, or the driver is missing.
    """
    address = _address(url)
    keeping = _Keeping(address, wall_ms)
    reading = create_engine(address, pool_size=READERS, max_overflow=0, pool_pre_ping=True, connect_args=_arguments())
    event.listen(reading, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
    async with open_sql_store(keeping.connection, reading, lambda: keeping.keeper, wall_ms) as store:
        await _sweep(store)
        async with background() as nursery:
            nursery.start_soon(_keep_sweeping, store)
            yield store


async def _keep_sweeping(store: Store) -> None:
    while True:
        await trio.sleep(SWEEP_S)
        try:
            await _sweep(store)
        except StoreError as error:
            log.warning("what other gateways left waits: %s", error)


async def _sweep(store: Store) -> None:
    wall_ms = store.wall_ms()

    def act(tables: Tables) -> int:
        assert isinstance(tables, SqlTables)
        return _void_left(tables, wall_ms)

    left = await store.do(act)
    if left:
        log.warning("%d holds were left by a gateway process that is gone; they are void now", left)


def _void_left(tables: SqlTables, wall_ms: int) -> int:
    """Voids the holds of keepers that are gone; returns how many it were."""
    left = 0
    for keeper in tables.other_keepers():
        if tables.is_gone(KEEPER_LOCKS, keeper):
            holds = tables.open_holds_kept_by(keeper)
            tables.write(ledger.void_left(tables, holds), wall_ms)
            tables.forget_keeper(keeper)
            left += len(holds)
    return left


class _Keeping:
    """The connection that writes, and who keeps what it holds. Used in the writer's thread."""

    def __init__(self, address: URL, wall_ms: Callable[[], int]) -> None:
        self._address = address
        self._wall_ms = wall_ms
        self.keeper = 0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The one that writes; after it was lost the library opens another one, which `_set_up` makes fit."""
        engine = create_engine(self._address, poolclass=NullPool, connect_args=_arguments())
        event.listen(engine, "begin", _begin)
        try:
            connection = engine.connect()
        except SQLAlchemyError as error:
            raise _unusable(self._address, error) from None
        with connection:
            try:
                with connection.begin():
                    _prepare(connection, self._address)
                    self.keeper = self._new_keeper(connection)
                self._lock(connection.connection.dbapi_connection)
            except SQLAlchemyError as error:
                raise _unusable(self._address, error) from None
            event.listen(engine, "connect", lambda made, _record: self._lock(made))
            yield connection
        engine.dispose()

    def _new_keeper(self, connection: Connection) -> int:
        made = connection.execute(KEEPERS.insert().returning(KEEPERS.c.id), {"started_at_ms": self._wall_ms()})
        keeper = made.scalar_one()
        assert isinstance(keeper, int)
        return keeper

    def _lock(self, connection: Any) -> None:
        """Takes the keeper's lock, which the server lets go of when this connection ends, however it ends."""
        connection.execute("SELECT pg_advisory_lock(%s, %s)", (KEEPER_LOCKS, self.keeper))
        known_again = "INSERT INTO keepers (id, started_at_ms) VALUES (%s, %s) ON CONFLICT DO NOTHING"
        connection.execute(known_again, (self.keeper, self._wall_ms()))
        connection.commit()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")


def _prepare(connection: Connection, address: URL) -> None:
    step = step_of(connection)
    if step is not None and not is_known(step):
        raise StoreError(
            f"the gateway's database {_shown(address)} was made by a newer program (its step is {step}); "
            "it was left as it was: use that program, or a newer one"
        )
    upgrade(connection)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise StoreError("database_url is not a URL: expected postgresql://user:password@host/name") from None
    if address.get_backend_name() != "postgresql":
        raise StoreError(f"database_url is of {address.get_backend_name()!r}: only postgresql:// is known")
    try:
        import psycopg  # noqa: F401, PLC0415  # an extra
    except ImportError:
        raise StoreError("PostgreSQL needs its driver: pip install 'cxp2p[postgres]'") from None
    return address.set(drivername="postgresql+psycopg")


def _arguments() -> dict[str, object]:
    return {
        "connect_timeout": CONNECT_S,
        "application_name": "cxp2p gateway",
        "options": f"-c statement_timeout={STATEMENT_MS_MAX}",
    }


def _unusable(address: URL, error: SQLAlchemyError) -> StoreError:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return StoreError(f"the gateway's database {_shown(address)} cannot be used: {cause}")


def _shown(address: URL) -> str:
    return address.set(drivername="postgresql").render_as_string(hide_password=True)
