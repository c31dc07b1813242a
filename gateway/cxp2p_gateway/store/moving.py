"""From a SQLite file to PostgreSQL: every row, in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from cxp2p_gateway.store import StoreError, postgres, sqlite
from cxp2p_gateway.store.schema import GENERATIONS, KEEPERS, METADATA
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.tables import Tables

ROWS_AT_ONCE: Final = 1000


async def move(path: Path, url: str, wall_ms: Callable[[], int]) -> int:
    """Copies all that is kept in the file at `path` into the empty database at `url`; returns how many rows it were.

    The file stays as it is, but for its tables, which are brought up to date. Raises StoreError: either cannot be used,
    a gateway runs on the file, or the database has something already; then nothing was copied.
    """
    async with sqlite.open_store(path, wall_ms), postgres.open_store(url, wall_ms) as target:
        reading = sqlite.reading_engine(path)

        def act(tables: Tables) -> int:
            assert isinstance(tables, SqlTables)
            if tables.user_count() or tables.all_transfers():
                raise StoreError("the PostgreSQL database has accounts already: only an empty one can be moved into")
            return _copy(reading, tables.connection)

        try:
            return await target.do(act)
        finally:
            reading.dispose()


def _copy(reading: Engine, target: Connection) -> int:
    copied = 0
    with reading.connect() as source:
        for table in METADATA.sorted_tables:
            if table is KEEPERS:
                continue
            rows = source.execute(select(table).order_by(*table.primary_key))
            for part in rows.mappings().partitions(ROWS_AT_ONCE):
                target.execute(table.insert(), [dict(row) for row in part])
                copied += len(part)
    last = select(func.coalesce(func.max(GENERATIONS.c.row), 0) + 1).scalar_subquery()
    counter = func.pg_get_serial_sequence(GENERATIONS.name, GENERATIONS.c.row.name)
    target.execute(select(func.setval(counter, last, False)))
    return copied
