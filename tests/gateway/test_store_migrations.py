"""Databases come up to date: as old ones were made, without loss, whole or not at all; newer ones are left alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import IntegrityError

from cxp2p.ledger import Account, HoldState
from cxp2p_gateway.keys import Key
from cxp2p_gateway.store import StoreError, postgres, sqlite
from cxp2p_gateway.store.migrations import newest
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.store.schema import METADATA
from test_store import LATER_MS, NOW_MS, Clock, generation

VERSION_1 = """\
CREATE TABLE accounts (id TEXT NOT NULL, created_at_ms INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE keys (id TEXT NOT NULL, account TEXT NOT NULL, digest BLOB NOT NULL, created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER, revoked_at_ms INTEGER, used_at_ms INTEGER, PRIMARY KEY (id));
CREATE TABLE balances (id TEXT NOT NULL, balance INTEGER NOT NULL, held INTEGER NOT NULL, PRIMARY KEY (id),
  CONSTRAINT not_overdrawn CHECK (held >= 0 AND (balance >= held OR id = 'network')));
CREATE TABLE transfers (id TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, amount INTEGER NOT NULL,
  at_ms INTEGER NOT NULL, PRIMARY KEY (id), CONSTRAINT moves CHECK (amount >= 0 AND source <> target));
CREATE TABLE holds (id TEXT NOT NULL, account TEXT NOT NULL, amount INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,
  state TEXT NOT NULL, charge INTEGER NOT NULL, target TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (id),
  CONSTRAINT charge_within_hold CHECK (charge BETWEEN 0 AND amount));
CREATE TABLE generations (order_id TEXT NOT NULL, id TEXT NOT NULL, account TEXT NOT NULL, "key" TEXT NOT NULL,
  model TEXT NOT NULL, node TEXT NOT NULL, charge INTEGER NOT NULL, in_units INTEGER NOT NULL,
  out_units INTEGER NOT NULL, finish TEXT NOT NULL, created_at_ms INTEGER NOT NULL, order_envelope BLOB NOT NULL,
  receipt_envelope BLOB NOT NULL, countersign_envelope BLOB NOT NULL, PRIMARY KEY (order_id));
CREATE INDEX open_holds ON holds (expires_at_ms) WHERE state = 'open';
CREATE INDEX generations_by_id ON generations (id, account);
PRAGMA application_id = 1668837426;
PRAGMA user_version = 1;
"""
SIGNED = (b"order \x00\xff", b"receipt", b"countersign")
ROWS: dict[str, list[tuple[object, ...]]] = {
    "accounts": [("user_1", NOW_MS)],
    "keys": [("abcdefgh", "user_1", b"d" * 32, NOW_MS, None, None, 5), ("old", "user_1", b"e", 1, 2, 3, None)],
    "balances": [("network", -1000, 0), ("user_1", 986, 50), ("node:peer", 14, 0)],
    "transfers": [
        ("grant:user_1", "network", "user_1", 1000, 1),
        ("o2", "user_1", "node:peer", 7, 2),
        ("o1", "user_1", "node:peer", 7, 2),
    ],
    "holds": [
        ("o2", "user_1", 50, LATER_MS, "posted", 7, "node:peer", 2),
        ("o1", "user_1", 50, LATER_MS, "posted", 7, "node:peer", 2),
        ("o3", "user_1", 50, LATER_MS, "open", 0, "", 2),
    ],
    "generations": [
        (order, "chatcmpl-1", "user_1", "abcdefgh", "smollm2:135m", "peer", 7, 3, 4, "stop", NOW_MS, *SIGNED)
        for order in ("o2", "o1")
    ],
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as the first version made it, with something in each table."""
    path = tmp_path / "gateway.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(VERSION_1)
        for table, rows in ROWS.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    return path


def dump(path: Path) -> list[str]:
    """All tables and rows, as SQLite writes them out."""
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), *map(str, connection.execute("PRAGMA user_version"))]


async def test_an_old_database_keeps_everything(old: Path) -> None:
    """Accounts, keys, credit, receipts in their order, and what was open is void, as at each start."""
    async with sqlite.open_store(old, Clock()) as store:
        assert await store.do(lambda tables: tables.users(10, 0)) == (User(id="user_1", created_at_ms=NOW_MS),)
        kept = Key(id="abcdefgh", account="user_1", digest=b"d" * 32, created_at_ms=NOW_MS, used_at_ms=5)
        revoked = Key(id="old", account="user_1", digest=b"e", created_at_ms=1, expires_at_ms=2, revoked_at_ms=3)
        assert await store.keys_of("user_1") == (revoked, kept)
        assert await store.balance("user_1") == Account(id="user_1", balance=986, held=0)
        in_order = (generation("o2"), generation("o1"))
        assert await store.generations("user_1", "chatcmpl-1") == in_order
        assert await store.latest_generations("user_1", 10) == in_order[::-1]
        states = {hold.id: hold.state for hold in await store.do(lambda tables: tables.all_holds())}
        assert states == {"o1": HoldState.POSTED, "o2": HoldState.POSTED, "o3": HoldState.VOIDED}
        assert await store.audit() == ()
        await store.reserve("o4", "user_1", 10, LATER_MS)
        await store.settle(generation("o4"))
        assert await store.forget_generations(1, 2, 10) == 1
        assert [each.order_id for each in await store.generations("user_1", "chatcmpl-1")] == ["o1", "o4"]
    async with sqlite.open_store(old, Clock()) as store:
        assert (await store.balance("user_1")).balance == 979


