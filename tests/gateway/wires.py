"""The gateway's HTTP server on connections in memory, and a client that shows each answer as it was on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio
import trio.testing

from cxp2p_gateway.http import Front
from cxp2p_gateway.listener import HttpServer
from cxp2p_gateway.origins import CrowdRules
from cxp2p_gateway.waiting import Patience
from doors import CHAT, KEY, MemoryDoor, chat_body, front


@dataclass
class Reply:
    """One answer. `complete`: its end was seen, as its framing promised."""

    status: int = 0
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The stream's events, comments left out; [DONE] as the string it is."""
        datas = [block[6:] for block in self.body.decode().split("\n\n") if block.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]


class Client:
    """One connection to the server. It sends what it is told to, right or wrong."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._parser = h11.Connection(h11.CLIENT)

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def leave(self) -> None:
        await self.stream.aclose()

    async def reply(self, method: str = "POST") -> Reply | None:
        """The next answer, to a request of this method; None if the connection ended."""
        if self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        # What the server was really sent went past this parser: it only has to know how to read the answer.
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())
        reply = Reply()
        while True:
            event = self._parser.next_event()
            match event:
                case h11.NEED_DATA:
                    self._parser.receive_data(bytes(await self.stream.receive_some()))
                case h11.Response():
                    reply.status, reply.reason = event.status_code, event.reason.decode()
                    reply.headers = {name.decode(): value.decode() for name, value in event.headers}
                case h11.Data():
                    reply.body += event.data
                case h11.EndOfMessage():
                    reply.complete = True
                    return reply
                case h11.ConnectionClosed():
                    return None

    async def part(self) -> bytes:
        """Bytes as they come; none at the end."""
        return bytes(await self.stream.receive_some())

    async def rest(self) -> bytes:
        """All that still comes, until the server ends the connection."""
        data = b""
        while part := await self.part():
            data += part
        return data


@dataclass
class Served:
    """A server, and the way to reach it."""

    server: HttpServer
    front: Front
    door: MemoryDoor
    nursery: trio.Nursery

    def connect(self, *, lockstep: bool = False) -> Client:
        """A new connection. `lockstep`: nothing is buffered between the two, so that the client can stop reading."""
        pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        ours, theirs = pair()
        self.nursery.start_soon(self.server.serve, theirs)
        return Client(ours)

    async def ask(self, data: bytes, method: str = "POST") -> Reply | None:
        """One answer on a connection of its own."""
        client = self.connect()
        await client.say(data)
        return await client.reply(method)


@asynccontextmanager
async def served(
    door: MemoryDoor | None = None, patience: Patience | None = None, crowd_rules: CrowdRules | None = None
) -> AsyncIterator[Served]:
    """A server over `door`; its connections end with the block."""
    door = door or MemoryDoor()
    app = front(door, patience, crowd_rules=crowd_rules)
    async with trio.open_nursery() as nursery:
        yield Served(HttpServer(app), app, door, nursery)
        nursery.cancel_scope.cancel()


def request(
    method: str = "GET",
    path: str = "/health",
    body: bytes | Mapping[str, Any] = b"",
    *,
    key: str | None = KEY,
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """A request as it stands on the wire. Header names with `_` for `-`."""
    if isinstance(body, Mapping):
        body = json.dumps(body).encode()
        headers = {"Content_Type": "application/json", **headers}
    lines = [f"{method} {path} HTTP/{version}", "Host: x"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body and "Transfer_Encoding" not in headers:
        headers.setdefault("Content_Length", str(len(body)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat(path: str = CHAT, *, key: str | None = KEY, headers: Mapping[str, str] | None = None, **changes: Any) -> bytes:
    """A chat request as it stands on the wire."""
    return request("POST", path, chat_body(**changes), key=key, **(headers or {}))
