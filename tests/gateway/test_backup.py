"""A copy that SQLite's own backup made of a gateway that runs is whole, and a gateway starts with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import trio

from cxp2p.ledger import NETWORK
from cxp2p_gateway.store.sqlite import open_store

WALL_MS = 1_700_000_000_000


def backup(source: Path, target: Path) -> None:
    """What `.backup` of the `sqlite3` command does."""
    with closing(sqlite3.connect(source)) as from_, closing(sqlite3.connect(target)) as to:
        from_.backup(to)


async def test_a_copy_of_a_running_gateway_is_whole(tmp_path: Path) -> None:
    """While it writes, without stopping it; a hold that the copy has open is given back."""
    path, copy = tmp_path / "gateway.sqlite", tmp_path / "copy" / "gateway.sqlite"
    copy.parent.mkdir()
    async with open_store(path, lambda: WALL_MS) as store, trio.open_nursery() as nursery:
        await store.grant("first", "user_1", 1000)
        await store.reserve("hold", "user_1", 300, WALL_MS + 1000)

        async def write() -> None:
            for number in range(200):
                await store.grant(f"grant-{number}", "user_2", 1)

        nursery.start_soon(write)
        await trio.to_thread.run_sync(backup, path, copy)

    async with open_store(copy, lambda: WALL_MS) as restored:
        assert await restored.audit() == ()
        account = await restored.balance("user_1")
        assert (account.balance, account.held) == (1000, 0)
        given = (await restored.balance("user_2")).balance
        assert (await restored.balance(NETWORK)).balance == -1000 - given