# The tables are those that the program knows.


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection)
    return [each for each in compare_metadata(context, METADATA) if "alembic_version" not in str(each)]


async def test_migrated_tables_are_the_tables(tmp_path: Path, old: Path, postgres_url: str) -> None:
    """New or from of old, in SQLite or PostgreSQL: what the steps made is what `schema` says, and checks hold."""
    for path in (tmp_path / "new.sqlite", old):
        async with sqlite.open_store(path, Clock()):
            pass
    async with postgres.open_store(postgres_url, Clock()):
        pass
    driver = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    for url in (f"sqlite:///{tmp_path / 'new.sqlite'}", f"sqlite:///{old}", driver):
        engine = create_engine(url)
        with engine.connect() as connection:
            assert differences(connection) == []
            with pytest.raises(IntegrityError, match="not_overdrawn"):
                connection.exec_driver_sql("INSERT INTO balances VALUES ('user_9', 1, 2)")
        engine.dispose()


async def test_a_difference_would_be_seen(tmp_path: Path) -> None:
    """The comparison above can tell."""
    path = tmp_path / "new.sqlite"
    async with sqlite.open_store(path, Clock()):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE keys DROP COLUMN rpm")
        connection.execute("DROP INDEX uses_by_key")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as opened:
        assert len(differences(opened)) == 2
    engine.dispose()


# What is newer, or not ours.


async def test_a_newer_programs_database_is_left_alone(tmp_path: Path, postgres_url: str) -> None:
    """A step that nobody here knows: the error says what to do, and nothing was changed."""
    path = tmp_path / "gateway.sqlite"
    async with sqlite.open_store(path, Clock()):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = dump(path)
    with pytest.raises(StoreError, match="use the program that made it, or a newer one"):
        async with sqlite.open_store(path, Clock()):
            pass
    assert dump(path) == before
    with psycopg.connect(postgres_url) as server:
        server.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"made by a newer program \(its step is 9999\)"):
        async with postgres.open_store(postgres_url, Clock()):
            pass
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
        assert server.execute("SELECT count(*) FROM keepers").fetchone() == (0,)


async def test_another_programs_database_is_left_alone(postgres_url: str) -> None:
    """One that has a table of ours which no step of ours made."""
    with psycopg.connect(postgres_url) as server:
        server.execute("DROP TABLE alembic_version")
    with pytest.raises(StoreError, match="has a table 'accounts' that is not a gateway's"):
        async with postgres.open_store(postgres_url, Clock()):
            pass


# A crash in the middle.

DIES_AT = """\
import os, signal, sys
from pathlib import Path
import trio
from sqlalchemy import event
from sqlalchemy.engine import Engine
from cxp2p_gateway.store import postgres, sqlite

place, wanted = sys.argv[1], int(sys.argv[2])
seen = 0

def die(connection, cursor, statement, parameters, context, executemany):
    global seen
    if statement.lstrip().upper().startswith(("ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "DELETE")):
        seen += 1
        if seen == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "after_cursor_execute", die)

async def main():
    opening = postgres.open_store(place, lambda: 0) if "://" in place else sqlite.open_store(Path(place), lambda: 0)
    async with opening:
        pass

trio.run(main)
"""


def open_and_die(place: str, statement: int) -> int:
    """Opens a store in a process that is killed after so many statements that change something; its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", DIES_AT, place, str(statement)], env=environment).returncode


@pytest.mark.slow
async def test_a_crash_in_the_middle_leaves_the_old_one(old: Path) -> None:
    """Killed after statement after statement: each time the database is as it was, and the next start upgrades it."""
    before = dump(old)
    for statement in (1, 4, 9, 16, 25, 33):
        assert open_and_die(str(old), statement) == -signal.SIGKILL
        assert dump(old) == before
    async with sqlite.open_store(old, Clock()) as store:
        assert (await store.balance("user_1")).balance == 986
        assert await store.audit() == ()


@pytest.mark.slow
async def test_a_crash_in_the_middle_leaves_nothing(postgres_empty: Callable[[], str]) -> None:
    """PostgreSQL undoes all of a first start that was killed, and the next one makes it whole."""
    url = postgres_empty()
    for statement in (1, 5, 12, 20):
        assert open_and_die(url, statement) == -signal.SIGKILL
        with psycopg.connect(url) as server:
            assert server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    async with postgres.open_store(url, Clock()) as store:
        assert await store.accounts() == ()
    assert postgres.step_at(url) == newest()


def test_sqlite_counts_as_the_steps_do() -> None:
    """The number in the file's header, which `gateway check` reads without opening it, is that of the last step."""
    assert newest() == f"{sqlite.SCHEMA_VERSION:04}"
