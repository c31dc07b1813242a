"""The store on disk: SQLite with a write-ahead log, every commit on disk before it is answered.

One process keeps one database, which a lock file sees to. A process that was killed needs no repair: SQLite undoes what
was not committed, and the holds of its jobs, which nobody will end any more, are voided at the next start.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from cxp2p_gateway.store import Store, StoreError, StoreLocked
from cxp2p_gateway.store.migrations import is_known, step_of, upgrade
from cxp2p_gateway.store.opening import READERS, open_sql_store, read_with
from cxp2p_gateway.store.tables import Tables

log = logging.getLogger("cxp2p.store")

T = TypeVar("T")

SCHEMA_VERSION: Final = 4  # kept in SQLite's user_version; raise it with every step of `migrations`
APPLICATION_ID: Final = 0x63787032  # "cxp2": tells this program's files from other people's


@asynccontextmanager
async def open_store(path: Path, wall_ms: Callable[[], int]) -> AsyncIterator[Store]:
    """Opens the database at `path`, making it and its folder at first, and keeps it for as long as the block runs.

    Raises StoreError: another gateway keeps it, it is no gateway's database, or a newer program made it.
    """
    with _locked(path):
        async with open_sql_store(partial(connection_to, path), reading_engine(path), lambda: 0, wall_ms) as store:
            left = await store.void_all()
            if left:
                log.warning("%d holds were left by a gateway that did not stop cleanly; they are void now", left)
            yield store


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file beside the database. The system lets go of it when this process ends, however it ends."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"the gateway's database {path} cannot be kept there: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            keeper = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise StoreLocked(
                f"the gateway's database {path} is kept by another gateway (process {keeper}): "
                "stop that one, or give this one its own data path",
                keeper,
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def connection_to(path: Path) -> Iterator[Connection]:
    """The one connection that writes, in the thread that uses it. Raises StoreError."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"the gateway's database {path} cannot be opened: {error.strerror}") from None
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise _unusable(path, error) from None
    with connection:
        try:
            with connection.begin():
                _prepare(connection, path)
        except SQLAlchemyError as error:
            raise _unusable(path, error) from None
        yield connection
    engine.dispose()


def _set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the sqlite3 module must not begin transactions of its own: `_begin` does
    connection.execute("PRAGMA busy_timeout = 5000")  # a backup tool may hold the file for a moment
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def reading_engine(path: Path) -> Engine:
    """Connections that cannot write, for threads that read beside the one that writes."""
    address = URL.create("sqlite", database=str(path))
    engine = create_engine(address, pool_size=READERS, max_overflow=0, hide_parameters=True)
    event.listen(engine, "connect", _set_up_reading)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _set_up_reading(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")


def look_into(path: Path, act: Callable[[Tables], T]) -> T:
    """What `act` reads from the database, also while a gateway keeps it. Raises StoreError: it cannot be read."""
    engine = reading_engine(path)
    try:
        return read_with(engine, act)
    finally:
        engine.dispose()


def _prepare(connection: Connection, path: Path) -> None:
    """Makes the tables of a new database, or brings them up to date; refuses one that is not ours, or too new."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    is_new = not version and not application and not inspect(connection).get_table_names()
    if not is_new and application != APPLICATION_ID:
        raise StoreError(f"{path} is not a gateway's database; it was left as it was: give another data path")
    step = step_of(connection)
    if version > SCHEMA_VERSION or (step is not None and not is_known(step)):
        raise StoreError(
            f"the gateway's database {path} has version {version}, this program knows {SCHEMA_VERSION}; "
            "it was left as it was: use the program that made it, or a newer one"
        )
    upgrade(connection)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _unusable(path: Path, error: SQLAlchemyError) -> StoreError:
    cause = getattr(error, "orig", None) or error
    return StoreError(f"the gateway's database {path} cannot be used: {cause}; it was left as it was")
