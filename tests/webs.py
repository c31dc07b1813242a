"""A web for tests: hosts that do what a script says, in memory and virtual time, or over TCP on loopback."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import h11
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from trio.testing import memory_stream_pair

from cxp2p.egress import EgressRules, Target, rules_of
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetch import Fetcher, fetcher_of
from cxp2p_node.scrape.fetched import Fetched, FetchRefused, FetchSettings

EPOCH_MS = 1_800_000_000_000
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Asked:
    """One request as a host got it. `at`: when, by trio's clock."""

    host: str
    path: str
    headers: Mapping[str, str]
    at: float


class Line:
    """The server's side of one request."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def page(self, text: str | bytes = "<p>Hello</p>", status: int = 200, **headers: str) -> None:
        """A whole reply. A header that is "" is left out."""
        body = text if isinstance(text, bytes) else text.encode()
        told = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in told.items() if value)]
        await self.raw("\r\n".join([*lines, "", ""]).encode() + body)

    async def to(self, place: str, status: int = 302) -> None:
        """A redirect."""
        await self.page("", status, location=place)

    async def raw(self, data: bytes) -> None:
        """Bytes that need not be HTTP."""
        await self._stream.send_all(data)

    async def until_left(self) -> None:
        """Returns when the client has closed its end."""
        while await self._stream.receive_some(1 << 16):
            pass


Script = Callable[[Asked, Line], Awaitable[None]]


async def says_hello(asked: Asked, line: Line) -> None:
    """Any page, and no robots.txt."""
    await (line.page("", 404) if asked.path == "/robots.txt" else line.page(f"<p>{asked.host}{asked.path}</p>"))


def allowing(script: Script) -> Script:
    """The same, with a robots.txt that allows everything."""

    async def answer(asked: Asked, line: Line) -> None:
        await (line.page("", 404) if asked.path == "/robots.txt" else script(asked, line))

    return answer


def with_robots(robots: str, status: int = 200, page: Script = says_hello) -> Script:
    """A host with this robots.txt."""

    async def script(asked: Asked, line: Line) -> None:
        await (line.page(robots, status) if asked.path == "/robots.txt" else page(asked, line))

    return script


@dataclass
class Web:
    """Hosts by name; "*" is any other. `asked` is all they were asked, `taken` how many connections there were."""

    hosts: dict[str, Script] = field(default_factory=lambda: {"*": says_hello})
    asked: list[Asked] = field(default_factory=list)
    taken: int = 0
    open: int = 0
    open_most: int = 0
    port: int = 0
    _closed: trio.Event = field(default_factory=trio.Event)

    async def until_quiet(self) -> None:
        """Until no connection is open, and all tasks have ended that can."""
        with trio.fail_after(10):
            while self.open:
                await self._closed.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)

    def paths(self, *, robots: bool = False) -> list[str]:
        """What was asked for, in its order."""
        return [each.path for each in self.asked if robots or each.path != "/robots.txt"]

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection; a client that leaves ends it."""
        self.taken += 1
        self.open += 1
        self.open_most = max(self.open_most, self.open)
        try:
            asked = await self._read(stream)
            if asked is not None:
                self.asked.append(asked)
                script = self.hosts.get(asked.host) or self.hosts["*"]
                await script(asked, Line(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, h11.RemoteProtocolError):
            pass
        finally:
            try:
                await trio.aclose_forcefully(stream)
            finally:
                self.open -= 1
                self._closed.set()
                self._closed = trio.Event()

    async def _read(self, stream: trio.abc.Stream) -> Asked | None:
        connection = h11.Connection(h11.SERVER)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(1 << 16))
                continue
            if not isinstance(event, h11.Request):
                return None
            headers = {name.decode(): value.decode() for name, value in event.headers}
            host = headers["host"].partition(":")[0]
            return Asked(host, event.target.decode(), headers, trio.current_time())

    def url(self, host: str, path: str = "/", scheme: str = "http") -> str:
        """Where a page is."""
        port = f":{self.port}" if self.port else ""
        return f"{scheme}://{host}{port}{path}"


