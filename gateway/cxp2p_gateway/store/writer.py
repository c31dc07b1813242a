"""One thread that writes, and commits together what came in while the last commit ran.

A commit waits for the disk, some milliseconds; what is done inside it takes microseconds. So a hundred jobs that end
at once cost one or two commits, not a hundred. SQLite has one writer anyhow: here it is one by construction, and no
write ever waits for a lock.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import outcome
import trio
from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cxp2p.net.tasks import background
from cxp2p_gateway.store import StoreError, StoreUnavailable

log = logging.getLogger("cxp2p.store")

T = TypeVar("T")

WAITING_MAX: Final = 1024  # acts before the thread; whoever is over it waits its turn
CLOSED: Final = "the gateway's database is closed"
BATCH_MAX: Final = 256  # acts in one commit, so that the first of them does not wait for a crowd

Act = Callable[[Connection], T]
OpenConnection = Callable[[], AbstractContextManager[Connection]]


@dataclass(slots=True)
class _Pending:
    act: Act[Any]
    done: trio.Event = field(default_factory=trio.Event)
    result: outcome.Outcome[Any] = field(default_factory=lambda: outcome.Error(StoreError("not done yet")))


class Writer:
    """Does acts in the order in which they come, each whole or not at all. Make one with `open_writer`."""

    def __init__(self) -> None:
        self.commits = 0
        self._queue: SimpleQueue[_Pending | None] = SimpleQueue()
        self._room = trio.Semaphore(WAITING_MAX)
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Writer {self.waiting} waiting, {self.commits} commits>"

    @property
    def waiting(self) -> int:
        """Acts that wait for the thread, at most `WAITING_MAX`."""
        return WAITING_MAX - self._room.value

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def do(self, act: Act[T]) -> T:
        """Does one act, and returns what it returns once that is on disk. Cancelled, it has not begun.

        What the act raises is raised here, and only its own writes are undone. Raises StoreError.
        """
        await self._room.acquire()
        try:
            if self._closed:
                raise StoreError(CLOSED)
            pending = _Pending(act)
            self._queue.put(pending)
            with trio.CancelScope(shield=True):  # from here on it will be done: the caller must hear of it
                await pending.done.wait()
        finally:
            self._room.release()
        value: T = pending.result.unwrap()
        return value

    def close(self) -> None:
        """No more acts; those that wait are still done."""
        self._closed = True
        self._queue.put(None)

    # In the thread.

    def run(self, open_connection: OpenConnection, opened: Callable[[], object]) -> None:
        """Works until `close`. Calls `opened` in trio's thread once there is a connection."""
        with open_connection() as connection:
            self._token.run_sync_soon(opened)
            while batch := self._next_batch():
                committed = outcome.capture(self._transaction, connection, batch)
                if isinstance(committed, outcome.Error):
                    told = translated(committed.error)
                    log.error("%d writes failed together: %s", len(batch), told)
                    for pending in batch:
                        pending.result = outcome.Error(copy(told))  # each who waits raises its own
                self._token.run_sync_soon(_report, batch)

    def _next_batch(self) -> list[_Pending]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < BATCH_MAX:
            try:
                pending = self._queue.get_nowait()
            except Empty:
                break
            if pending is None:
                self._queue.put(None)
                break
            batch.append(pending)
        return batch

    def _transaction(self, connection: Connection, batch: list[_Pending]) -> None:
        do = _bare if len(batch) == 1 else _in_savepoint
        with _begun(connection) as transaction:
            for pending in batch:
                pending.result = outcome.capture(do, connection, pending.act)
                if do is _bare and isinstance(pending.result, outcome.Error):
                    transaction.rollback()
                    return
                _check_alive(connection)
        self.commits += 1


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


def _report(batch: list[_Pending]) -> None:
    for pending in batch:
        pending.done.set()


@asynccontextmanager
async def open_writer(open_connection: OpenConnection) -> AsyncIterator[Writer]:
    """A writer over the connection that `open_connection` opens in its thread. What that raises is raised here.

    When the block ends, all that was accepted is written before this returns.
    """
    writer = Writer()
    opened = trio.Event()
    async with background() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, writer.run, open_connection, opened.set)
        try:
            await opened.wait()
            yield writer
        finally:
            writer.close()
