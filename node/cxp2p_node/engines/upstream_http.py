"""HTTP/1.1 towards one server, by h11 on trio. Each request has a connection of its own, so that a cancel is a close.

No redirects, no proxies, no compression, no cookies: the server is the operator's own.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

import h11
import trio

import cxp2p
from cxp2p.errors import SettingsError
from cxp2p_node.engines.upstream_faults import Kind, ServerFault

CONNECT_S_MAX = 5.0
SILENT_S_MAX = 110.0  # between two reads: a long prompt on a slow machine. An asker waits for 120 s
HEADER_BYTES_MAX = 64 * 1024
INFORMATIONAL_MAX = 8  # answers of status 1xx before the real one
READ_BYTES_MAX = 64 * 1024
BASE_PATH = "/v1"  # where a URL without a path is taken to mean

Dial: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens a connection to the server. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is. `path`: of its API, without a slash at the end. `key` never appears in a log."""

    host: str
    port: int
    tls: bool
    path: str
    key: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"

    @property
    def root(self) -> str:
        """The path that the API's own stands in: servers tell of themselves beside it."""
        return self.path.removesuffix(BASE_PATH)


def server_of(url: str, key: str = "") -> Server:
    """The server at a base URL such as http://127.0.0.1:8000/v1. Raises SettingsError with what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"url: {url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"url: expected something like http://127.0.0.1:8000/v1, not {url!r}")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("url: it may not hold a name or a password: put the key into the variable of `key_env`")
    if parts.query or parts.fragment:
        raise SettingsError(f"url: expected a base URL without ? and #, not {url!r}")
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise SettingsError(f"url: expected only printable ASCII characters, not {url!r}")
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("the key of the server holds a character that no HTTP header can")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/") or BASE_PATH
    return Server(host=parts.hostname, port=port or (443 if tls else 80), tls=tls, path=path, key=key)


def dialler(server: Server) -> Dial:
    """Connects over TCP, and TLS with the system's own certificates."""
    context = ssl.create_default_context() if server.tls else None

    async def dial() -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(server.host, server.port)
        if context is None:
            return stream
        secure = trio.SSLStream(stream, context, server_hostname=server.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return secure

    return dial


class Response:
    """A server's answer, its body unread. Made by `Client.exchange`."""

    def __init__(self, stream: trio.abc.Stream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection
        self._ended = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self) -> None:
        """Reads up to the headers' end. Raises ServerFault."""
        for _ in range(INFORMATIONAL_MAX):
            event = await self._next()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                return
        raise ServerFault(Kind.BROKEN, "it answers with statuses of 1xx only")

    async def part(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises ServerFault, also if it ends too soon."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
            if not isinstance(event, h11.Data):
                return b""

    async def body(self, bytes_max: int) -> bytes:
        """The rest of the body. Raises ServerFault for one that is longer."""
        parts: list[bytes] = []
        size = 0
        while part := await self.part():
            size += len(part)
            if size > bytes_max:
                raise ServerFault(Kind.BROKEN, f"its answer is longer than {bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    data = await self._read()
                    self._ended = not data
                    self._connection.receive_data(data)
                    continue
            except h11.RemoteProtocolError as error:
                if self._ended:
                    raise ServerFault(Kind.GONE, "it broke off in the middle of an answer") from None
                raise ServerFault(Kind.BROKEN, f"it does not speak HTTP: {error}") from None
            if isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data, h11.EndOfMessage)):
                return event
            raise ServerFault(Kind.GONE, "it closed the connection")

    async def _read(self) -> bytes:
        try:
            with trio.fail_after(SILENT_S_MAX):
                return bytes(await self._stream.receive_some(READ_BYTES_MAX))
        except trio.TooSlowError:
            raise ServerFault(Kind.GONE, f"it said nothing for {SILENT_S_MAX:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise ServerFault(Kind.GONE, f"the connection broke: {_words(error)}") from None


class Client:
    """Asks one server. `dial` opens its connections: over TCP, or in memory in a test."""

    def __init__(self, server: Server, dial: Dial | None = None) -> None:
        self.server = server
        self._dial = dial or dialler(server)

    @asynccontextmanager
    async def exchange(self, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Response]:
        """One request to `path` of the server; the connection is closed when the block ends, however it does.

        Raises ServerFault if the server cannot be reached or does not answer in HTTP.
        """
        stream = await self._connect()
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
            await self._send(stream, connection, method, path, body)
            response = Response(stream, connection)
            await response.begin()
            yield response
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        try:
            with trio.fail_after(CONNECT_S_MAX):
                return await self._dial()
        except trio.TooSlowError:
            raise ServerFault(Kind.GONE, f"no connection in {CONNECT_S_MAX:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise ServerFault(Kind.GONE, f"no connection: {_words(error)}") from None

    async def _send(
        self, stream: trio.abc.Stream, connection: h11.Connection, method: str, path: str, body: bytes | None
    ) -> None:
        data = connection.send(h11.Request(method=method, target=path, headers=self._headers(body))) or b""
        if body:
            data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        try:
            with trio.fail_after(SILENT_S_MAX):
                await stream.send_all(data)
        except trio.TooSlowError:
            raise ServerFault(Kind.GONE, f"it did not read for {SILENT_S_MAX:g} s") from None
        except (OSError, trio.BrokenResourceError):
            pass  # it may have answered before it had read all, and why is what we want to know

    def _headers(self, body: bytes | None) -> list[tuple[str, str]]:
        server = self.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        usual = server.port == (443 if server.tls else 80)
        headers = [
            ("Host", host if usual else f"{host}:{server.port}"),
            ("User-Agent", f"cxp2p/{cxp2p.__version__}"),
            ("Accept", "application/json, text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if server.key:
            headers.append(("Authorization", f"Bearer {server.key}"))
        return headers


def _words(error: BaseException) -> str:
    """What the system says: trio wraps it, and groups what it says of several addresses."""
    while error.__cause__ is not None:
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