class MemoryDialler:
    """Connects to a Web in memory: the same rules, without DNS and TCP. `opens`: what happens before."""

    def __init__(self, web: Web, nursery: trio.Nursery, opens: Callable[[Target], Awaitable[None]] | None) -> None:
        self._web = web
        self._nursery = nursery
        self._opens = opens
        self.rules: EgressRules = rules_of()

    async def open(self, target: Target) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self._opens:
            await self._opens(target)
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._web.serve, theirs)
        return ours

    async def connect(self, target: Target) -> trio.SocketStream:
        raise AssertionError("nothing is tunnelled in memory")


@asynccontextmanager
async def fetcher_in_memory(
    web: Web, opens: Callable[[Target], Awaitable[None]] | None = None, **settings: object
) -> AsyncIterator[Fetcher]:
    """A fetcher whose world is `web`, in virtual time; the wall clock goes with it."""
    async with trio.open_nursery() as nursery:

        def wall_ms() -> int:
            return EPOCH_MS + round(trio.current_time() * 1000)

        yield Fetcher(FetchSettings(**settings), MemoryDialler(web, nursery, opens), wall_ms)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def on_loopback(web: Web, context: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    """Serves a Web on a port of loopback."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        web.port = listeners[0].socket.getsockname()[1]
        served = (
            [trio.SSLListener(each, context, https_compatible=True) for each in listeners] if context else listeners
        )
        nursery.start_soon(trio.serve_listeners, web.serve, served)
        yield web
        nursery.cancel_scope.cancel()


def fetcher_on_loopback(web: Web, names: Mapping[str, Sequence[str]] | None = None, **settings: object) -> Fetcher:
    """A fetcher that may go to loopback and knows names: all of them are there, if `names` does not say otherwise."""

    async def resolve(target: Target) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        if names is None:
            return [LOOPBACK]
        if target.host not in names:
            raise OSError("no such name")
        return names[target.host]

    fields: dict[str, object] = {"allow": ("127.0.0.0/8",), "ports": (web.port,), "delay_s": 0.0, **settings}
    return fetcher_of(
        FetchSettings(**fields),  # type: ignore[arg-type]
        resolve=resolve,
        networks=lambda: (ip_network("127.0.0.0/8"),),
    )


async def fetch(
    fetcher: Fetcher, url: str, timeout_s: float = 5.0, age_s_max: int = 0, wait_s: float = 60.0
) -> Fetched:
    """A page, with the limits of most tests."""
    return await fetcher.fetch(url, timeout_s=timeout_s, age_s_max=age_s_max, wait_s=wait_s)


async def refused(fetcher: Fetcher, url: str, timeout_s: float = 5.0, wait_s: float = 60.0) -> FetchRefused:
    """Why there is no page."""
    with pytest.raises(FetchRefused) as caught:
        await fetch(fetcher, url, timeout_s, wait_s=wait_s)
    return caught.value


async def outcome(fetcher: Fetcher, url: str, timeout_s: float = 5.0, wait_s: float = 60.0) -> Fetched | PageFault:
    """The page, or the fault."""
    try:
        return await fetch(fetcher, url, timeout_s, wait_s=wait_s)
    except FetchRefused as caught:
        return caught.fault


async def all_of(fetcher: Fetcher, urls: list[str], wait_s: float = 60.0) -> dict[str, Fetched | PageFault]:
    """What becomes of them, fetched at once."""
    found: dict[str, Fetched | PageFault] = {}

    async def one(url: str) -> None:
        found[url] = await outcome(fetcher, url, wait_s=wait_s)

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(one, url)
    return found


@dataclass(frozen=True)
class Authority:
    """Somebody who makes certificates, and the file that says whom to trust."""

    path: Path
    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def context(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """A server's TLS with a certificate for these names; one of less than no days has run out."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(names[0], key.public_key(), self.certificate.subject, days)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        signed = made.sign(self.key, hashes.SHA256())
        path = self.folder / f"{names[0]}.pem"
        path.write_bytes(
            signed.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context


def authority(folder: Path) -> Authority:
    """One whose certificate stands in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    made = _certificate("Test authority", key.public_key(), name, 1)
    certificate = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        key, hashes.SHA256()
    )
    path = folder / "authority.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(path, folder, certificate, key)


def _certificate(subject: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
