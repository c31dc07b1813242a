"""What a fetcher has at once of anything: large pages, waiters, addresses that are tried, names that are looked up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ipaddress import ip_address

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxp2p.egress import Target, admit_url, rules_of
from cxp2p.records import PageFault
from cxp2p_node.scrape import turns
from cxp2p_node.scrape.dial import CONNECT_S_MAX, LOOKUPS_MAX, TRIED_MAX, Dialler, SystemResolver, is_peer, tls_context
from cxp2p_node.scrape.fetched import Fetched, FetchRefused, FetchSettings
from cxp2p_node.scrape.room import LARGE_BYTES, ROOM_BYTES
from cxp2p_node.scrape.turns import WAITERS_MAX
from webs import (
    LOOPBACK,
    Asked,
    Line,
    Web,
    all_of,
    allowing,
    fetch,
    fetcher_in_memory,
    fetcher_on_loopback,
    on_loopback,
    outcome,
    refused,
    says_hello,
)

LARGE_MAX = ROOM_BYTES // FetchSettings().body_bytes_max  # each may yet become one of the largest


async def test_large_pages_are_few_at_once(autojump_clock: MockClock) -> None:
    """The rest of a ninth is not read while eight are on their way; small ones come by."""
    goes_on = trio.Event()
    done: list[str] = []

    async def script(asked: Asked, line: Line) -> None:
        if asked.host.startswith("small"):
            await line.page("x" * LARGE_BYTES)
            return
        await line.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n" + b"x" * (LARGE_BYTES + 100_000))
        if int(asked.host.removeprefix("large").partition(".")[0]) < LARGE_MAX:
            await goes_on.wait()

    async with fetcher_in_memory(Web({"*": allowing(script)}), at_once=20) as fetcher:

        async def one(host: str) -> None:
            await fetch(fetcher, f"http://{host}.example/", timeout_s=60)
            done.append(host)

        async with trio.open_nursery() as nursery:
            for number in range(LARGE_MAX):
                nursery.start_soon(one, f"large{number}")
            await wait_all_tasks_blocked()
            nursery.start_soon(one, f"large{LARGE_MAX}")
            nursery.start_soon(one, "small")
            await trio.sleep(30)
            assert done == ["small"]
            goes_on.set()
        assert len(done) == LARGE_MAX + 2


async def test_all_waiters_together_are_limited(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all hosts, whoever they are; and each that goes makes room."""
    monkeypatch.setattr(turns, "WAITERS_MAX", 10)

    async def hangs(asked: Asked, line: Line) -> None:
        await line.until_left()

    web = Web({"*": allowing(hangs)})
    async with fetcher_in_memory(web, at_once=4) as fetcher, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(outcome, fetcher, f"http://host{number}.example/", 30.0)
        await wait_all_tasks_blocked()
        assert "too many" in (await refused(fetcher, "http://more.example/")).reason
        web.hosts["more.example"] = says_hello
        await trio.sleep(120)
        await fetch(fetcher, "http://more.example/")
    assert WAITERS_MAX == 4096


async def test_a_connection_has_ten_seconds(autojump_clock: MockClock) -> None:
    """The name, TCP and TLS together; however long the page has."""

    async def hangs(target: Target) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError

    dialler = Dialler(rules_of(), hangs, tls_context(None), tuple)
    begun = trio.current_time()
    with pytest.raises(FetchRefused) as caught:
        await dialler.open(admit_url("https://slow.example/", dialler.rules))

    assert caught.value.fault is PageFault.TIMEOUT
    assert trio.current_time() - begun == CONNECT_S_MAX


async def test_few_addresses_of_a_name_are_tried() -> None:
    async with on_loopback(Web()) as web:
        dead = [f"127.0.1.{number}" for number in range(1, TRIED_MAX + 1)]
        names = {"a.example": [*dead, LOOPBACK], "b.example": [*dead[1:], LOOPBACK]}
        fetcher = fetcher_on_loopback(web, names)

        assert await outcome(fetcher, web.url("a.example")) is PageFault.CONNECT_ERROR
        assert isinstance(await outcome(fetcher, web.url("b.example")), Fetched)


async def test_names_that_hang_take_no_threads_from_others() -> None:
    """So many look-ups at once and no more; who is cancelled leaves his behind, and other work of the node goes on."""
    release, running = threading.Event(), []

    def hangs(name: str, port: int, **_: object) -> list[tuple[object, ...]]:
        running.append(name)
        release.wait(30)
        return []

    resolver = SystemResolver(hangs)
    target = admit_url("http://hangs.example/", rules_of())
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(LOOKUPS_MAX + 5):
                nursery.start_soon(resolver, target)
            with trio.fail_after(10):
                while len(running) < LOOKUPS_MAX:
                    await trio.to_thread.run_sync(threading.Event().wait, 0.01)
            await wait_all_tasks_blocked(0.05)
            assert running == ["hangs.example."] * LOOKUPS_MAX
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0.1) as scope:
            await resolver(target)
        assert scope.cancelled_caught
        with trio.fail_after(5):
            assert await trio.to_thread.run_sync(len, "free") == 4
    finally:
        release.set()


def test_who_is_at_the_other_end_is_who_was_meant() -> None:
    """What the kernel says of a connection is compared as an address, not as text."""
    assert is_peer("127.0.0.1", ip_address("127.0.0.1"))
    assert is_peer("2606:4700:0:0::1111", ip_address("2606:4700::1111"))
    for peer in ("127.0.0.2", "::ffff:127.0.0.1", "::1"):
        assert not is_peer(peer, ip_address("127.0.0.1"))


async def test_hosts_are_one_and_all_are_served(autojump_clock: MockClock) -> None:
    """A hundred pages of ten hosts, four at once: none is left out."""
    web = Web()
    async with fetcher_in_memory(web, at_once=4) as fetcher:
        found = await all_of(
            fetcher, [f"http://h{number % 10}.example/{number}" for number in range(100)], wait_s=100.0
        )

    assert all(isinstance(page, Fetched) for page in found.values())
    assert web.open_most <= 4
