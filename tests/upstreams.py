"""A server of OpenAI's API that says what a test tells it to: in memory, or over loopback; and a real one to start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from cxp2p.errors import JobFailed
from cxp2p.records import ChatJob, Finish, Job, Piece, Prices, Service, Usage
from cxp2p_node.engines.upstream import Upstream, UpstreamSettings, open_upstream
from cxp2p_node.engines.upstream_http import Client, Server, server_of
from worlds import chat_job

MODEL = "org/model-7b"
PRICES = Prices(input=1, output=1)


@dataclass(frozen=True)
class Asked:
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Line:
    """The server's side of one request."""

    def __init__(self, stream: trio.abc.Stream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection

    async def respond(self, status: int, body: Any = None, **headers: str) -> None:
        """A whole answer: bytes, or anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"content-type": "application/json", "content-length": str(len(data))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        await self._send(h11.Response(status_code=status, headers=list(told.items())))
        await self._send(h11.Data(data=data))
        await self._send(h11.EndOfMessage())

    async def begin(self) -> None:
        """The headers of a stream."""
        await self._send(h11.Response(status_code=200, headers=[("content-type", "text/event-stream; charset=utf-8")]))

    async def event(self, data: Any) -> None:
        """One event: text as it is, or anything else as JSON."""
        await self.part(b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n\n")

    async def part(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def raw(self, data: bytes) -> None:
        """Bytes that need not be HTTP."""
        await self._stream.send_all(data)

    async def until_left(self) -> None:
        """Returns when the client has closed its end."""
        while await self._stream.receive_some(1 << 16):
            pass

    async def _send(self, event: h11.Event) -> None:
        await self._stream.send_all(self._connection.send(event) or b"")


Script = Callable[[Asked, Line], Awaitable[None]]


@dataclass
class Fake:
    """A server. `script` answers everything but GETs, `models` is its list; `down`: no connection is taken."""

    script: Script
    models: Any = field(default_factory=lambda: listing(MODEL))
    facts: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    asked: list[Asked] = field(default_factory=list)
    looks: int = 0
    open: int = 0
    opened: int = 0
    _closed: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection; a client that leaves ends it."""
        self.open += 1
        self.opened += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            try:
                await trio.aclose_forcefully(stream)
            finally:
                self.open -= 1
                self._closed.set()
                self._closed = trio.Event()

    async def until_quiet(self) -> None:
        """Until no connection is open, and all tasks have ended that can."""
        with trio.fail_after(10):
            while self.open:
                await self._closed.wait()
            await wait_all_tasks_blocked()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await stream.receive_some(1 << 16)
                if not data:
                    return
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                return
        assert request is not None
        headers = {name.decode(): value.decode() for name, value in request.headers}
        path = request.target.decode()
        asked = Asked(request.method.decode(), path, headers, json.loads(body) if body else None)
        line = Line(stream, connection)
        if asked.method == "GET":
            await self._get(path, line)
            return
        self.asked.append(asked)
        await self.script(asked, line)

    async def _get(self, path: str, line: Line) -> None:
        if path == "/v1/models":
            self.looks += 1
            status, body = self.models if isinstance(self.models, tuple) else (200, self.models)
            await line.respond(status, body)
        elif path in self.facts:
            await line.respond(200, self.facts[path])
        else:
            await line.respond(404, {"error": {"message": "there is nothing here"}})


def listing(*names: str, owned_by: str = "somebody", **more: Any) -> dict[str, Any]:
    """What GET /models answers."""
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owned_by, **more} for name in names]}


