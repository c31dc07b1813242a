"""What callers meet while the gateway stops: answers that run may end, new ones are refused, nobody is left hanging."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from cxp2p_gateway.waiting import Patience
from doors import MemoryDoor, hangs, says
from wires import Client, Served, chat, request, served

GRACE_S = 30.0


@asynccontextmanager
async def stopping(here: Served) -> AsyncIterator[trio.Event]:
    """Stops the server as SIGTERM does. The event is set when it is done."""
    done = trio.Event()
    here.front.closing.set()

    async def drain() -> None:
        await here.server.drain(GRACE_S)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await trio.sleep(0.1)
        yield done
        nursery.cancel_scope.cancel()


async def asking(here: Served, **changes: Any) -> Client:
    client = here.connect()
    await client.say(chat(**changes))
    await trio.sleep(0.5)
    return client


async def test_answers_that_run_are_finished_first(autojump_clock: MockClock) -> None:
    """A stream and a plain answer come whole; the plain one says that its connection closes."""
    async with served(MemoryDoor(work=says("a", "b", "c", pause_s=5))) as here:
        streamed, plain = await asking(here, stream=True), await asking(here)
        async with stopping(here) as done:
            reply = await plain.reply()
            assert reply is not None
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            reply = await streamed.reply()
            assert reply is not None
            assert (reply.complete, reply.events()[-1]) == (True, "[DONE]")
            assert await streamed.rest() == b""
            with trio.fail_after(1.5):
                await done.wait()


async def test_new_requests_are_refused_on_old_and_new_connections(autojump_clock: MockClock) -> None:
    """503 with Retry-After, in the caller's dialect, and the connection ends."""
    async with served(MemoryDoor(work=says("a", pause_s=10))) as here:
        old = here.connect()
        await old.say(request())
        assert await old.reply("GET") is not None
        await asking(here)
        async with stopping(here):
            for client in (old, here.connect()):
                await client.say(chat("/v1/chat/completions"))
                reply = await client.reply()
                assert reply is not None
                assert (reply.status, reply.reason) == (503, "Service Unavailable")
                assert (reply.headers["retry-after"], reply.headers["connection"]) == ("5", "close")
                assert reply.json()["error"] == {
                    "message": "This gateway is shutting down",
                    "type": "server_error",
                    "param": None,
                    "code": "shutting_down",
                }
                assert await client.rest() == b""
            simple = await here.ask(chat())
            assert simple is not None
            assert simple.json() == {"error": "This gateway is shutting down"}


async def test_what_does_not_end_in_time_is_told(autojump_clock: MockClock) -> None:
    """After the grace a plain request gets 503, a stream an error event and the end of its body, never [DONE]."""
    async with served(MemoryDoor(work=says(*["a"] * 1000, pause_s=1))) as here:
        streamed, plain = await asking(here, stream=True), await asking(here)
        began = trio.current_time()
        async with stopping(here) as done:
            reply = await plain.reply()
            assert reply is not None
            assert (reply.status, reply.headers["x-error-code"]) == (503, "shutting_down")
            reply = await streamed.reply()
            assert reply is not None
            assert (reply.status, reply.complete) == (200, True)
            assert reply.events()[-1]["error"]["code"] == "shutting_down"
            assert "[DONE]" not in reply.events()
            assert GRACE_S <= trio.current_time() - began <= GRACE_S + 1
            await done.wait()
            assert trio.current_time() - began <= GRACE_S + 2
        assert all(run.cancelled for run in here.door.runs)


async def test_a_stream_that_is_still_held_back_gets_a_status(autojump_clock: MockClock) -> None:
    """Cut before its first event a stream is a plain 503."""
    async with served(MemoryDoor(work=hangs), Patience(hold_s=60)) as here:
        client = await asking(here, stream=True)
        async with stopping(here):
            reply = await client.reply()
            assert reply is not None
            assert (reply.status, reply.json()) == (503, {"error": "This gateway is shutting down"})


async def test_connections_that_idle_do_not_hold_it_up(autojump_clock: MockClock) -> None:
    """With nothing to do it is gone in a moment, however many callers keep their connection or send half a request."""
    async with served(MemoryDoor(work=hangs)) as here:
        clients = [here.connect() for _ in range(20)]
        await clients[0].say(b"GET /health HTTP/1.1\r\n")
        await clients[1].say(request())
        assert await clients[1].reply("GET") is not None
        began = trio.current_time()
        async with stopping(here) as done:
            await done.wait()
        assert trio.current_time() - began <= 2
        for client in clients:
            assert await client.rest() == b""
