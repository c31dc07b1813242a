"""A database and its store: the tables brought up to date, one thread that writes, and a few that read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Final, TypeVar

import trio
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cxp2p_gateway.store import Store, Tables
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.writer import open_writer, translated

T = TypeVar("T")

READERS: Final = 4  # threads, each with a connection: who reads never waits for who writes


@asynccontextmanager
async def open_sql_store(
    open_connection: Callable[[], AbstractContextManager[Connection]],
    reading: Engine,
    keeper: Callable[[], int],
    wall_ms: Callable[[], int],
) -> AsyncIterator[Store]:
    """The store over a database. `keeper`: whose the holds are, known once there is a connection."""
    limiter = trio.CapacityLimiter(READERS)
    try:
        async with open_writer(open_connection) as writer:

            async def do(act: Callable[[Tables], T], /) -> T:
                return await writer.do(lambda connection: act(SqlTables(connection, keeper())))

            async def read(act: Callable[[Tables], T], /) -> T:
                writer.check_open()
                return await trio.to_thread.run_sync(read_with, reading, act, limiter=limiter)

            yield Store(do, wall_ms, read)
    finally:
        reading.dispose()


def read_with(engine: Engine, act: Callable[[Tables], T]) -> T:
    """What `act` reads in one transaction. Raises StoreError."""
    try:
        with engine.connect() as connection:
            return act(SqlTables(connection))
    except SQLAlchemyError as error:
        raise translated(error) from error
