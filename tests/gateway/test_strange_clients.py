"""Clients that are odd but within the rules, slow, or half gone, over real sockets: each has its answer and its end."""

from __future__ import annotations

import json
import logging
from typing import Any

import psutil
import pytest
import trio

from cxp2p.client import Emit
from cxp2p.records import ChatJob, Finish
from cxp2p_gateway import connection, listener, reading
from cxp2p_gateway.framing import HEADERS_MAX
from cxp2p_gateway.middleware import HEADERS_BYTES_MAX
from doors import CHAT, KEY, MemoryDoor, chat_body, hangs, says
from sockets import Listening, listening
from wires import Reply, chat, request

BODY = json.dumps(chat_body()).encode()
UPGRADE: Any = {"Connection": "Upgrade, HTTP2-Settings", "HTTP2_Settings": "AAMAAABkAAQAAP__"}
WEBSOCKET: Any = {"Connection": "Upgrade", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "dGhlIHNhbXBsZQ=="}
FRAMES = [("websocket", WEBSOCKET, b"\x81\x85abcdefghi"), ("h2c", UPGRADE, b"\0\0\0\4\0\0\0\0\0")]


async def answers(here: Listening, data: bytes, count: int, method: str = "GET") -> list[Reply]:
    """The next so many answers to `data` on one connection."""
    replies = []
    async with here.connect() as client:
        await client.say(data)
        for _ in range(count):
            reply = await client.reply(method)
            assert reply is not None
            replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(path="http://elsewhere/health"), 200),
        (request(path="HTTP://elsewhere:80/v1/models"), 200),
        (request(path="https://elsewhere"), 404),
        (b"\r\n" + request(), 200),
        (request(Connection="keep-alive, foo", Keep_Alive="timeout=5"), 200),
        (request(Upgrade="h2c", **UPGRADE), 200),
        (request(Upgrade="websocket", **WEBSOCKET), 200),
        (request(Upgrade="TLS/1.0, x\x80", Connection="upgrade"), 200),
        (request(Upgrade="h2c"), 200),
        (request("TRACE"), 405),
        (request("X-METHOD!"), 405),
        (request("POST", "/health", b"x" * 100), 405),
        (request(Expect="200-ok"), 200),
        (request(Expect="100-continue"), 200),
        (request(path="/%2e%2e/health"), 404),
        (request(path="//health"), 404),
        (request(path="/health?" + "a" * 10_000), 200),
        (request(path="/nix%00%0d%0aX-Injected:%20y"), 404),
        (request(path="/v1/models/x%0d%0aX-Injected:%20y"), 404),
        (request(X_Client_Request_Id="a%0d%0ab"), 200),
        (request("OPTIONS", "*"), 204),
    ],
)
async def test_what_is_odd_but_clear_is_answered(data: bytes, status: int) -> None:
    """And so is the next request on the same connection."""
    async with listening() as here:
        first, second = await answers(here, data + request(), 2)
        assert (first.status, second.status) == (status, 200)
        assert "x-injected" not in first.headers


async def test_the_host_of_a_url_counts(caplog: pytest.LogCaptureFixture) -> None:
    """A target that is a URL is served as its path; so the log has it (RFC 9112, 3.2.2)."""
    caplog.set_level(logging.INFO, "cxp2p.gateway.access")
    async with listening() as here:
        await answers(here, request(path="http://elsewhere/nix?q"), 1)
    assert json.loads(caplog.messages[-1])["path"] == "/nix"


async def test_frames_behind_an_upgrade_are_no_requests() -> None:
    """The upgrade is ignored, so what follows is HTTP or the end."""
    async with listening() as here:
        for name, more, frame in FRAMES:
            async with here.connect() as client:
                await client.say(request(Upgrade=name, **more) + frame)
                statuses = [reply.status for reply in [await client.reply("GET"), await client.reply("GET")] if reply]
                assert statuses == [200, 400]
                assert await client.rest() == b""


async def test_http_2_from_the_start_is_told_so() -> None:
    async with listening() as here:
        reply, behind = await here.tell(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "GET")
        assert reply is not None
        assert (reply.status, behind) == (505, b"")


async def test_many_pipelined_requests_are_answered_in_order_and_cost_no_memory() -> None:
    """However many come at once, few are held: the connection is read as it is answered."""
    count = 500
    async with listening() as here, here.connect() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.say, request(key=None) * count)
        for _ in range(count):
            reply = await client.reply("GET")
            assert reply is not None
            assert reply.status == 200


