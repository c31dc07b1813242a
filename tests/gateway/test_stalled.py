"""Bodies that never end, on every route, and bytes of all kinds: the server answers or closes, in its time."""

from __future__ import annotations

import re
import tracemalloc

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message
from trio.testing import MockClock

from cxp2p_gateway.http import Front
from cxp2p_gateway.listener import IDLE_S
from cxp2p_gateway.reading import BODY_WAIT_S, BodyBudget, read_json
from doors import KEY, MemoryDoor, says
from test_framing import STREAMS
from wires import Served, request, served


def calls(app: Front) -> list[tuple[str, str]]:
    """Every method of every path."""
    return [
        (method, re.sub(r"\{[^}]*\}", "x", route.path))
        for route in app.routes
        for method in sorted({"GET", "POST", "DELETE", *getattr(route.app, "endpoints", ())})
    ]


@pytest.mark.parametrize(
    ("framing", "begun"),
    [
        ("Content-Length: 100", b'{"model": "x"'),
        ("Content-Length: 100", b""),
        ("Transfer-Encoding: chunked", b'd\r\n{"model": "x"'),
        ("Transfer-Encoding: chunked", b"5"),
        ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nX: y"),
        ("Expect: 100-continue\r\nContent-Length: 5", b""),
    ],
)
async def test_a_body_that_stalls_ends_in_two_minutes(framing: str, begun: bytes, autojump_clock: MockClock) -> None:
    """For every route, whether it reads bodies or not: then there is an answer, and the connection is closed."""
    began = trio.current_time()

    async def stall(here: Served, method: str, path: str) -> None:
        client = here.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{framing}\r\n\r\n"
        await client.say(head.encode() + begun)
        assert (await client.rest()).startswith(b"HTTP/1.1 ")
        assert trio.current_time() - began <= BODY_WAIT_S + 2

    async with served() as here, trio.open_nursery() as nursery:
        for method, path in calls(here.front):
            nursery.start_soon(stall, here, method, path)


@pytest.mark.slow
@given(STREAMS, st.integers(1, 60), st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_bytes_are_answered_or_the_connection_closes(data: bytes, step: int, leaves: bool) -> None:
    """Requests that are nearly right, cut anywhere, of clients that stay or go: it ends, and the next one is served."""

    async def main() -> None:
        async with served(MemoryDoor(work=says("Hi"))) as here:
            client = here.connect()
            began = trio.current_time()
            for at in range(0, len(data), step):
                await client.say(data[at : at + step])
            if leaves:
                await client.stream.send_eof()
            said = await client.rest()
            assert said == b"" or said.startswith(b"HTTP/1.1 ")
            assert said.count(b"HTTP/1.1 ") <= data.count(b" HTTP/") + 1
            assert trio.current_time() - began <= max(BODY_WAIT_S, IDLE_S) + 2
            reply = await here.ask(request(), "GET")
            assert reply is not None
            assert reply.status == 200

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_body_in_tiny_pieces_weighs_what_it_is() -> None:
    """What comes two bytes at a time takes a few times its size, not thirty times."""
    whole = b'{"a": "' + b"b" * 2**17 + b'"}'
    pieces = [whole[at : at + 2] for at in range(0, len(whole), 2)]
    pieces.reverse()

    async def receive() -> Message:
        piece = pieces.pop()
        return {"type": "http.request", "body": bytes(bytearray(piece)), "more_body": bool(pieces)}

    tracemalloc.start()
    try:
        with BodyBudget().lease() as lease:
            assert len((await read_json({}, receive, lease))["a"]) == 2**17
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * len(whole)
