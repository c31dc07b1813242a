"""PostgreSQL that is lost, stopped, locked or shared: what is told, what is tried again, and whose holds end."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
import trio
from sqlalchemy.engine.default import DefaultDialect

from cxp2p.errors import InsufficientCredit
from cxp2p.ledger import HoldState
from cxp2p_gateway.store import Store, StoreError, StoreUnavailable, postgres
from cxp2p_gateway.store.postgres import KEEPER_LOCKS, WRITE_LOCK, open_store
from cxp2p_gateway.store.tables import Tables
from postgres import Server, make_database
from test_store import KEY, LATER_MS, USER, Clock, generation

PATIENCE_S = 30.0

END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is gone is found out sooner than outside of tests."""
    monkeypatch.setattr(postgres, "SWEEP_S", 0.1)
    monkeypatch.setattr(postgres, "GONE_S", 1.0)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    async with open_store(postgres_url, Clock()) as opened:
        await opened.found(USER, KEY, 1000)
        yield opened


@pytest.fixture
async def impatient(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """One that does not wait for the write lock for long."""
    monkeypatch.setattr(postgres._engine, "__kwdefaults__", {"statement_ms": 30_000, "lock_ms": 1000})
    async with open_store(postgres_url, Clock()) as opened:
        await opened.found(USER, KEY, 1000)
        yield opened


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


async def state(store: Store, order: str) -> HoldState | None:
    hold = await store.do(lambda tables: tables.hold(order))
    return None if hold is None else hold.state


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what other sessions do."""
    with trio.fail_after(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)


# Lost.


async def test_sessions_that_ended_while_nobody_used_them_are_not_missed(store: Store, postgres_url: str) -> None:
    """As after a restart, or behind a firewall: the next write and the next read are as if nothing had been."""
    await store.key(KEY.id)
    ask(postgres_url, END_SESSIONS)
    await store.reserve("o1", "user_1", 50, LATER_MS)
    ask(postgres_url, END_SESSIONS)
    assert await store.key(KEY.id) == KEY
    await store.settle(generation())

    assert (await store.balance("user_1")).balance == 993
    assert await store.audit() == ()


async def test_a_session_that_ends_in_the_middle_is_told(store: Store) -> None:
    """Nothing of the act is there; the one after it is as always."""

    def act(tables: Tables) -> None:
        tables.put_key(KEY)
        tables._connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")  # type: ignore[attr-defined]

    await store.do(lambda tables: tables.drop_key(KEY.id))
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.do(act)
    assert await store.key(KEY.id) is None
    await store.put_key(KEY)
    assert await store.key(KEY.id) == KEY


async def test_all_that_came_together_hear_of_it(store: Store) -> None:
    """A session that ends under several acts fails each of them, those before it too."""
    told: list[str] = []

    def dies(tables: Tables) -> None:
        tables._connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")  # type: ignore[attr-defined]

    async def one(act: Callable[[Tables], object]) -> None:
        try:
            await store.do(act)
        except StoreUnavailable as error:
            told.append(str(error))

    def put(tables: Tables) -> None:
        tables.put_rate(KEY.id, "requests", 5)

    async with trio.open_nursery() as nursery:
        for act in (put, dies, put, put):
            nursery.start_soon(one, act)

    kept = await store.read(lambda tables: tables.rate_empty_at_us(KEY.id, "requests"))
    assert len(told) == 4 if kept == 0 else 1 <= len(told) < 4  # who came in another commit was done
    await store.put_key(KEY)


@pytest.fixture
def lost_commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Commits to come that are done, but whose answer is lost: as many as the list is long."""
    to_lose: list[int] = []
    commit = DefaultDialect.do_commit

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        commit(dialect, connection)  # type: ignore[no-untyped-call]
        if to_lose:
            to_lose.pop()
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(DefaultDialect, "do_commit", do_commit)
    return to_lose


async def test_a_settlement_whose_commit_was_lost_is_posted_once(store: Store, lost_commits: list[int]) -> None:
    """It is tried again until somebody says yes, and counts once."""
    await store.reserve("o1", "user_1", 50, LATER_MS)
    lost_commits.extend([1, 1])
    await store.settle(generation())

    assert (await store.balance("user_1")).balance == 993
    assert await store.read(lambda tables: tables.budget(KEY.id).spent) == 7
    assert await store.generations("user_1", "chatcmpl-1") == (generation(),)
    assert await store.audit() == ()


async def test_a_hold_whose_commit_was_lost_is_given_back(store: Store, lost_commits: list[int]) -> None:
    """The request hears that the database is away; what was held all the same ends with the next upkeep."""
    lost_commits.append(1)
    with pytest.raises(StoreUnavailable):
        await store.reserve("o1", "user_1", 50, LATER_MS)
    assert await state(store, "o1") is HoldState.OPEN
    assert await store.expire() == 0

    assert await state(store, "o1") is HoldState.VOIDED
    assert await store.audit() == ()


async def test_a_void_that_was_lost_is_done_later(impatient: Store, own_lock: Callable[[], Any]) -> None:
    """The job hears of it; the hold ends with the next upkeep, and no other one does."""
    await impatient.reserve("o1", "user_1", 50, LATER_MS)
    await impatient.reserve("o2", "user_1", 50, LATER_MS)
    with own_lock(), pytest.raises(StoreUnavailable):
        await impatient.void("o1")
    assert await state(impatient, "o1") is HoldState.OPEN
    await impatient.expire()

    assert await state(impatient, "o1") is HoldState.VOIDED
    assert await state(impatient, "o2") is HoldState.OPEN


@pytest.fixture
def own_lock(postgres_url: str) -> Callable[[], Any]:
    """Somebody who has the write lock, and does not let go of it for the length of a block."""

    def held() -> Any:
        connection = psycopg.connect(postgres_url)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
        return connection

    return held


async def test_who_waits_too_long_for_the_lock_is_told(impatient: Store, own_lock: Callable[[], Any]) -> None:
    """It does not stand still with all that come after it, and goes on as soon as it can; reads never wait."""
    with own_lock():
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await impatient.put_key(KEY)
        assert await impatient.key(KEY.id) == KEY
    await impatient.reserve("o1", "user_1", 50, LATER_MS)
    await impatient.settle(generation())
    assert await impatient.audit() == ()


async def test_what_postgresql_says_of_rows_is_not_told(store: Store) -> None:
    """A refused row is told without the row."""
    with pytest.raises(StoreError) as told:
        await store.do(lambda tables: tables.add_user(USER))
    assert not isinstance(told.value, StoreUnavailable)
    assert "duplicate key" in str(told.value)
    assert "user_1" not in str(told.value)
    assert "\n" not in str(told.value)


# Shared.


@pytest.mark.slow
async def test_holds_of_a_process_that_is_gone_end(store: Store, postgres_url: str) -> None:
    """Those of who lives stay, however often others look; those of who is gone are void, and it is forgotten."""
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(open_store(postgres_url, Clock()))
        await other.reserve("theirs", "user_1", 50, LATER_MS)
        await store.reserve("ours", "user_1", 50, LATER_MS)
        await trio.sleep(1.5)
        assert await state(store, "theirs") is HoldState.OPEN
    assert await state(store, "theirs") is HoldState.VOIDED  # it ended cleanly
    ask(postgres_url, "INSERT INTO keepers VALUES (1000, 0) RETURNING 1")
    ask(postgres_url, "UPDATE holds SET keeper = 1000 WHERE id = 'ours' RETURNING 1")

    async def is_void() -> bool:
        return await state(store, "ours") is HoldState.VOIDED

    await until(is_void)
    assert [keeper for keeper, _ in ask(postgres_url, "SELECT id, 0 FROM keepers")] == [
        keeper for (keeper,) in ask(postgres_url, f"SELECT objid FROM pg_locks WHERE classid = {KEEPER_LOCKS}")
    ]
    assert (await store.balance("user_1")).held == 0
    assert await store.audit() == ()


async def test_an_old_session_of_ours_does_not_keep_us_out(store: Store, postgres_url: str) -> None:
    """A server that does not know yet that our connection is dead, still has our lock in its name."""
    await store.reserve("o1", "user_1", 50, LATER_MS)
    (keeper,) = ask(postgres_url, f"SELECT objid FROM pg_locks WHERE classid = {KEEPER_LOCKS}")[0]
    with psycopg.connect(postgres_url, autocommit=True) as ghost:
        ask(
            postgres_url,
            END_SESSIONS.replace("<> pg_backend_pid()", f"NOT IN (pg_backend_pid(), {ghost.info.backend_pid})"),
        )
        ghost.execute("SELECT pg_advisory_lock(%s, %s)", (KEEPER_LOCKS, keeper))
        await store.settle(generation())
        with pytest.raises(psycopg.OperationalError):
            ghost.execute("SELECT 1")
    assert await state(store, "o1") is HoldState.POSTED


async def test_two_stores_never_overdraw_together(store: Store, postgres_url: str) -> None:
    """Forty holds at once over two processes' stores, with credit for twenty."""
    done: list[str] = []

    async def one(of: Store, order: str) -> None:
        try:
            await of.reserve(order, "user_1", 50, LATER_MS)
        except InsufficientCredit:
            return
        done.append(order)

    async with open_store(postgres_url, Clock()) as other, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, store, f"a{number}")
            nursery.start_soon(one, other, f"b{number}")

    assert len(done) == 20
    assert await store.audit() == ()


