"""From a SQLite file to PostgreSQL: everything comes along, or nothing does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p_gateway.commands import gateway
from cxp2p_gateway.keys import Kind
from cxp2p_gateway.store import Store, StoreError, StoreLocked, moving, postgres, sqlite
from cxp2p_gateway.store.epoch_rows import START, EpochBlock, EpochEntry, EpochRow
from cxp2p_gateway.store.rows import Session, UseQuery
from cxp2p_gateway.store.schema import KEEPERS, METADATA
from test_store import KEY, LATER_MS, USER, Clock, generation
from test_store_orders import KEPT, SENT

LIMITED = replace(KEY, id="limited1", kind=Kind.VIRTUAL, models=("a", "b"), spend_limit=2**62, rpm=5)
SESSION = Session(digest=b"\x00\xff" * 16, account="user_1", created_at_ms=1, expires_at_ms=2)
PLACE = {"gateway": "g", "epoch": 7, "node": "peer", "lane": b"\x00\xff" * 8, "seq": 2**62}
ENTRY = EpochEntry(receipt_hash=b"h" * 32, order_id="o1", epoch_max=31, leaf=b"l" * 48, **PLACE)  # type: ignore[arg-type]
BLOCK = EpochBlock(number=0, packed=b"p" * 48, **PLACE)  # type: ignore[arg-type]
ROW = EpochRow(gateway="g", epoch=7, closed_at_ms=9, count=1, sum=2**62, envelope=b"root", is_whole=True)
ALL_DAYS = UseQuery(first_day="0000", last_day="9999")


async def fill(store: Store) -> None:
    """Something in every table; more receipts than are copied at once."""
    await store.found(replace(USER, email="ada@example.org", is_admin=True), KEY, 10**6)
    await store.put_key(LIMITED)
    await store.do(lambda tables: tables.add_session(SESSION, 5))
    await store.do(lambda tables: tables.put_rate("limited1", "requests", 2**50))
    for number in range(7):
        await store.reserve(f"o{number}", "user_1", 50, LATER_MS)
        await store.settle(generation(f"o{number}", app="radio"))
    await store.reserve("left", "user_1", 50, LATER_MS)
    await store.do(lambda tables: tables.put_order(SENT))
    await store.do(lambda tables: tables.add_evidence(KEPT))
    await store.do(lambda tables: tables.add_epoch_entry(ENTRY))
    await store.do(lambda tables: tables.put_epoch_block(BLOCK))
    await store.do(lambda tables: tables.put_epoch(ROW))


async def content(store: Store) -> list[object]:
    """All that can be asked of a store."""
    return [
        await store.do(lambda tables: tables.users(10, 0)),
        await store.do(lambda tables: tables.session(SESSION.digest)),
        await store.do(lambda tables: tables.rate_empty_at_us("limited1", "requests")),
        await store.do(lambda tables: tables.budget(KEY.id)),
        await store.keys_of("user_1"),
        await store.uses(ALL_DAYS),
        await store.latest_generations("user_1", 100),
        await store.do(lambda tables: tables.order(SENT.order_id)),
        await store.do(lambda tables: tables.evidence(10, 0)),
        await store.do(lambda tables: tables.epoch_entries("g", 7, START, 10)),
        await store.do(lambda tables: tables.epoch_blocks("g", 7)),
        await store.do(lambda tables: tables.latest_epochs(None, 2**62, 10)),
        sorted(await store.do(lambda tables: tables.all_holds()), key=str),
        sorted(await store.do(lambda tables: tables.all_transfers()), key=str),
        sorted(await store.do(lambda tables: tables.all_balances()), key=str),
    ]


async def test_everything_comes_along(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table, every field, the receipts in their order; what comes later goes on from there."""
    monkeypatch.setattr(moving, "ROWS_AT_ONCE", 3)
    path = tmp_path / "gateway.sqlite"
    async with sqlite.open_store(path, Clock()) as store:
        await fill(store)
    copied = await moving.move(path, postgres_url, Clock())
    async with sqlite.open_store(path, Clock()) as store:
        before = await content(store)
    with psycopg.connect(postgres_url) as server:
        counts = {
            name: server.execute(f'SELECT count(*) FROM "{name}"'.encode()).fetchone()
            for name in METADATA.tables
            if name != KEEPERS.name
        }
    assert all(count is not None and count[0] > 0 for count in counts.values()), counts
    assert copied == sum(count[0] for count in counts.values() if count is not None)
    async with postgres.open_store(postgres_url, Clock()) as store:
        assert await content(store) == before
        await store.reserve("next", "user_1", 50, LATER_MS)
        await store.settle(generation("next"))
        assert (await store.latest_generations("user_1", 1))[0].order_id == "next"
        assert await store.forget_generations(1, 3, 100) == 5
        assert await store.audit() == ()


async def test_only_into_an_empty_one(tmp_path: Path, postgres_url: str) -> None:
    """A database that has accounts, or a file that a gateway keeps: nothing is copied."""
    path = tmp_path / "gateway.sqlite"
    async with sqlite.open_store(path, Clock()) as store:
        await fill(store)
        with pytest.raises(StoreLocked):
            await moving.move(path, postgres_url, Clock())
    await moving.move(path, postgres_url, Clock())
    with pytest.raises(StoreError, match="only an empty one can be moved into"):
        await moving.move(path, postgres_url, Clock())
    async with postgres.open_store(postgres_url, Clock()) as store:
        assert await store.audit() == ()


def test_the_command(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is missing, and how many rows it were."""
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path))

    def run() -> Result:
        return CliRunner().invoke(gateway, ["move"])

    assert "database.url: not set" in run().output
    monkeypatch.setenv("CXP2P_GATEWAY_DATABASE__URL", postgres_url)
    assert "nothing has to be moved" in run().output

    async def make() -> None:
        async with sqlite.open_store(tmp_path / "gateway.sqlite", Clock()) as store:
            await store.found(USER, KEY, 100)

    trio.run(make)
    moved = run()
    assert (moved.exit_code, moved.output) == (0, "copied 5 rows; the next start uses PostgreSQL\n")
    again = run()
    assert again.exit_code != 0
    assert "only an empty one" in again.output
    with closing(psycopg.connect(postgres_url)) as server:
        assert server.execute("SELECT id FROM accounts").fetchall() == [("user_1",)]
