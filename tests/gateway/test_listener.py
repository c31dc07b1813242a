"""The HTTP server under the front: framing, limits, patience, and what strangers can do to it. In memory."""

from __future__ import annotations

import logging
from typing import Any

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p_gateway import listener
from cxp2p_gateway.connection import WRITE_STALL_S
from cxp2p_gateway.listener import IDLE_S
from cxp2p_gateway.origins import CrowdRules
from doors import MemoryDoor, card, hangs, says
from wires import Client, Served, chat, request, served

WS = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


async def ok(here: Served) -> None:
    """The server still serves."""
    reply = await here.ask(request())
    assert reply is not None
    assert reply.status == 200


@pytest.mark.parametrize(
    "handshake",
    [
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Extensions: ;;;,,\xff\r\n",
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: \xff\r\n",
        b"Sec-WebSocket-Version: 8\r\n",
        b"",
    ],
)
async def test_a_websocket_upgrade_is_ignored_whatever_is_in_it(handshake: bytes, autojump_clock: MockClock) -> None:
    """A request for an upgrade is a plain request; no byte in its handshake can end the process."""
    async with served() as here:
        reply = await here.ask(WS.encode() + handshake + b"\r\n", "GET")
        assert reply is not None
        assert (reply.status, reply.json()) == (200, {"status": "ok"})
        await ok(here)


