"""HTTP towards the server behind a node: what is sent, what is taken, and what ends a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from cxp2p.errors import SettingsError
from cxp2p_node.engines.upstream_faults import Kind, ServerFault
from cxp2p_node.engines.upstream_http import (
    CONNECT_S_MAX,
    HEADER_BYTES_MAX,
    INFORMATIONAL_MAX,
    SILENT_S_MAX,
    Client,
    server_of,
)
from upstreams import Asked, Fake, Line, fake_client, on_loopback, refusing

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def answering(answer: bytes, *, then_closes: bool = True) -> AsyncIterator[Client]:
    """A client of something that says these bytes to whatever it is asked."""

    async def dial() -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        await theirs.send_all(answer)
        if then_closes:
            await theirs.send_eof()
        return ours

    yield Client(server_of("http://upstream:8000/v1"), dial)


async def asked(client: Client, body: bytes | None = b"{}", bytes_max: int = 1000) -> tuple[int, bytes]:
    async with client.exchange("POST", "/v1/x", body) as response:
        return response.status, await response.body(bytes_max)


# Where it is.


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8000, "/v1"),
        ("http://127.0.0.1:8000/v1/", "127.0.0.1", 8000, "/v1"),
        ("http://127.0.0.1:11434", "127.0.0.1", 11434, "/v1"),
        ("https://models.example", "models.example", 443, "/v1"),
        ("http://[::1]:8080/api/v1", "::1", 8080, "/api/v1"),
    ],
)
def test_a_base_url_may_be_written_in_many_ways(url: str, host: str, port: int, path: str) -> None:
    server = server_of(url)
    assert (server.host, server.port, server.path) == (host, port, path)
    assert server_of(server.url) == server


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "expected something like"),
        ("ftp://host/v1", "expected something like"),
        ("http:///v1", "expected something like"),
        ("http://host:port/v1", "is no URL"),
        ("http://[::1/v1", "is no URL"),
        ("http://me:secret@host/v1", "key_env"),
        ("http://host/v1?key=secret", r"without \? and #"),
        ("http://host/v 1", "printable ASCII"),
        ("http://host/v\u00e91", "printable ASCII"),
    ],
)
def test_a_url_that_cannot_be_is_told_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as error:
        server_of(url)
    assert "secret" not in str(error.value) or "?" in url


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as error:
        server_of("http://host", "sk-1\r\nX: y")
    assert "sk-1" not in str(error.value)


def test_the_key_is_not_shown_by_anything_that_prints_a_server() -> None:
    assert "sk-secret" not in repr(server_of("http://host", "sk-secret"))


# What is sent and taken.


async def test_a_request_says_what_servers_need_and_no_more() -> None:
    """One connection each, no compression, the key as a bearer."""
    fake = Fake(refusing(200, {"a": 1}))
    async with fake_client(fake, "sk-1") as client:
        assert await asked(client, b'{"b": 2}') == (200, b'{"a": 1}')
    assert fake.asked[0].body == {"b": 2}
    headers = fake.asked[0].headers
    assert headers.pop("user-agent").startswith("cxp2p/")
    assert headers == {
        "host": "upstream:8000",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "connection": "close",
        "content-type": "application/json",
        "content-length": "8",
        "authorization": "Bearer sk-1",
    }


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5\r\n\r\nhello and what does not belong to it",
    ],
)
async def test_a_body_is_read_however_its_end_is_told(answer: bytes) -> None:
    async with answering(answer) as client:
        assert await asked(client) == (200, b"hello")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Kind.GONE),
        (OK, Kind.GONE),
        (OK + b"Content-Length: 5\r\n\r\nhell", Kind.GONE),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", Kind.GONE),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", Kind.BROKEN),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", Kind.BROKEN),
        (OK + b"X: " + b"x" * 3 * HEADER_BYTES_MAX + b"\r\n\r\n", Kind.BROKEN),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (INFORMATIONAL_MAX + 1), Kind.BROKEN),
        (OK + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, Kind.BROKEN),
    ],
)
async def test_what_is_no_whole_answer_is_a_fault(answer: bytes, kind: Kind) -> None:
    """Cut off, not HTTP, headers without an end, or more than is taken."""
    async with answering(answer) as client:
        with pytest.raises(ServerFault) as fault:
            await asked(client)
    assert fault.value.kind is kind


async def test_redirects_are_not_followed() -> None:
    fake = Fake(refusing(307, {}, location="http://elsewhere/v1/x"))
    async with fake_client(fake) as client:
        assert (await asked(client))[0] == 307
    assert fake.opened == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node asks of its own server goes there."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with on_loopback(Fake(refusing(200, {}))) as server:
        assert (await asked(Client(server)))[0] == 200


async def test_an_answer_that_comes_before_the_request_was_read_is_heard() -> None:
    """A server that refuses a large body closes on it: what it said is what we want to know."""

    async def hasty(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await stream.send_eof()
        while await stream.receive_some(1 << 20):
            pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hasty, [listener])
        client = Client(server_of(f"http://127.0.0.1:{listener.socket.getsockname()[1]}"))
        assert await asked(client, b"x" * (8 << 20)) == (413, b"no")
        nursery.cancel_scope.cancel()


# What ends a connection.


async def test_a_server_that_is_not_there_is_gone() -> None:
    async with on_loopback(Fake(refusing(200, {}))) as server:
        pass
    with pytest.raises(ServerFault, match=r"no connection: .*refused") as fault:
        await asked(Client(server))
    assert fault.value.kind is Kind.GONE


async def test_a_server_that_does_not_take_a_connection_is_gone(autojump_clock: MockClock) -> None:
    client = Client(server_of("http://host"), trio.sleep_forever)
    begun = trio.current_time()
    with pytest.raises(ServerFault, match="no connection in"):
        await asked(client)
    assert trio.current_time() - begun == CONNECT_S_MAX


async def test_a_server_that_says_nothing_is_gone(autojump_clock: MockClock) -> None:
    """Before an asker gives up on the node: then the node can say why."""
    async with answering(OK + b"Content-Length: 5\r\n\r\nhe", then_closes=False) as client:
        begun = trio.current_time()
        with pytest.raises(ServerFault, match="said nothing") as fault:
            await asked(client)
    assert fault.value.kind is Kind.GONE
    assert trio.current_time() - begun == SILENT_S_MAX < 120


async def test_a_cancel_closes_the_connection_at_once() -> None:
    """Over real sockets: the server sees it before it could make another token."""
    left = trio.Event()

    async def hang(asked: Asked, line: Line) -> None:
        await line.begin()
        try:
            await line.until_left()
        finally:
            left.set()

    async with on_loopback(Fake(hang)) as server:
        with trio.CancelScope() as scope:
            async with Client(server).exchange("POST", "/v1/x", b"{}") as response:
                assert response.status == 200
                scope.cancel()
                await response.part()
        with trio.fail_after(5):
            begun = trio.current_time()
            await left.wait()
    assert trio.current_time() - begun < 0.1


async def test_a_connection_is_closed_however_the_block_ends() -> None:
    fake = Fake(refusing(200, {}))
    async with fake_client(fake) as client:
        with pytest.raises(RuntimeError, match="ours"):
            async with client.exchange("POST", "/v1/x", b"{}"):
                raise RuntimeError("ours")
        await wait_all_tasks_blocked()
        assert (fake.open, fake.opened) == (0, 1)


async def test_tls_is_checked_against_the_systems_certificates() -> None:
    """A server that speaks no TLS, or has no certificate that this machine trusts, gets no key."""
    seen = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        seen.extend(await stream.receive_some(1 << 16))
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, listen, [listener])
        server = server_of(f"https://127.0.0.1:{listener.socket.getsockname()[1]}", "sk-secret")
        with pytest.raises(ServerFault) as fault:
            await asked(Client(server))
        nursery.cancel_scope.cancel()
    assert fault.value.kind is Kind.GONE
    assert seen
    assert b"sk-secret" not in seen
