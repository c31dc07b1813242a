"""The store in PostgreSQL, which several gateway processes may share.

All write as they do in SQLite, one transaction after the other: each begins by taking the database's write lock (an
advisory one), so that what a rule read is still so when its change is written. Within a process acts that come
together are one transaction, so that the lock is taken seldom.

Holds belong to the process that took them, its keeper. A keeper has a lock of its own for as long as its connection
lives; whose lock is free for a while is gone, and what it left is void.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cxp2p import ledger
from cxp2p.net.tasks import background
from cxp2p_gateway.store import Store, StoreError
from cxp2p_gateway.store.migrations import is_known, step_of, upgrade
from cxp2p_gateway.store.opening import READERS, open_sql_store
from cxp2p_gateway.store.schema import KEEPERS, METADATA
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.tables import Tables
from cxp2p_gateway.store.writer import first_line

log = logging.getLogger("cxp2p.store")

WRITE_LOCK: Final = 0x63787032  # one number for all gateways of a database; it means nothing to PostgreSQL
KEEPER_LOCKS: Final = 0x63787033  # with a keeper's id
SWEEP_S: Final = 2.0  # also how soon a process has its lock again after the server was restarted
GONE_S: Final = 8.0  # a lock that is free for so long is not free because of a restart
CONNECT_S: Final = 5
LOCK_MS_MAX: Final = 10_000  # for the write lock: who waits longer says so instead of standing still
STATEMENT_MS_MAX: Final = 30_000
IDLE_MS_MAX: Final = 10_000  # a process that was stopped in the middle of a write must not stop all others
SILENT_S: Final = 10  # until the other machine is asked whether it is there, and three times as long until it is not
NEVER: Final = 0
EXPECTED: Final = "expected postgresql://user:password@host/name"


@asynccontextmanager
async def open_store(url: str, wall_ms: Callable[[], int]) -> AsyncIterator[Store]:
    """Opens the database at `url` (`postgresql://user:password@host/name`), and shares it while the block runs.

    Raises StoreError: it cannot be reached or used, a newer program made its tables, or the driver is missing.
    """
    address = _address(url)
    keeping = _Keeping(address, wall_ms)
    reading = _engine(address, pool_size=READERS, max_overflow=0, pool_pre_ping=True)
    event.listen(reading, "begin", _begin_reading)
    async with open_sql_store(keeping.connection, reading, lambda: keeping.keeper, wall_ms) as store:
        sweep = _Sweep(store)
        await sweep()
        async with background() as nursery:
            nursery.start_soon(sweep.again)
            yield store


class _Sweep:
    """Voids what processes left that are gone, look after look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gone_since: dict[int, float] = {}

    async def again(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            try:
                await self()
            except StoreError as error:
                log.warning("what other gateways left waits: %s", error)

    async def __call__(self) -> None:
        now, wall_ms = trio.current_time(), self._store.wall_ms()
        long_gone = {keeper for keeper, since in self._gone_since.items() if now - since >= GONE_S}

        def act(tables: Tables) -> tuple[list[int], int]:
            assert isinstance(tables, SqlTables)
            return _void_left(tables, long_gone, wall_ms)

        gone, left = await self._store.do(act)
        self._gone_since = {keeper: self._gone_since.get(keeper, now) for keeper in gone}
        if left:
            log.warning("%d holds were left by a gateway process that is gone; they are void now", left)


def _void_left(tables: SqlTables, long_gone: Collection[int], wall_ms: int) -> tuple[list[int], int]:
    """Voids the holds of those keepers that are gone still; returns who else is gone, and how many holds it were."""
    gone, left = [], 0
    for keeper in tables.other_keepers():
        if not tables.is_gone(KEEPER_LOCKS, keeper):
            continue
        if keeper in long_gone:
            left += _end(tables, keeper, wall_ms)
        else:
            gone.append(keeper)
    return gone, left


def _end(tables: SqlTables, keeper: int, wall_ms: int) -> int:
    """Forgets a keeper, and voids its holds; returns how many it were."""
    holds = tables.open_holds_kept_by(keeper)
    tables.write(ledger.void_left(tables, holds), wall_ms)
    tables.forget_keeper(keeper)
    return len(holds)


class _Keeping:
    """The connection that writes, and who keeps what it holds. Used in the writer's thread."""

    def __init__(self, address: URL, wall_ms: Callable[[], int]) -> None:
        self._address = address
        self._wall_ms = wall_ms
        self.keeper = 0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The one that writes. After it was lost the library opens another one, which `_take_lock` makes fit."""
        try:
            self._prepare()
            engine = _engine(self._address, poolclass=NullPool, isolation_level="READ COMMITTED")
            event.listen(engine, "connect", self._take_lock)
            event.listen(engine, "begin", _begin)
            connection = engine.connect()
        except SQLAlchemyError as error:
            raise _unusable(self._address, error) from None
        with connection:
            yield connection
            self._leave(connection)
        engine.dispose()

    def _prepare(self) -> None:
        """Brings the tables up to date, however long that takes or others take for it, and gets a keeper's id."""
        engine = _engine(self._address, statement_ms=NEVER, lock_ms=NEVER, poolclass=NullPool)
        event.listen(engine, "begin", _begin)
        with engine.begin() as connection:
            _check_ours(connection, self._address)
            upgrade(connection)
            made = KEEPERS.insert().returning(KEEPERS.c.id)
            self.keeper = int(connection.execute(made, {"started_at_ms": self._wall_ms()}).scalar_one())
        engine.dispose()

    def _take_lock(self, connection: Any, _record: object) -> None:
        """Takes the keeper's lock, which the server lets go of when this connection ends, however it ends.

        The server may not know yet that the connection before has ended.
        """
        try:
            connection.execute(END_OLD_SESSION, (KEEPER_LOCKS, self.keeper))
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (KEEPER_LOCKS, self.keeper))
            connection.execute(KNOWN_AGAIN, (self.keeper, self._wall_ms()))
            connection.commit()
        except BaseException:
            connection.close()
            raise

    def _leave(self, connection: Connection) -> None:
        try:
            with connection.begin():
                _end(SqlTables(connection, self.keeper), self.keeper, self._wall_ms())
        except SQLAlchemyError as error:
            log.warning("another gateway, or the next start, ends what this one held: %s", first_line(error))


