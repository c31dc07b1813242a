"""One thread that owns a database's connection, and commits together what came in while the last commit ran.

A commit waits for the disk, some milliseconds; what is done inside it takes microseconds. So a hundred jobs that end
at once cost one or two commits, not a hundred. What a transaction is, is its database's to say: see `Transact`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeAlias, TypeVar

import outcome
import trio

from cxp2p.errors import CxError
from cxp2p.net.tasks import background

C = TypeVar("C")
T = TypeVar("T")

WAITING_MAX: Final = 1024  # acts before the thread; whoever is over it waits its turn
BATCH_MAX: Final = 256  # acts in one commit, so that the first of them does not wait for a crowd


@dataclass(slots=True)
class Pending(Generic[C]):
    """An act that waits for its commit, and what came of it."""

    act: Callable[[C], Any]
    result: outcome.Outcome[Any]
    done: trio.Event = field(default_factory=trio.Event)


Transact: TypeAlias = Callable[[C, Sequence[Pending[C]]], bool]
"""Does acts in one transaction, sets the result of each, and says whether there was something to commit.

What one act raises is its own result, and only its own writes are undone; what is raised fails all of them.
"""

Told: TypeAlias = Callable[[BaseException], CxError]
"""What ended a whole transaction, in the words of whoever keeps this database: a new error for each who waits."""


class Writer(Generic[C]):
    """Does acts in the order in which they come, each whole or not at all. Make one with `open_writer`."""

    def __init__(self, transact: Transact[C], told: Told, closed: CxError) -> None:
        self.commits = 0
        self._transact = transact
        self._told = told
        self._closed_with = closed
        self._queue: SimpleQueue[Pending[C] | None] = SimpleQueue()
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

    def check_open(self) -> None:
        """Raises the error that the writer was made with, if it is closed."""
        if self._closed:
            raise type(self._closed_with)(*self._closed_with.args)

    async def do(self, act: Callable[[C], T]) -> T:
        """Does one act, and returns what it returns once that is on disk. Cancelled, it has not begun.

        What the act raises is raised here, and so is what ended its transaction.
        """
        await self._room.acquire()
        try:
            self.check_open()
            pending = Pending[C](act, outcome.Error(self._closed_with))
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

    def run(self, open_connection: Callable[[], AbstractContextManager[C]], opened: Callable[[], object]) -> None:
        """Works until `close`. Calls `opened` in trio's thread once there is a connection."""
        with open_connection() as connection:
            self._token.run_sync_soon(opened)
            while batch := self._next_batch():
                committed = outcome.capture(self._transact, connection, batch)
                if isinstance(committed, outcome.Error):
                    for pending in batch:
                        pending.result = outcome.Error(self._told(committed.error))
                elif committed.unwrap():
                    self.commits += 1
                self._token.run_sync_soon(_report, batch)

    def _next_batch(self) -> list[Pending[C]]:
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


def _report(batch: Sequence[Pending[Any]]) -> None:
    for pending in batch:
        pending.done.set()


@asynccontextmanager
async def open_writer(
    open_connection: Callable[[], AbstractContextManager[C]], transact: Transact[C], told: Told, closed: CxError
) -> AsyncIterator[Writer[C]]:
    """A writer over the connection that `open_connection` opens in its thread. What that raises is raised here.

    `closed`: what is raised afterwards. When the block ends, all that was accepted is written before this returns.
    """
    writer = Writer(transact, told, closed)
    opened = trio.Event()
    async with background() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, writer.run, open_connection, opened.set)
        try:
            await opened.wait()
            yield writer
        finally:
            writer.close()