async def test_http_2_is_refused_and_holds_no_connection(autojump_clock: MockClock) -> None:
    """Prior knowledge gets 505 and the end of the connection; an upgrade to h2c is ignored."""
    async with served() as here:
        client = here.connect()
        await client.say(HTTP2)
        reply = await client.reply("GET")
        assert reply is not None
        assert (reply.status, reply.reason) == (505, "HTTP Version Not Supported")
        assert reply.headers["x-error-code"] == "http_version_not_supported"
        assert await client.rest() == b""
        upgrade = await here.ask(
            request(Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABk")
        )
        assert upgrade is not None
        assert upgrade.status == 200


async def test_what_the_http_library_raises_ends_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A bug below the front is logged without the bytes that caused it; others do not notice."""

    async def broken(self: object, event: h11.Request) -> None:
        raise UnicodeDecodeError("ascii", event.target, 0, 1, "not ASCII")

    async with served(MemoryDoor(work=says("a", "b", pause_s=1))) as here:
        other = here.connect()
        await other.say(chat(stream=True))
        await trio.sleep(0.5)
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(listener._Http1, "_check_protocol", broken)
            client = here.connect()
            await client.say(request(path="/secret"))
            assert await client.rest() == b""
        reply = await other.reply()
        assert reply is not None
        assert reply.events()[-1] == "[DONE]"
        assert "bug in a connection: ExceptionGroup" in caplog.text
        assert "UnicodeDecodeError" in caplog.text
        assert "secret" not in caplog.text
        await ok(here)


@pytest.mark.slow
@given(data=st.binary(max_size=400) | st.text(max_size=300).map(str.encode), head=st.sampled_from([b"", WS.encode()]))
@settings(max_examples=150, deadline=None)
def test_no_bytes_of_a_stranger_end_the_server(data: bytes, head: bytes) -> None:
    """Garbage, cut anywhere, gets an error answer or silence; the next caller is served."""

    async def main() -> None:
        async with served() as here:
            client = here.connect()
            await client.say(head + data)
            await client.stream.send_eof()
            said = await client.rest()
            assert said == b"" or said.startswith(b"HTTP/1.1 ")
            await ok(here)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_every_status_line_has_its_reason_phrase(autojump_clock: MockClock) -> None:
    """Clients show the phrase when they cannot read the body."""
    async with served() as here:
        for data, status, phrase in (
            (chat(), 200, "OK"),
            (chat(temperature=3), 400, "Bad Request"),
            (chat(key="no"), 401, "Unauthorized"),
            (request(path="/nix"), 404, "Not Found"),
            (request("PUT"), 405, "Method Not Allowed"),
            (request("POST", "/v1/chat/completions", b"x", Content_Type="a/b"), 415, "Unsupported Media Type"),
            (request(X="a" * 70_000), 431, "Request Header Fields Too Large"),
            (chat(model="asleep:1b"), 503, "Service Unavailable"),
            (b"\x16\x03\x01\r\n\r\n", 400, "Bad Request"),
        ):
            reply = await here.ask(data)
            assert reply is not None
            assert (reply.status, reply.reason) == (status, phrase)
            assert reply.complete
            assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("size", [66_000, 120_000, 1_000_000])
async def test_headers_too_large(size: int, autojump_clock: MockClock) -> None:
    """64 KiB are the limit, for one header or many; the answer comes before the rest is read."""
    async with served() as here:
        many: Any = {f"X-{number}": "a" * (size // 200) for number in range(200)}
        for data in (request(path="/v1/models", X="a" * size), request(path="/v1/models", **many)):
            client = here.connect()
            await client.say(data)
            reply = await client.reply("GET")
            assert reply is not None
            assert reply.status == 431
            assert (reply.headers["x-error-code"], reply.headers["connection"]) == ("payload_too_large", "close")
            text = "Request headers are larger than 65536 bytes, or more than 256"
            if size < 2 * 65_536:  # those that can be parsed are answered in the client's dialect
                assert reply.json()["error"]["message"] == text
            else:
                assert reply.json() == {"error": text}
            assert await client.rest() == b""


async def test_a_path_counts_as_headers(autojump_clock: MockClock) -> None:
    async with served() as here:
        reply = await here.ask(request(path="/" + "a" * 70_000), "GET")
        assert reply is not None
        assert reply.status == 431


async def test_pipelined_requests_are_answered_in_order(autojump_clock: MockClock) -> None:
    """The second waits for the first; an error between them does no harm."""
    async with served(MemoryDoor(work=says("a", pause_s=1))) as here:
        client = here.connect()
        await client.say(chat() + request() + chat(stream=True) + chat(temperature=9) + request(path="/nix"))
        statuses = []
        for _ in range(5):
            reply = await client.reply()
            assert reply is not None
            statuses.append(reply.status)
        assert statuses == [200, 200, 200, 400, 404]


@pytest.mark.parametrize("extra", [b"\r\n", request(), b"\x00" * 300_000])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_follows_a_last_request_is_ignored(at_once: bool, extra: bytes, autojump_clock: MockClock) -> None:
    """`Connection: close` ends the requests: one line end too many, or anything else, does not cut the answer."""
    async with served(MemoryDoor(work=says("a", "b", pause_s=1))) as here:
        client = here.connect()
        data = chat(headers={"Connection": "close"})
        if at_once:
            await client.say(data + extra)
        else:
            await client.say(data)
            await trio.sleep(0.5)
            await client.say(extra)
        reply = await client.reply()
        assert reply is not None
        assert (reply.status, reply.complete, reply.headers["connection"]) == (200, True, "close")
        assert await client.rest() == b""


async def test_a_client_that_leaves_behind_a_pipelined_answer_is_noticed(autojump_clock: MockClock) -> None:
    """A second job, that began when the first one's answer was out, is cancelled too."""
    async with served(MemoryDoor(work=says("a", "b", pause_s=1))) as here:
        client = here.connect()
        await client.say(chat() * 3)
        for _ in range(2):
            assert await client.reply() is not None
        await trio.sleep(0.5)
        await client.leave()
        await trio.sleep(0.2)
        assert [run.cancelled for run in here.door.runs] == [False, False, True]
        assert not here.server.busy


async def test_a_chunked_body_is_read(autojump_clock: MockClock) -> None:
    """Chunks may be cut anywhere and end with trailers."""
    body = b'{"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}]}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Trailer: y\r\n\r\n"
    async with served() as here:
        data = request("POST", "/v1/chat/completions", chunks, Transfer_Encoding="chunked")
        client = here.connect()
        for start in range(0, len(data), 7):
            await client.say(data[start : start + 7])
        reply = await client.reply()
        assert reply is not None
        assert reply.status == 200


@pytest.mark.parametrize(
    "framing",
    [
        {"Content_Length": "-1"},
        {"Content_Length": "abc"},
        {"Content_Length": "5, 6"},
        {"Content_Length": "1" + "0" * 400},
        {"Transfer_Encoding": "gzip, chunked"},
        {"Transfer_Encoding": "chunked"},  # and the body is no chunk
    ],
)
async def test_a_body_with_broken_framing_is_refused(framing: Any, autojump_clock: MockClock) -> None:
    async with served() as here:
        client = here.connect()
        await client.say(request("POST", "/v1/chat/completions", b"zz\r\nabc", **framing))
        reply = await client.reply()
        assert reply is not None
        assert reply.status == 400
        assert reply.headers["x-error-code"] == "malformed_request"
        assert reply.json() == {"error": "Malformed HTTP request"}
        assert await client.rest() == b""


async def drip(client: Client, data: bytes) -> None:
    while True:
        await trio.sleep(5)
        try:
            await client.say(data)
        except trio.BrokenResourceError:
            return


@pytest.mark.parametrize(
    ("head", "dripped"),
    [
        (b"", b""),
        (b"", b"G"),
        (b"GET /health HTTP/1.1\r\n", b""),
        (b"GET /health HTTP/1.1\r\n", b"X-A: b\r\n"),
        (b"GET /health HTTP/1.1\r\nX-A: ", b"b"),
        (request(), b""),
        (request(), b"G"),
    ],
)
async def test_headers_have_65_seconds(head: bytes, dripped: bytes, autojump_clock: MockClock) -> None:
    """A connection that sends nothing, or headers byte by byte, before or after a request, is closed in time."""
    async with served() as here:
        client = here.connect()
        began = trio.current_time()
        if head:
            await client.say(head)
        if dripped:
            here.nursery.start_soon(drip, client, dripped)
        await client.rest()
        assert IDLE_S <= trio.current_time() - began <= IDLE_S + 2


async def test_a_connection_that_idles_makes_room_for_a_new_one(autojump_clock: MockClock) -> None:
    """Connections without a request cannot keep others out; those with one are never cut for it."""
    rules = CrowdRules(connections_max=3)
    async with served(MemoryDoor(work=hangs, cards=(card(),)), crowd_rules=rules) as here:
        busy = here.connect()
        await busy.say(chat())
        idle = here.connect()
        await idle.say(request())
        assert await idle.reply("GET") is not None
        await trio.sleep(1)
        silent = here.connect()
        await trio.sleep(1)
        await ok(here)
        assert await idle.rest() == b""  # it had idled for longest
        others = []
        for _ in range(2):
            others.append(here.connect())
            await others[-1].say(chat())
            await trio.sleep(1)
        assert await silent.rest() == b""
        reply = await here.ask(request(), "GET")
        assert reply is not None
        assert (reply.status, reply.json()) == (503, {"error": "Too many connections"})
        assert (reply.headers["retry-after"], reply.headers["connection"]) == ("2", "close")
        assert all(run.ended_at is None for run in here.door.runs)


async def test_a_client_that_leaves_is_noticed_behind_a_pipelined_request(autojump_clock: MockClock) -> None:
    """A plain job is cancelled although the next request waits unread."""
    async with served(MemoryDoor(work=hangs)) as here:
        client = here.connect()
        await client.say(chat() + chat())
        await trio.sleep(5)
        left = trio.current_time()
        await client.leave()
        await trio.sleep(1)
        (run,) = here.door.runs
        assert run.cancelled
        assert run.ended_at is not None
        assert run.ended_at - left <= 0.1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after_s", [0.0, 1.0, 20.0])  # before the job, before the status line, after it
async def test_a_client_that_leaves_cancels_its_job(stream: bool, after_s: float, autojump_clock: MockClock) -> None:
    """Within 100 ms, in every phase."""
    async with served(MemoryDoor(work=hangs)) as here:
        client = here.connect()
        await client.say(chat(stream=stream))
        await trio.sleep(after_s)
        left = trio.current_time()
        await client.leave()
        await trio.sleep(1)
        for run in here.door.runs:
            assert run.cancelled
            assert run.ended_at is not None
            assert run.ended_at - left <= 0.1
        await ok(here)


async def test_a_reader_that_stops_is_given_up(autojump_clock: MockClock) -> None:
    """A client that takes no byte for a minute is gone: its job ends, and so does the connection."""
    async with served(MemoryDoor(work=says(*["word"] * 1000, pause_s=0.1))) as here:
        client = here.connect(lockstep=True)
        await client.say(chat(stream=True))
        await trio.sleep(WRITE_STALL_S + 2)
        (run,) = here.door.runs
        assert run.cancelled


async def test_an_expectation_is_met(autojump_clock: MockClock) -> None:
    """`Expect: 100-continue` gets its 100 with a reason phrase, then the answer."""
    async with served() as here:
        client = here.connect()
        data = chat(headers={"Expect": "100-continue"})
        head, _, body = data.partition(b"\r\n\r\n")
        await client.say(head + b"\r\n\r\n")
        assert (await client.part()).startswith(b"HTTP/1.1 100 Continue\r\n")
        await client.say(body)
        reply = await client.reply()
        assert reply is not None
        assert reply.status == 200


async def test_an_http_1_0_client_gets_a_stream_without_chunks(autojump_clock: MockClock) -> None:
    async with served() as here:
        client = here.connect()
        await client.say(request("POST", "/v1/chat/completions", b"", version="1.0", key=None))
        assert (await client.rest()).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        client = here.connect()
        await client.say(chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body.endswith(b"data: [DONE]\n\n")