END_OLD_SESSION: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s::bigint::oid "
    "AND objid = %s::bigint::oid AND objsubid = 2 AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
KNOWN_AGAIN: Final = "INSERT INTO keepers (id, started_at_ms) VALUES (%s, %s) ON CONFLICT DO NOTHING"


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def step_at(url: str) -> str | None:
    """The last step that the database at `url` has taken, None for an empty one. Changes nothing. Raises StoreError."""
    address = _address(url)
    engine = _engine(address, poolclass=NullPool)
    event.listen(engine, "begin", _begin_reading)
    try:
        with engine.connect() as connection:
            return _check_ours(connection, address)
    except SQLAlchemyError as error:
        raise _unusable(address, error) from None


def shown(url: str) -> str:
    """A URL without its password."""
    return _shown(_address(url))


def _check_ours(connection: Connection, address: URL) -> str | None:
    step = step_of(connection)
    if step is not None and not is_known(step):
        raise StoreError(
            f"the gateway's database {_shown(address)} was made by a newer program (its step is {step}); "
            "it was left as it was: use that program, or a newer one"
        )
    others = set(inspect(connection).get_table_names()) & set(METADATA.tables)
    if step is None and others:
        raise StoreError(
            f"{_shown(address)} has a table {min(others)!r} that is not a gateway's; "
            "it was left as it was: give the gateway a database of its own"
        )
    return step


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError(f"the database's URL cannot be read: {EXPECTED}") from None
    if address.get_backend_name() not in ("postgresql", "postgres"):
        raise StoreError(f"the database's URL is of {address.get_backend_name()!r}: {EXPECTED}")
    try:
        import psycopg  # noqa: F401, PLC0415  # an extra
    except ImportError:
        raise StoreError("PostgreSQL needs its driver: pip install 'cxp2p[postgres]'") from None
    return address.set(drivername="postgresql+psycopg")


def _engine(address: URL, *, statement_ms: int = STATEMENT_MS_MAX, lock_ms: int = LOCK_MS_MAX, **pool: Any) -> Engine:
    """Connections that notice a silent server, and that a server does not keep for a silent gateway."""
    limits = {
        "statement_timeout": statement_ms,
        "lock_timeout": lock_ms,
        "idle_in_transaction_session_timeout": IDLE_MS_MAX,
        "tcp_keepalives_idle": SILENT_S,
        "tcp_keepalives_interval": SILENT_S,
        "tcp_keepalives_count": 2,
    }
    arguments = {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": SILENT_S,
        "keepalives_interval": SILENT_S,
        "keepalives_count": 2,
        "tcp_user_timeout": 3 * SILENT_S * 1000,
        "application_name": "cxp2p gateway",
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
    }
    return create_engine(address, connect_args=arguments, hide_parameters=True, **pool)


def _unusable(address: URL, error: SQLAlchemyError) -> StoreError:
    return StoreError(f"the gateway's database {_shown(address)} cannot be used: {first_line(error)}")


def _shown(address: URL) -> str:
    return address.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
