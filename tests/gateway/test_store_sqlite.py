"""The store on disk: who may open it, what outlives a process, and what is left by one that was killed."""

from __future__ import annotations

import os
import sqlite3
import stat
from functools import partial
from pathlib import Path

import pytest

from cxp2p.ledger import HoldState
from cxp2p_gateway.store import StoreError
from cxp2p_gateway.store.sqlite import SCHEMA_VERSION, connection_to, open_store
from cxp2p_gateway.store.writer import Writer, open_writer
from test_store import KEY, LATER_MS, USER, Clock, generation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


def held(path: Path) -> dict[str, str]:
    """What another program reads of the holds."""
    with sqlite3.connect(path) as connection:
        rows = dict(connection.execute("SELECT id, state FROM holds").fetchall())
    connection.close()
    return rows


def tables(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
    connection.close()
    return names


def content(path: Path) -> bytes:
    return path.read_bytes()


def diary(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"my diary, which is dear to me\n" * 100)


# Opening.


async def test_what_is_kept_outlives_the_process(path: Path) -> None:
    """Closed and opened again: the same account, key, credit and generations."""
    async with open_store(path, Clock()) as store:
        await store.found(USER, KEY, 100)
        await store.reserve("o1", "user_1", 50, LATER_MS)
        await store.settle(generation())
    async with open_store(path, Clock()) as store:
        assert await store.accounts() == ("user_1",)
        assert await store.key(KEY.id) == KEY
        assert (await store.balance("user_1")).balance == 93
        assert await store.generations("user_1", "chatcmpl-1") == (generation(),)
        assert await store.audit() == ()


async def test_holds_that_were_left_are_void_at_the_next_start(path: Path) -> None:
    """Nobody will end the holds of a process that is no more, so the start does."""
    async with open_store(path, Clock()) as store:
        await store.found(USER, KEY, 100)
        await store.reserve("o1", "user_1", 50, LATER_MS)
    assert held(path) == {"o1": HoldState.OPEN}
    async with open_store(path, Clock()) as store:
        assert (await store.balance("user_1")).held == 0
        assert await store.audit() == ()
    assert held(path) == {"o1": HoldState.VOIDED}


async def test_a_second_gateway_on_the_same_database_stops(path: Path) -> None:
    """It says who keeps the database and what to do, and changes nothing; later it may have it."""
    async with open_store(path, Clock()) as store:
        await store.found(USER, KEY, 100)
        await store.reserve("o1", "user_1", 50, LATER_MS)
        with pytest.raises(StoreError, match=rf"another gateway \(process {os.getpid()}\): stop that one"):
            async with open_store(path, Clock()):
                pass
        assert (await store.balance("user_1")).held == 50
    async with open_store(path, Clock()):
        pass


async def test_a_newer_database_is_refused(path: Path) -> None:
    """A version that this program does not know is named, and the file stays as it was."""
    async with open_store(path, Clock()):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = content(path)
    with pytest.raises(StoreError, match=f"has version {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}"):
        async with open_store(path, Clock()):
            pass

    assert content(path) == before


async def test_somebody_elses_database_is_refused(path: Path) -> None:
    """A SQLite file of another program is left alone."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="not a gateway's database"):
        async with open_store(path, Clock()):
            pass

    assert tables(path) == ["songs"]


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """Whatever stands there is kept, and the error says so."""
    diary(path)
    before = content(path)
    with pytest.raises(StoreError, match="not a database; it was left as it was"):
        async with open_store(path, Clock()):
            pass

    assert content(path) == before


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder that is a file, and a database that is a folder."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "gateway.db", tmp_path / "folder"):
        with pytest.raises(StoreError, match="cannot be"):
            async with open_store(path, Clock()):
                pass


async def test_nobody_else_can_read_it(path: Path) -> None:
    """The database, its log and its lock are for their owner only."""
    async with open_store(path, Clock()) as store:
        await store.found(USER, KEY, 100)
        names = sorted(each.name for each in path.parent.iterdir())

        assert names == ["gateway.db", "gateway.db-shm", "gateway.db-wal", "gateway.db.lock"]
        assert all(not stat.S_IMODE(each.stat().st_mode) & 0o077 for each in path.parent.iterdir())


async def test_every_commit_is_synced(path: Path) -> None:
    """A write-ahead log, and a sync at each commit: what was answered survives a power cut."""

    async def pragma(opened: Writer, name: str) -> object:
        return await opened.do(lambda connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    path.parent.mkdir()
    async with open_writer(partial(connection_to, path)) as opened:
        assert await pragma(opened, "journal_mode") == "wal"
        assert await pragma(opened, "synchronous") == 2


async def test_a_closed_store_says_so(path: Path) -> None:
    """A call after the end is an error, not a wait."""
    async with open_store(path, Clock()) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await store.accounts()
