"""What a simulated gateway keeps beyond its own life: books in memory, or in an SQLite file. No threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from cxp2p_gateway.store import Store, StoreError, Tables
from cxp2p_gateway.store.memory import MemoryTables
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.sqlite import connection_to

T = TypeVar("T")


class _Transact(Protocol):
    def __call__(self, act: Callable[[Tables], T], /) -> T: ...


class Books:
    """The books of one gateway, which it opens again after a crash; in memory if there is no `path`.

    A database is written in the loop's own thread: virtual time would run on while another one writes.
    """

    def __init__(self, wall_ms: Callable[[], int], path: Path | None = None) -> None:
        self._wall_ms = wall_ms
        self._path = path
        self._tables = MemoryTables()

    @contextmanager
    def open(self, is_dead: Callable[[], bool] = lambda: False) -> Iterator[Store]:
        """A store over them for one life of the gateway. Once `is_dead`, nothing is read or written: StoreError."""
        with self._opened() as transact:

            async def do(act: Callable[[Tables], T], /) -> T:
                await trio.lowlevel.checkpoint()
                if is_dead():
                    raise StoreError("the process that keeps these books is gone")
                return transact(act)

            yield Store(do, self._wall_ms)

    @contextmanager
    def _opened(self) -> Iterator[_Transact]:
        if self._path is None:
            yield lambda act: act(self._tables)
            return
        with connection_to(self._path) as connection:

            def transact(act: Callable[[Tables], T], /) -> T:
                with connection.begin():
                    return act(SqlTables(connection))

            yield transact