async def test_a_connection_has_so_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one says that it closes; what was sent behind it is not served."""
    monkeypatch.setattr(listener, "REQUESTS_PER_CONNECTION_MAX", 3)
    async with listening() as here, here.connect() as client:
        await client.say(request(key=None) * 10)
        replies = []
        while (reply := await client.reply("GET")) is not None:
            replies.append(reply)
            if reply.headers.get("connection") == "close":
                break
        assert [reply.status for reply in replies] == [200] * 3
        assert await client.rest() == b""


@pytest.mark.parametrize("part", [0, 10, 60, 180])
async def test_a_socket_that_closes_half_in_a_request(part: int) -> None:
    """A request that can no longer be whole is not done."""
    async with listening() as here, here.connect() as client:
        await client.say(chat()[:part])
        await client.stream.send_eof()
        said = await client.rest()
        assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
        assert not here.door.runs
        assert await here.serves()


async def test_a_socket_that_closes_half_behind_a_request_is_a_client_that_left() -> None:
    """Its job is cancelled at once: most who send an end are gone."""
    began = trio.Event()

    async def work(job: ChatJob, emit: Emit) -> Finish:
        began.set()
        return await hangs(job, emit)

    async with listening(MemoryDoor(work=work)) as here, here.connect() as client:
        await client.say(chat())
        await began.wait()
        await client.stream.send_eof()
        assert await client.rest() == b""
        assert here.door.runs[0].cancelled


async def test_an_expectation_that_is_refused() -> None:
    """Without a key the body is not waited for."""
    async with listening() as here, here.connect() as client:
        head, _, _ = chat(key="no", headers={"Expect": "100-continue"}).partition(b"\r\n\r\n")
        await client.say(head + b"\r\n\r\n")
        said = await client.rest()
        assert b"HTTP/1.1 401 Unauthorized\r\n" in said


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 431)])
async def test_so_many_headers_are_taken_and_no_more(extra: int, status: int) -> None:
    """256, those of every request among them."""
    async with listening() as here:
        others = request(key=None).count(b":")
        many: Any = {f"X{number}": "y" for number in range(HEADERS_MAX - others + extra)}
        (reply,) = await answers(here, request(key=None, **many), 1)
        assert reply.status == status


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 431)])
async def test_headers_of_such_a_size_are_taken_and_none_larger(extra: int, status: int) -> None:
    """64 KiB: names and values with four bytes for each line, and the path."""
    async with listening() as here:
        used = len("/health") + len("Host") + 1 + 4 + len("X") + 4
        (reply,) = await answers(here, request(key=None, X="y" * (HEADERS_BYTES_MAX - used + extra)), 1)
        assert reply.status == status


@pytest.mark.slow
async def test_slow_clients_are_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real seconds: drips in a head, drips in a body and an answer that nobody reads all end at their own limit."""
    monkeypatch.setattr(listener, "IDLE_S", 2.0)
    monkeypatch.setattr(reading, "BODY_WAIT_S", 3.0)
    monkeypatch.setattr(connection, "WRITE_STALL_S", 4.0)
    head, _, body = chat().partition(b"\r\n\r\n")
    ended: dict[str, float] = {}
    left = trio.Event()

    async def talk(job: ChatJob, emit: Emit) -> Finish:
        try:
            return await says(*["word " * 100] * 30_000)(job, emit)
        finally:
            left.set()

    async with listening(MemoryDoor(work=talk)) as here:

        async def drip(name: str, before: bytes, drops: bytes) -> None:
            async with here.connect() as client:
                await client.say(before)
                with trio.move_on_after(8):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(dripping, client.stream, drops)
                        await client.rest()
                        nursery.cancel_scope.cancel()
                ended[name] = trio.current_time() - began

        async def dripping(stream: trio.abc.SendStream, drops: bytes) -> None:
            for drop in drops:
                await trio.sleep(0.25)
                try:
                    await stream.send_all(bytes([drop]))
                except trio.BrokenResourceError:
                    return

        async def unread() -> None:
            async with here.connect() as client:
                await client.say(chat(stream=True))
                await left.wait()
                ended["answer"] = trio.current_time() - began

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, "head", b"", head)
            nursery.start_soon(drip, "body", head + b"\r\n\r\n", body)
            nursery.start_soon(unread)
    assert 2 <= ended["head"] < 3.5
    assert 3 <= ended["body"] < 4.5
    assert 4 <= ended["answer"] < 6.5


@pytest.mark.slow
async def test_memory_stays_flat_under_attack() -> None:
    """Thousands of bad connections of all kinds leave nothing behind."""
    kinds = [
        chat()[:80],
        b"\x16\x03\x01" + b"r" * 500,
        request(X="a" * 200_000),
        request("POST", CHAT, b"1;" + b"e" * 5000, key=KEY, Transfer_Encoding="chunked"),
        request(key=None) * 50 + b"\n",
        request("POST", CHAT, b"2\r\n{}\r\n" * 2000 + b"0\r\n\r\n", key=KEY, Transfer_Encoding="chunked"),
    ]
    async with listening() as here:

        async def attack(times: int) -> None:
            for turn in range(times):
                async with here.connect() as client:
                    with trio.move_on_after(1):
                        await client.say(kinds[turn % len(kinds)])
                        await client.stream.send_eof()
                        await client.rest()

        async def wave(times: int) -> int:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(attack, times)
            return int(psutil.Process().memory_info().rss)

        await wave(8)
        before = await wave(8)
        after = await wave(40)
        assert await here.serves()
    assert after - before < 16 * 1024 * 1024
