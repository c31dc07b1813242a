"""The gateway's HTTP server on a real port of this machine, and connections to it that may send anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from cxp2p_gateway.http import Front
from cxp2p_gateway.listener import HttpServer
from cxp2p_gateway.origins import CrowdRules
from doors import MemoryDoor, front
from wires import Client, Reply, request

PATIENCE_S = 20.0  # no answer here takes a second; on a busy machine it may


@dataclass
class Listening:
    """A server, and where it listens."""

    front: Front
    door: MemoryDoor
    port: int

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        """A connection, for as long as the block runs; whoever waits in it for too long fails."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            with trio.fail_after(PATIENCE_S):
                yield Client(stream)

    async def tell(self, data: bytes, method: str = "POST") -> tuple[Reply | None, bytes]:
        """The answer to `data` on a connection of its own, and all that comes behind it until the server closes it."""
        async with self.connect() as client:
            await client.say(data)
            return await client.reply(method), await client.rest()

    async def ran(self, count: int) -> None:
        """Waits until so many jobs have begun."""
        with trio.fail_after(PATIENCE_S):
            while len(self.door.runs) < count:
                await trio.testing.wait_all_tasks_blocked(0.001)

    async def serves(self) -> bool:
        """Whether the next caller is served."""
        async with self.connect() as client:
            await client.say(request(key=None))
            reply = await client.reply("GET")
            return reply is not None and reply.status == 200


@asynccontextmanager
async def listening(door: MemoryDoor | None = None, crowd_rules: CrowdRules | None = None) -> AsyncIterator[Listening]:
    """A server over `door` on a free port of 127.0.0.1, until the block ends."""
    door = door or MemoryDoor()
    app = front(door, crowd_rules=crowd_rules)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, HttpServer(app).serve, listeners)
        yield Listening(app, door, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()
