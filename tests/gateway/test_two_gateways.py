"""Two gateway processes on one PostgreSQL are one gateway: keys, limits, and what one that is killed leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

import httpx
import pytest
import trio

from cxp2p.client import wall_ms
from cxp2p.ledger import Hold, HoldState
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.keys import Key, Kind, make_key
from cxp2p_gateway.store import Store, postgres
from cxp2p_gateway.store.rows import User
from demo.network import Program, start, write_config
from postgres import Server, make_database
from tidy import ROOT

pytestmark = pytest.mark.slow

CREDIT = 10**9
PATIENCE_S = 60.0
GONE_S = postgres.GONE_S + 4 * postgres.SWEEP_S
WORDS_A_SECOND = 200
ECHO = "echo-200-a-second"
SAID = "word " * 400  # two seconds of an answer, more than it takes to let in or refuse all that come at once
LONG = "word " * 3000


@dataclass(frozen=True)
class Pair:
    """Two running gateways, and their books, which this process shares too."""

    programs: tuple[Program, Program]
    urls: tuple[str, str]
    store: Store
    client: httpx.AsyncClient

    async def key(self, **limits: Any) -> tuple[str, Key]:
        """A new key of the one account."""
        made = make_key(SystemRandom().randbytes)
        key = Key(id=made.id, account="user_1", digest=made.digest, created_at_ms=wall_ms(), kind=Kind.VIRTUAL)
        key = replace(key, **limits)
        await self.store.put_key(key)
        return made.text, key

    async def ask(self, gateway: int, key: str, said: str = "hello there") -> httpx.Response:
        asked = {"model": ECHO, "messages": [{"role": "user", "content": said}], "stream": len(said) > 20}
        headers = {"Authorization": f"Bearer {key}"}
        return await self.client.post(f"{self.urls[gateway]}/v1/chat/completions", json=asked, headers=headers)

    async def ask_all(self, count: int, key: str, said: str = "hello there") -> list[httpx.Response]:
        """So many at once, half of them to each."""
        answers: list[httpx.Response] = []

        async def one(number: int) -> None:
            answers.append(await self.ask(number % 2, key, said))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        return answers

    async def holds(self, key: Key) -> list[Hold]:
        found = await self.store.do(lambda tables: tables.all_holds())
        return [hold for hold in found if hold.key == key.id]

    async def open_holds(self, key: Key) -> int:
        return sum(hold.state is HoldState.OPEN for hold in await self.holds(key))

    async def spent(self, key: Key) -> int:
        return await self.store.do(lambda tables: tables.budget(key.id).spent)


@asynccontextmanager
async def open_pair(url: str, state: Path) -> AsyncIterator[Pair]:
    """A network of a bootstrap peer, a node that echoes, and two gateways on the database at `url`."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(postgres.open_store(url, wall_ms))
        base = Key(id="aaaaaaaa", account="user_1", digest=b"", created_at_ms=0)
        await store.found(User(id="user_1", created_at_ms=0), base, CREDIT)
        boot = ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--data", str(state / "bootstrap")]
        bootstrap = await stack.enter_async_context(start("bootstrap peer", boot, state / "bootstrap.log"))
        addresses = bootstrap.facts["ready"]["addresses"]
        assert isinstance(addresses, list)
        await stack.enter_async_context(echo_node(state / "node", addresses[0]))
        programs = []
        for name in ("one", "other"):
            file = write_config(state / f"{name}.toml", config(state / name, addresses[0], url))
            arguments = ["gateway", "run", "--config", str(file)]
            programs.append(await stack.enter_async_context(start(name, arguments, state / f"{name}.log")))
        urls = (programs[0].fact("ready", "url"), programs[1].fact("ready", "url"))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_S))
        for each in urls:
            await until(partial(ready, client, each))
        yield Pair((programs[0], programs[1]), urls, store, client)