def chunk(text: str | None = None, end: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a stream. `delta` adds to the delta, anything else to the choice; `usage` stands beside it."""
    usage, timings = more.pop("usage", None), more.pop("timings", None)
    delta = {**({} if text is None else {"content": text}), **more.pop("delta", {})}
    event: dict[str, Any] = {"object": "chat.completion.chunk"}
    event["choices"] = [{"index": 0, "delta": delta, "finish_reason": end, **more}]
    event |= {} if usage is None else {"usage": usage}
    return event | ({} if timings is None else {"timings": timings})


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    """The usage object of an answer."""
    told: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    return told if cached is None else {**told, "prompt_tokens_details": {"cached_tokens": cached}}


def saying(*texts: str, prompt: int = 7) -> Script:
    """Says these texts, each a token, tells the usage, and ends."""

    async def script(asked: Asked, line: Line) -> None:
        await line.begin()
        for text in texts:
            await line.event(chunk(text))
        await line.event(chunk(end="stop"))
        await line.event({"choices": [], "usage": usage(prompt, len(texts))})
        await line.event("[DONE]")
        await line.end()

    return script


def refusing(status: int, body: Any, **headers: str) -> Script:
    """Answers everything with an error."""

    async def script(asked: Asked, line: Line) -> None:
        await line.respond(status, body, **headers)

    return script


def upstream_settings(**changes: Any) -> UpstreamSettings:
    fields: dict[str, Any] = {
        "model": "model",
        "upstream_model": MODEL,
        "sole": False,
        "service": Service.CHAT,
        "prices": PRICES,
        "queue_max": 4,
        "slots": 2,
    }
    return UpstreamSettings(**{**fields, **changes})


@asynccontextmanager
async def fake_client(fake: Fake, key: str = "") -> AsyncIterator[Client]:
    """A client whose connections lead to `fake`, in memory."""
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if fake.down:
                raise ConnectionRefusedError(111, "Connection refused")
            ours, theirs = memory_stream_pair()
            nursery.start_soon(fake.serve, theirs)
            return ours

        yield Client(server_of("http://upstream:8000/v1", key), dial)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def engine_on(fake: Fake, key: str = "", **changes: Any) -> AsyncIterator[Upstream]:
    """The engine in front of `fake`, in memory, looked at once."""
    async with fake_client(fake, key) as client, open_upstream(upstream_settings(**changes), client) as engine:
        yield engine


@asynccontextmanager
async def on_loopback(fake: Fake) -> AsyncIterator[Server]:
    """`fake` over real sockets."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, fake.serve, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        yield server_of(f"http://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


@dataclass
class Heard:
    """What one job gave."""

    pieces: list[Piece] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    usage: Usage = field(default_factory=lambda: Usage(in_units=0, cached_units=0, out_units=0, finish=Finish.ERROR))

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def token_ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.token_ids]

    async def emit(self, piece: Piece) -> None:
        self.pieces.append(piece)
        await trio.lowlevel.checkpoint()

    def count(self, in_units: int, cached_units: int) -> None:
        self.counts.append((in_units, cached_units))


async def do(engine: Upstream, job: Job, max_out: int = 100) -> Heard:
    """Runs one job to its end."""
    heard = Heard()
    heard.usage = await engine.run(job, 1, max_out, heard.emit, heard.count)
    return heard


async def failure(engine: Upstream, job: ChatJob | None = None) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await do(engine, job or chat_job("hello"))
    return failed.value


# A real one: llama.cpp's own server.

SERVER = """
import json, sys, xllamacpp
settings = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = settings["path"]
params.n_ctx = settings["context"] * settings["slots"]
params.n_parallel = settings["slots"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.port = settings["port"]
params.hostnames = ["127.0.0.1"]
params.verbosity = 0
if settings["embedding"]:
    params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.api_keys = settings["keys"]
params.chat_template = settings["template"]
params.model_alias = {settings["alias"]}
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(path: Path, **changes: Any) -> Iterator[str]:
    """llama.cpp's HTTP server as a process of its own, which this block ends; gives its URL."""
    settings = {"context": 512, "slots": 2, "port": 0, "embedding": False, "keys": [], "template": "", "alias": "tiny"}
    command = [sys.executable, "-c", SERVER, json.dumps({**settings, **changes, "path": str(path)})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "llama.cpp's server did not start"
            yield url
        finally:
            process.kill()
