"""The papers on disk: SQLite with a write-ahead log, every commit on disk before it is answered.

One process keeps one file, which a lock file sees to. A process that was killed needs no repair: SQLite undoes what was
not committed, and the jobs that ran then are lost, which the next start writes down.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Final

from cxp2p.exposure import DISPUTE_MS, SILENCE_MS
from cxp2p.records import Receipt
from cxp2p_node.papers import (
    ANY,
    LANES_MAX,
    NEVER_MS,
    OVER,
    OWED_MAX,
    UNANSWERED,
    Answer,
    Dropped,
    Kept,
    LaneKept,
    OwedKept,
    Paper,
    PapersError,
    State,
    Sums,
    receipted,
)
from cxp2p_node.papers.sqlite_epochs import UPGRADE, SqliteEpochPapers
from cxp2p_node.papers.writer import Writer, open_writer

FILE_NAME: Final = "receipts.db"
VERSION: Final = 2  # kept in SQLite's user_version
APPLICATION_ID: Final = 0x6378706E  # "cxpn": tells this program's files from other people's
COLUMNS: Final = tuple(each.name for each in fields(Paper))
ALL: Final = ", ".join(COLUMNS)
THIS: Final = "gateway = ? AND lane = ? AND seq = ?"
SCHEMA: Final = f"""
CREATE TABLE papers (
    id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, lane BLOB NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL,
    service TEXT NOT NULL, model TEXT NOT NULL, taken_at_ms INTEGER NOT NULL, replayable_until_ms INTEGER NOT NULL,
    order_envelope BLOB NOT NULL, voucher_envelope BLOB, vouched INTEGER NOT NULL, receipt_envelope BLOB,
    receipt_hash BLOB, ended_at_ms INTEGER NOT NULL, finish TEXT NOT NULL, in_units INTEGER NOT NULL,
    out_units INTEGER NOT NULL, charge INTEGER NOT NULL, cum_charge INTEGER NOT NULL, countersign_envelope BLOB,
    agreed INTEGER NOT NULL, claim_at_ms INTEGER NOT NULL, note TEXT NOT NULL, forgiven INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX papers_seq ON papers (gateway, lane, seq);
CREATE INDEX papers_claims ON papers (gateway) WHERE state = '{State.CLAIMED}';
{UPGRADE}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


def _listed(states: frozenset[State]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


class SqlitePapers(SqliteEpochPapers):
    """Papers in one table. Make them with `open_papers`."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer, ALL, _paper)

    async def start(self, wall_ms: int) -> Kept:
        return await self.writer.do(partial(_start, wall_ms=wall_ms))

    async def take(self, paper: Paper) -> None:
        await self.writer.do(partial(_take, paper=paper))

    async def vouch(self, paper: Paper, envelope: bytes, vouched: int) -> None:
        changes: dict[str, object] = {"voucher_envelope": envelope, "vouched": vouched}
        await self.writer.do(partial(_change_open, paper=paper, changes=changes))

    async def finish(self, paper: Paper, receipt: Receipt, envelope: bytes, wall_ms: int) -> None:
        changes = receipted(receipt, envelope, wall_ms)
        await self.writer.do(partial(_change_open, paper=paper, changes=changes))

    async def lose(self, paper: Paper) -> None:
        await self.writer.do(partial(_change_open, paper=paper, changes={"state": State.LOST}))

    async def settle(self, paper: Paper, answer: Answer) -> bool:
        changes: dict[str, object] = {"state": answer.state, "agreed": answer.agreed, "note": answer.note}
        changes["countersign_envelope"] = answer.envelope
        where = "receipt_envelope IS NOT NULL AND countersign_envelope IS NULL"
        return await self.writer.do(partial(_change, paper=paper, changes=changes, where=where))

    async def put_off(self, paper: Paper, claim_at_ms: int, note: str) -> None:
        state = State.REFUSED if claim_at_ms == NEVER_MS else State.CLAIMED
        changes: dict[str, object] = {"state": state, "claim_at_ms": claim_at_ms, "note": note}
        await self.writer.do(partial(_change, paper=paper, changes=changes, where=f"state = '{State.CLAIMED}'"))

    async def forgive(self, gateway: str, receipt_hash: bytes) -> None:
        words = f"UPDATE papers SET forgiven = 1 WHERE state = '{State.DISPUTED}' AND gateway = ? AND receipt_hash = ?"
        await self.writer.do(lambda connection: connection.execute(words, (gateway, receipt_hash)))

    async def claims(self, gateways: Sequence[str], wall_ms: int, limit: int) -> Sequence[Paper]:
        places = ", ".join("?" * len(gateways))
        words = (
            f"SELECT {ALL} FROM papers WHERE state = '{State.CLAIMED}' AND gateway IN ({places}) "
            "AND claim_at_ms <= ? AND ended_at_ms <= ? ORDER BY id LIMIT ?"
        )
        values = (*gateways, wall_ms, wall_ms - SILENCE_MS, limit)
        return await self.writer.do(partial(_papers, words=words, values=values))

    async def drop(self, before_ms: int, kept_max: int, step: int) -> Dropped:
        return await self.writer.do(partial(_drop, before_ms=before_ms, kept_max=kept_max, step=step))

    async def newest(self, limit: int, offset: int = 0, states: frozenset[State] = ANY) -> Sequence[Paper]:
        words = f"SELECT {ALL} FROM papers WHERE state IN ({_listed(states)}) ORDER BY id DESC LIMIT ? OFFSET ?"
        return await self.writer.do(partial(_papers, words=words, values=(limit, offset)))

    async def sums(self) -> dict[State, Sums]:
        return await self.writer.do(_sums)


# In the thread.


def _papers(connection: sqlite3.Connection, words: str, values: Sequence[object]) -> list[Paper]:
    return [_paper(row) for row in connection.execute(words, values)]


def _paper(row: Sequence[object]) -> Paper:
    named = dict(zip(COLUMNS, row, strict=True))
    named |= {"state": State(str(named["state"])), "forgiven": bool(named["forgiven"])}
    return Paper(**named)  # type: ignore[arg-type]  # the columns are Paper's fields


def _start(connection: sqlite3.Connection, wall_ms: int) -> Kept:
    connection.execute(f"UPDATE papers SET state = '{State.LOST}' WHERE state = '{State.OPEN}'")
    last = connection.execute(
        "SELECT max(id) AS last, gateway, lane, seq, state, receipt_hash, cum_charge, replayable_until_ms "
        "FROM papers GROUP BY gateway, lane ORDER BY last DESC LIMIT ?",  # max() picks the row of the others, too
        (LANES_MAX,),
    )
    lanes = [
        LaneKept(
            gateway=gateway,
            lane=lane,
            seq=seq,
            state=State(state),
            head=head,
            cum_charge=cum_charge,
            replayable_until_ms=replayable_until_ms,
        )
        for _, gateway, lane, seq, state, head, cum_charge, replayable_until_ms in last
    ]
    weigh = connection.execute(
        "SELECT gateway, receipt_hash, max(0, charge - vouched), ended_at_ms, state FROM papers "
        f"WHERE state IN ({_listed(UNANSWERED)}) "
        f"OR (state = '{State.DISPUTED}' AND charge > 0 AND forgiven = 0 AND ended_at_ms > ?) ORDER BY id DESC LIMIT ?",
        (wall_ms - DISPUTE_MS, OWED_MAX),
    )
    owed = [
        OwedKept(gateway=gateway, receipt_hash=key, amount=amount, since_ms=since_ms, disputed=state == State.DISPUTED)
        for gateway, key, amount, since_ms, state in weigh
    ]
    return Kept(lanes[::-1], owed[::-1])


def _take(connection: sqlite3.Connection, paper: Paper) -> None:
    places = ", ".join("?" * len(COLUMNS))
    try:
        connection.execute(f"INSERT INTO papers ({ALL}) VALUES ({places})", [getattr(paper, name) for name in COLUMNS])
    except sqlite3.IntegrityError:
        raise PapersError(f"seq {paper.seq} of this lane is used already") from None


def _change(connection: sqlite3.Connection, paper: Paper, changes: dict[str, object], where: str) -> bool:
    sets = ", ".join(f"{name} = ?" for name in changes)
    values = (*changes.values(), paper.gateway, paper.lane, paper.seq)
    return connection.execute(f"UPDATE papers SET {sets} WHERE {THIS} AND {where}", values).rowcount == 1


def _change_open(connection: sqlite3.Connection, paper: Paper, changes: dict[str, object]) -> None:
    if not _change(connection, paper, changes, f"state = '{State.OPEN}'"):
        raise PapersError(f"no job runs for seq {paper.seq} of this lane")


def _drop(connection: sqlite3.Connection, before_ms: int, kept_max: int, step: int) -> Dropped:
    found = f"SELECT id, gateway, receipt_hash, state FROM papers WHERE state != '{State.OPEN}'"
    (first,) = connection.execute("SELECT min(taken_at_ms) FROM (SELECT taken_at_ms FROM papers ORDER BY id LIMIT 1)")
    rows = []
    if first[0] is not None and first[0] < before_ms:
        rows = connection.execute(f"{found} AND taken_at_ms < ? ORDER BY id LIMIT ?", (before_ms, step)).fetchall()
    if not rows:
        (count,) = connection.execute("SELECT count(*) FROM papers").fetchone()
        over = min(step, count - kept_max)
        if over > 0:
            for states in (OVER, UNANSWERED):  # two queries, as one that ranks them would sort all papers
                words = f"{found} AND state IN ({_listed(states)}) ORDER BY id LIMIT ?"
                rows += connection.execute(words, (over - len(rows),)).fetchall()
    connection.executemany("DELETE FROM papers WHERE id = ?", [(row[0],) for row in rows])
    return Dropped(len(rows), [(gateway, key) for _, gateway, key, state in rows if state in UNANSWERED and key])


def _sums(connection: sqlite3.Connection) -> dict[State, Sums]:
    rows = connection.execute("SELECT state, count(*), sum(charge), sum(agreed) FROM papers GROUP BY state")
    return {State(state): Sums(count, charge, agreed) for state, count, charge, agreed in rows}


# Opening.


@asynccontextmanager
async def open_papers(path: Path) -> AsyncIterator[SqlitePapers]:
    """Opens the papers at `path`, making the file and its folder at first, for as long as the block runs.

    Raises PapersError: another node keeps them, they are no node's, or a newer program made them.
    """
    with _locked(path):
        async with open_writer(partial(_connection, path)) as writer:
            yield SqlitePapers(writer)


@asynccontextmanager
async def read_papers(path: Path) -> AsyncIterator[SqlitePapers]:
    """The papers at `path` to look at, also while a node keeps them: every write raises PapersError."""
    async with open_writer(partial(_connection, path, write=False), begin="BEGIN") as writer:
        yield SqlitePapers(writer)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file beside the papers. The system lets go of it when this process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PapersError(f"the node's papers {path} cannot be kept there: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PapersError(
                f"the node's papers {path} are kept by another node: stop that one, or give this one its own data path"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _connection(path: Path, *, write: bool = True) -> Iterator[sqlite3.Connection]:
    """The one connection, in the thread that uses it. Raises PapersError."""
    try:
        os.close(os.open(path, os.O_RDWR | (os.O_CREAT if write else 0), 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    except FileNotFoundError:
        raise PapersError(f"there is no {path}: this node has never run") from None
    except (OSError, sqlite3.Error) as error:
        raise PapersError(f"the node's papers {path} cannot be opened: {error}") from None
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        is_new = write and not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        version = VERSION if is_new else _check(connection, path)
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        if is_new:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        elif write and version < VERSION:
            connection.executescript(f"BEGIN IMMEDIATE; {UPGRADE} PRAGMA user_version = {VERSION}; COMMIT;")
        if not write:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        connection.close()
        raise PapersError(f"the node's papers {path} cannot be used: {error}; they were left as they were") from None
    except PapersError:
        connection.close()
        raise
    try:
        yield connection
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Refuses a file that is not ours, or too new; returns its version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise PapersError(f"{path} is not a node's papers; it was left as it was: give another data path")
    if version not in (1, VERSION):
        raise PapersError(
            f"the node's papers {path} have version {version}, this program knows {VERSION}; "
            "they were left as they were: use the program that made them, or a newer one"
        )
    return int(version)
