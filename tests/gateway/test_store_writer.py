"""The one thread that writes: what is committed together, what fails alone, and what a full disk and a cancel do."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from sqlalchemy import Connection
from trio.testing import wait_all_tasks_blocked

from cxp2p import writing
from cxp2p.errors import InsufficientCredit
from cxp2p_gateway.store import StoreError
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.store.sql import SqlTables
from cxp2p_gateway.store.sqlite import connection_to
from cxp2p_gateway.store.writer import Writer, open_writer
from test_store import generation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@asynccontextmanager
async def writer_on(path: Path) -> AsyncIterator[Writer]:
    async with open_writer(partial(connection_to, path)) as opened:
        yield opened


class Gate:
    """An act that keeps the writer's thread until it is opened, so that what comes meanwhile is known to wait."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._reached = trio.Event()
        self._opened = threading.Event()

    def __call__(self, connection: Connection) -> None:
        self._token.run_sync_soon(self._reached.set)
        assert self._opened.wait(timeout=30)

    def open(self) -> None:
        self._opened.set()


@asynccontextmanager
async def held_up(opened: Writer) -> AsyncIterator[trio.Nursery]:
    """What is started in this nursery waits in the writer's queue until the block ends; then all of it is done."""
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.do, gate)
        await gate._reached.wait()
        try:
            yield nursery
            await wait_all_tasks_blocked()
        finally:
            gate.open()


def add(name: str) -> Any:
    return lambda connection: SqlTables(connection).add_user(User(id=name, created_at_ms=0))


async def names(opened: Writer) -> tuple[str, ...]:
    return await opened.do(lambda connection: SqlTables(connection).client_accounts())


async def test_what_comes_during_a_commit_is_committed_together(path: Path) -> None:
    """Twenty writes that wait behind one take one commit more, not twenty."""
    async with writer_on(path) as opened:
        before = opened.commits
        async with held_up(opened) as nursery:
            for index in range(20):
                nursery.start_soon(opened.do, add(f"a{index}"))

        assert opened.commits == before + 2
        assert len(await names(opened)) == 20


async def test_a_crowd_does_not_make_the_first_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit has a most of acts; the rest goes into the next one."""
    monkeypatch.setattr(writing, "BATCH_MAX", 8)
    async with writer_on(path) as opened:
        before = opened.commits
        async with held_up(opened) as nursery:
            for index in range(20):
                nursery.start_soon(opened.do, add(f"a{index}"))

        assert opened.commits == before + 1 + 3


async def test_one_that_fails_is_undone_alone(path: Path) -> None:
    """In one commit: a refusal, a bug and a broken constraint undo their own writes; their neighbours' stay."""

    def refused(connection: Connection) -> None:
        add("half of a refusal")(connection)
        raise InsufficientCredit("no")

    def buggy(connection: Connection) -> None:
        add("half of a bug")(connection)
        raise ZeroDivisionError

    def twice(connection: Connection) -> None:
        add("half of a pair")(connection)
        add("half of a pair")(connection)

    async def fails(act: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            await opened.do(act)

    async with writer_on(path) as opened:
        before = opened.commits
        async with held_up(opened) as nursery:
            nursery.start_soon(opened.do, add("one"))
            nursery.start_soon(fails, refused, InsufficientCredit)
            nursery.start_soon(fails, buggy, ZeroDivisionError)
            nursery.start_soon(fails, twice, StoreError)
            nursery.start_soon(opened.do, add("other"))

        assert opened.commits == before + 2
        assert set(await names(opened)) == {"one", "other"}


async def test_a_full_disk_is_told_and_survived(path: Path) -> None:
    """Whoever could not be written hears of it, whoever was answered is kept, and it goes on once there is room."""
    answered: list[str] = []

    async def write(order_id: str, size: int) -> None:
        row = generation(order_id, id=order_id, order_envelope=b"x" * size)
        try:
            await opened.do(lambda connection: SqlTables(connection).add_generation(row))
        except StoreError:
            return
        answered.append(order_id)

    async def kept(order_id: str) -> bool:
        return await opened.do(lambda connection: SqlTables(connection).generations("user_1", order_id) != ())

    async def pages_max(count: int) -> None:
        await opened.do(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {count}").scalar_one())

    async with writer_on(path) as opened:
        await pages_max(40)
        async with held_up(opened) as nursery:
            for order_id, size in (("small", 10), ("huge", 400_000), ("other", 10)):
                nursery.start_soon(write, order_id, size)
        assert "huge" not in answered
        assert [each for each in ("small", "huge", "other") if await kept(each)] == sorted(answered, reverse=True)
        await pages_max(100_000)
        await write("huge", 400_000)

        assert "huge" in answered
        assert await kept("huge")


async def test_a_lost_transaction_is_never_reported_as_done(path: Path) -> None:
    """Once SQLite has ended the transaction by itself, everyone in it hears of it."""
    told: list[str] = []

    async def write(act: Any) -> None:
        try:
            await opened.do(act)
        except StoreError as error:
            told.append(str(error))

    async with writer_on(path) as opened:
        async with held_up(opened) as nursery:
            nursery.start_soon(write, add("one"))
            nursery.start_soon(write, lambda connection: connection.exec_driver_sql("ROLLBACK"))
            nursery.start_soon(write, add("other"))

        assert len(told) == 3
        assert await names(opened) == ()
        await opened.do(add("next"))
        assert await names(opened) == ("next",)


async def test_the_queue_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit, who comes waits outside, where a cancel still undoes it; nothing else is lost."""
    monkeypatch.setattr(writing, "WAITING_MAX", 4)
    async with writer_on(path) as opened:
        async with held_up(opened) as nursery:
            for index in range(10):
                nursery.start_soon(opened.do, add(f"a{index}"))
            await wait_all_tasks_blocked()
            assert (opened.waiting, opened._queue.qsize()) == (4, 3)
            with trio.CancelScope() as scope:
                scope.cancel()
                await opened.do(add("never"))
            assert scope.cancelled_caught

        assert len(await names(opened)) == 10
        assert opened.waiting == 0


async def test_once_handed_over_a_cancel_waits_for_the_answer(path: Path) -> None:
    """What will be done is heard of: a cancelled caller still gets the answer, and its hold is not forgotten."""
    answers: list[str] = []

    async def one(scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await opened.do(lambda connection: "done"))

    async with writer_on(path) as opened:
        async with held_up(opened) as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(one, scope)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert answers == []

        assert answers == ["done"]
        assert not scope.cancelled_caught


async def test_closing_writes_what_was_accepted(path: Path) -> None:
    """The block ends only when all that was handed over is on disk; who comes later is told."""
    async with trio.open_nursery() as outer:
        async with writer_on(path) as opened:
            gate = Gate()
            outer.start_soon(opened.do, gate)
            await gate._reached.wait()
            for index in range(5):
                outer.start_soon(opened.do, add(f"a{index}"))
            await wait_all_tasks_blocked()
            gate.open()
        with pytest.raises(StoreError, match="closed"):
            await opened.do(add("late"))
    async with writer_on(path) as opened:
        assert len(await names(opened)) == 5