@asynccontextmanager
async def echo_node(data: Path, bootstrap: str) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "benchmarks.echo_node", str(data), bootstrap]
    process = await trio.lowlevel.open_process(command, stdout=-1, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert json.loads(await process.stdout.receive_some())["event"] == "ready"
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


def config(data: Path, bootstrap: str, url: str) -> str:
    return f"""\
data_path = {json.dumps(str(data))}
[peer]
bootstrap = [{json.dumps(bootstrap)}]
[http]
port = 0
[database]
url = {json.dumps(url)}
"""


async def ready(client: httpx.AsyncClient, url: str) -> bool:
    return (await client.get(f"{url}/ready")).status_code == 200


async def until(holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> float:
    """Polls real processes; returns how long it took."""
    began = trio.current_time()
    with trio.fail_after(patience_s):
        while not await holds():  # noqa: ASYNC110  # they tell nobody
            await trio.sleep(0.1)
    return trio.current_time() - began


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def test_two_are_one(postgres_url: str, tmp_path: Path) -> None:
    """Keys, their revocation, rates, parallel and spend limits count over both; one that is killed leaves nothing."""
    async with open_pair(postgres_url, tmp_path) as pair:
        await shares_keys(pair)
        await shares_rates(pair)
        await shares_parallel(pair)
        await shares_spend_limits(pair)
        await outlives_the_other(pair)
        assert await pair.store.audit() == ()


async def shares_keys(pair: Pair) -> None:
    """A key is good at both as soon as it is made, and at neither as soon as it is revoked."""
    text, key = await pair.key()
    for _ in range(3):
        assert statuses(await pair.ask_all(2, text)) == {200: 2}
    assert await Accounts(pair.store, wall_ms).revoke(key.id)
    assert statuses(await pair.ask_all(4, text)) == {401: 4}
    assert await pair.spent(key) == sum(hold.charge for hold in await pair.holds(key)) > 0


async def shares_rates(pair: Pair) -> None:
    """Sixteen at once with six a minute: six are answered, whoever they ask, and the others are told when to come."""
    text, _ = await pair.key(rpm=6)
    answers = await pair.ask_all(16, text)
    assert statuses(answers) == {200: 6, 429: 10}
    waits = [int(answer.headers["retry-after"]) for answer in answers if answer.status_code == 429]
    assert all(1 <= wait <= 10 for wait in waits)


async def shares_parallel(pair: Pair) -> None:
    """Twelve long ones at once with three at a time: three run."""
    text, key = await pair.key(parallel_max=3)
    assert statuses(await pair.ask_all(12, text, SAID)) == {200: 3, 429: 9}
    assert statuses(await pair.ask_all(2, text)) == {200: 2}
    assert len(await pair.holds(key)) == 5


async def shares_spend_limits(pair: Pair) -> None:
    """Sixty-four streams at once at a limit: what is spent is over it by less than one reservation."""
    text, key = await pair.key()
    assert (await pair.ask(0, text, SAID)).status_code == 200
    (amount,) = [hold.amount for hold in await pair.holds(key)]
    limit = 5 * amount
    text, key = await pair.key(spend_limit=limit)
    answers = await pair.ask_all(64, text, SAID)
    assert set(statuses(answers)) == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.headers["x-error-code"] for answer in refused} == {"insufficient_quota"}
    holds = await pair.holds(key)
    assert len(holds) >= 5
    assert await pair.spent(key) == sum(hold.charge for hold in holds) < limit + amount


async def outlives_the_other(pair: Pair) -> None:
    """Killed under its streams: soon its holds are void and its requests count no more, and the first one serves on."""
    text, key = await pair.key(parallel_max=3)
    async with trio.open_nursery() as nursery:

        async def ask_and_lose() -> None:
            with pytest.raises(httpx.TransportError):
                await pair.ask(1, text, LONG)

        async def three_run() -> bool:
            return await pair.open_holds(key) == 3

        for _ in range(3):
            nursery.start_soon(ask_and_lose)
        await until(three_run)
        os.kill(pair.programs[1].process.pid, signal.SIGKILL)
    assert (await pair.ask(0, text)).status_code == 429

    async def none_is_open() -> bool:
        return await pair.open_holds(key) == 0

    assert await until(none_is_open, GONE_S + 10) > postgres.GONE_S / 2
    assert (await pair.ask(0, text)).status_code == 200
    assert {hold.state for hold in await pair.holds(key)} == {HoldState.VOIDED, HoldState.POSTED}


async def test_the_server_is_restarted_under_load(own_server: Server, tmp_path: Path) -> None:
    """Requests are refused with a 503 that says so while it is away, never a 500, and are answered again after it."""
    url = make_database(own_server.url, "books")
    async with open_pair(url, tmp_path) as pair:
        text, key = await pair.key()
        seen: list[tuple[int, str]] = []
        over = trio.Event()

        async def keep_asking(gateway: int) -> None:
            while not over.is_set():
                answer = await pair.ask(gateway, text)
                seen.append((answer.status_code, answer.headers.get("x-error-code", "")))
                await trio.sleep(0.02)

        async def seen_again() -> bool:
            return all([(await pair.ask(number, text)).status_code == 200 for number in (0, 1)])

        async def seen_refused() -> bool:
            return (503, "database_unavailable") in seen

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(keep_asking, number % 2)
            await until(seen_again)
            for how in (signal.SIGINT, signal.SIGQUIT):
                seen.clear()
                await trio.to_thread.run_sync(own_server.stop, how)
                await until(seen_refused)
                assert {status for status, _ in seen} <= {200, 503}
                await trio.to_thread.run_sync(own_server.start)
                await until(seen_again)
            over.set()

        assert {status for status, _ in seen} <= {200, 503}
        assert {code for _, code in seen} <= {"", "database_unavailable"}

        async def none_is_open() -> bool:
            return await pair.open_holds(key) == 0

        await until(none_is_open)
        assert await pair.spent(key) == sum(hold.charge for hold in await pair.holds(key)) > 0
        assert await pair.store.audit() == ()
