"""The part of `SqlitePapers` that keeps what is known of epochs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from cxp2p_node.papers import ASKED, OMITTED, ROOTS_MAX, WRONGS_MAX, Counted, KeptWrong, Paper, Sums
from cxp2p_node.papers.writer import Writer

COUNTERSIGNED: Final = "countersign_envelope IS NOT NULL"
UNCOUNTED: Final = f"(counted_in IS NULL OR counted_in = {ASKED})"
UPGRADE: Final = f"""
ALTER TABLE papers ADD COLUMN counted_in INTEGER;
CREATE INDEX papers_uncounted ON papers (gateway, ended_at_ms) WHERE {COUNTERSIGNED} AND {UNCOUNTED};
CREATE TABLE roots (
    gateway TEXT NOT NULL, epoch INTEGER NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (gateway, epoch)
) STRICT;
CREATE TABLE wrongs (
    id TEXT PRIMARY KEY, peer TEXT NOT NULL, wrong TEXT NOT NULL, says TEXT NOT NULL, data BLOB NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
"""
WHERE_IT_STANDS: Final = (
    f"CASE WHEN {UNCOUNTED} THEN '{Counted.WAITING}' WHEN counted_in = {OMITTED} THEN '{Counted.OMITTED}' "
    f"WHEN counted_in < ? THEN '{Counted.RELEASED}' ELSE '{Counted.HELD}' END"
)


class SqliteEpochPapers:
    """Epochs beside the papers, in the same file. `read`: rows of papers as they are."""

    def __init__(self, writer: Writer, columns: str, read: Callable[[Sequence[object]], Paper]) -> None:
        self.writer = writer
        self._columns = columns
        self._read = read

    async def uncounted(self, gateway: str, before_ms: int, limit: int, offset: int = 0) -> Sequence[Paper]:
        words = (
            f"SELECT {self._columns} FROM papers WHERE {COUNTERSIGNED} AND {UNCOUNTED} "
            "AND gateway = ? AND ended_at_ms < ? ORDER BY ended_at_ms, id LIMIT ? OFFSET ?"
        )
        values = (gateway, before_ms, limit, offset)
        return await self.writer.do(lambda kept: [self._read(row) for row in kept.execute(words, values)])

    async def count(self, paper: Paper, counted_in: int) -> None:
        words = "UPDATE papers SET counted_in = ? WHERE gateway = ? AND lane = ? AND seq = ?"
        await self.writer.do(lambda kept: kept.execute(words, (counted_in, paper.gateway, paper.lane, paper.seq)))

    async def keep_root(self, gateway: str, epoch: int, envelope: bytes) -> bytes:
        def act(kept: sqlite3.Connection) -> bytes:
            kept.execute("INSERT OR IGNORE INTO roots VALUES (?, ?, ?)", (gateway, epoch, envelope))
            kept.execute("DELETE FROM roots WHERE rowid <= (SELECT max(rowid) FROM roots) - ?", (ROOTS_MAX,))
            found = kept.execute("SELECT envelope FROM roots WHERE gateway = ? AND epoch = ?", (gateway, epoch))
            return bytes(found.fetchone()[0])

        return await self.writer.do(act)

    async def root(self, gateway: str, epoch: int | None) -> bytes | None:
        words = "SELECT envelope FROM roots WHERE gateway = ? AND (? IS NULL OR epoch = ?) ORDER BY epoch DESC LIMIT 1"
        row = await self.writer.do(lambda kept: kept.execute(words, (gateway, epoch, epoch)).fetchone())
        return None if row is None else bytes(row[0])

    async def accuse(self, wrong: KeptWrong) -> None:
        beyond = "DELETE FROM wrongs WHERE id IN (SELECT id FROM wrongs ORDER BY at_ms DESC, id LIMIT -1 OFFSET ?)"

        def act(kept: sqlite3.Connection) -> None:
            values = (wrong.id, wrong.peer, wrong.wrong, wrong.says, wrong.data, wrong.at_ms)
            kept.execute("INSERT OR IGNORE INTO wrongs VALUES (?, ?, ?, ?, ?, ?)", values)
            kept.execute(beyond, (WRONGS_MAX,))

        await self.writer.do(act)

    async def wrongs(self) -> Sequence[KeptWrong]:
        words = "SELECT id, peer, wrong, says, data, at_ms FROM wrongs ORDER BY at_ms DESC, id"
        rows = await self.writer.do(lambda kept: kept.execute(words).fetchall())
        return [KeptWrong(id=i, peer=p, wrong=w, says=s, data=d, at_ms=at) for i, p, w, s, d, at in rows]

    async def counted(self, released_before: int) -> dict[Counted, Sums]:
        words = (
            f"SELECT {WHERE_IT_STANDS} AS place, count(*), sum(charge), sum(agreed) FROM papers "
            f"WHERE {COUNTERSIGNED} GROUP BY place"
        )
        rows = await self.writer.do(lambda kept: kept.execute(words, (released_before,)).fetchall())
        return {Counted(place): Sums(count, charge, agreed) for place, count, charge, agreed in rows}
