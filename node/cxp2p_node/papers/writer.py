"""One thread that owns the connection, and commits together what came in while the last commit ran.

A commit waits for the disk, some milliseconds; what is done inside it takes microseconds. So a hundred jobs that end
at once cost one or two commits, not a hundred.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

import outcome
import trio

from cxp2p.net.tasks import background
from cxp2p_node.papers import PapersError

T = TypeVar("T")

WAITING_MAX: Final = 1024  # acts before the thread; whoever is over it waits its turn
BATCH_MAX: Final = 256  # acts in one commit, so that the first of them does not wait for a crowd

Act: TypeAlias = Callable[[sqlite3.Connection], T]
OpenConnection: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


@dataclass(slots=True)
class _Pending:
    act: Act[Any]
    done: trio.Event = field(default_factory=trio.Event)
    result: outcome.Outcome[Any] = field(default_factory=lambda: outcome.Error(PapersError("not done yet")))


class Writer:
    """Does acts in the order in which they come, each whole or not at all. Make one with `open_writer`."""

    def __init__(self, begin: str) -> None:
        self._begin = begin
        self.commits = 0
        self._queue: SimpleQueue[_Pending | None] = SimpleQueue()
        self._room = trio.Semaphore(WAITING_MAX)
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False

    async def do(self, act: Act[T]) -> T:
        """Does one act, and returns what it returns once that is on disk. Cancelled, it has not begun.

        Raises PapersError if it cannot be written, and what the act raises: only its own writes are undone.
        """
        await self._room.acquire()
        try:
            if self._closed:
                raise PapersError("the node's papers are closed")
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
                    for pending in batch:
                        pending.result = outcome.Error(_told(committed.error))  # each who waits raises its own
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

    def _transaction(self, connection: sqlite3.Connection, batch: list[_Pending]) -> None:
        connection.execute(self._begin)
        try:
            for pending in batch:
                if not _do(connection, pending, alone=len(batch) == 1):
                    return
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.commits += 1


def _do(connection: sqlite3.Connection, pending: _Pending, *, alone: bool) -> bool:
    """One act; whether there is something to commit. In a savepoint, which one that is alone does not need.

    SQLite ends a whole transaction by itself when the disk is full: then all of it fails.
    """
    if not alone:
        connection.execute("SAVEPOINT act")
    pending.result = outcome.capture(pending.act, connection)
    if isinstance(pending.result, outcome.Error):
        error = pending.result.error
        if not connection.in_transaction and not alone:
            raise error
        if isinstance(error, sqlite3.Error):
            pending.result = outcome.Error(_told(error))
        if alone:
            return False
        connection.execute("ROLLBACK TO act")
    if not alone:
        connection.execute("RELEASE act")
    return True


def _told(error: BaseException) -> PapersError:
    return PapersError(f"the node's papers cannot be written: {error}")


def _report(batch: list[_Pending]) -> None:
    for pending in batch:
        pending.done.set()


@asynccontextmanager
async def open_writer(open_connection: OpenConnection, begin: str = "BEGIN IMMEDIATE") -> AsyncIterator[Writer]:
    """A writer over the connection that `open_connection` opens in its thread. What that raises is raised here.

    When the block ends, all that was accepted is written before this returns.
    """
    writer = Writer(begin)
    opened = trio.Event()
    async with background() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, writer.run, open_connection, opened.set)
        try:
            await opened.wait()
            yield writer
        finally:
            writer.close()
