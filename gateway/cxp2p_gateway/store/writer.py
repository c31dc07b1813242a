"""Transactions of the gateway's database, for the one thread that writes (`cxp2p.writing`).

SQLite has one writer anyhow: here it is one by construction, and no write ever waits for a lock.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from copy import copy
from typing import Final, TypeAlias, TypeVar

import outcome
from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cxp2p import writing
from cxp2p_gateway.store import StoreError, StoreUnavailable

log = logging.getLogger("cxp2p.store")

T = TypeVar("T")

CLOSED: Final = "the gateway's database is closed"

Act: TypeAlias = Callable[[Connection], T]
OpenConnection: TypeAlias = Callable[[], AbstractContextManager[Connection]]
Writer: TypeAlias = writing.Writer[Connection]


def open_writer(open_connection: OpenConnection) -> AbstractAsyncContextManager[Writer]:
    """The writer over this connection, see `cxp2p.writing.open_writer`. Its acts raise StoreError."""
    return writing.open_writer(open_connection, _transact, lambda error: copy(translated(error)), StoreError(CLOSED))


def _transact(connection: Connection, batch: Sequence[writing.Pending[Connection]]) -> bool:
    committed = outcome.capture(_in_transaction, connection, batch)
    if isinstance(committed, outcome.Error):
        log.error("%d writes failed together: %s", len(batch), translated(committed.error))
    return committed.unwrap()


def _in_transaction(connection: Connection, batch: Sequence[writing.Pending[Connection]]) -> bool:
    do = _bare if len(batch) == 1 else _in_savepoint
    with _begun(connection) as transaction:
        for pending in batch:
            pending.result = outcome.capture(do, connection, pending.act)
            if do is _bare and isinstance(pending.result, outcome.Error):
                transaction.rollback()
                return False
            _check_alive(connection)
    return True


def _begun(connection: Connection) -> RootTransaction:
    """A transaction. A connection that was lost while nobody used it is opened anew, and nothing is lost by that."""
    try:
        return connection.begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return connection.begin()


def _bare(connection: Connection, act: Act[T]) -> T:
    """An act that is alone needs no savepoint, which costs as much as two statements."""
    try:
        return act(connection)
    except SQLAlchemyError as error:
        raise translated(error) from error


def _in_savepoint(connection: Connection, act: Act[T]) -> T:
    try:
        with connection.begin_nested():
            return act(connection)
    except SQLAlchemyError as error:
        raise translated(error) from error


def _check_alive(connection: Connection) -> None:
    """SQLite ends a whole transaction by itself when the disk is full, and a commit would then say yes to nothing."""
    if connection.invalidated:
        raise StoreUnavailable("the connection to the gateway's database was lost")
    if connection.dialect.name == "sqlite" and not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        raise StoreError("the database could not write, and undid all that came together; is the disk full?")


def translated(error: BaseException) -> StoreError:
    """What a database's library raised, in our words: without what was to be written."""
    if isinstance(error, StoreError):
        return error
    cause = first_line(error)
    if _passes(error):
        return StoreUnavailable(f"the gateway's database does not answer: {cause}")
    return StoreError(f"the gateway's database could not do this: {cause}")


def first_line(error: BaseException) -> str:
    """What went wrong; what PostgreSQL adds in further lines shows rows."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _passes(error: BaseException) -> bool:
    """Whether it is the database's state, which may be another one soon, and not what was asked of it."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    name = getattr(error.orig, "sqlite_errorname", None)
    if isinstance(error.orig, sqlite3.Error):
        return str(name).startswith("SQLITE_BUSY")
    return error.connection_invalidated or isinstance(error, (OperationalError, InternalError))