# Stopped and started again.


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_is_restarted(
    own_server: Server, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away holds are refused at once; a settlement waits for it; nobody's holds are taken for left."""
    monkeypatch.setattr(postgres, "GONE_S", 5.0)
    url = make_database(own_server.url, "books")
    async with open_store(url, Clock()) as store, open_store(url, Clock()) as other:
        await store.found(USER, KEY, 1000)
        for order in ("o1", "o2", "o3"):
            await store.reserve(order, "user_1", 50, LATER_MS)
        await other.reserve("theirs", "user_1", 50, LATER_MS)
        await trio.to_thread.run_sync(own_server.stop, how)
        with trio.fail_after(2), pytest.raises(StoreUnavailable):
            await store.reserve("never", "user_1", 50, LATER_MS)
        with trio.fail_after(2), pytest.raises(StoreUnavailable):
            await store.key(KEY.id)
        with pytest.raises(StoreUnavailable):
            await store.void("o2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.settle, generation("o1"))
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(own_server.start)
        await store.expire()
        await trio.sleep(6)

        states = {hold.id: hold.state for hold in await store.do(lambda tables: tables.all_holds())}
        assert states == {
            "o1": HoldState.POSTED,
            "o2": HoldState.VOIDED,
            "o3": HoldState.OPEN,
            "theirs": HoldState.OPEN,
        }
        await store.settle(generation("o3"))
        await other.void("theirs")
        assert await store.audit() == ()
        assert await store.key(KEY.id) == KEY


@pytest.mark.slow
async def test_a_settlement_does_not_wait_for_ever(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database stays away it is told; who leaves earlier leaves at once; later the hold is given back."""
    monkeypatch.setattr("cxp2p_gateway.store.SETTLE_S_MAX", 0.6)
    url = make_database(own_server.url, "books")
    async with open_store(url, Clock()) as store:
        await store.found(USER, KEY, 1000)
        for order in ("o1", "o2"):
            await store.reserve(order, "user_1", 50, LATER_MS)
        await trio.to_thread.run_sync(own_server.stop)
        with trio.move_on_after(0.3) as left:
            await store.settle(generation("o1"))
        assert left.cancelled_caught
        with trio.fail_after(5), pytest.raises(StoreUnavailable):
            await store.settle(generation("o2"))
        await trio.to_thread.run_sync(own_server.start)
        await store.expire()
        assert (await store.balance("user_1")).held == 0
        assert await store.audit() == ()
