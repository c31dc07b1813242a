"""Where a gateway listens: opened, inherited, or refused with the reason."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from cxp2p.errors import SettingsError
from cxp2p_gateway.ports import inherited, listen, port_of, shown


async def test_a_port_is_opened_once() -> None:
    """A second program is told that the first is there; 0 takes one that is free."""
    first = await listen("127.0.0.1", 0)
    port = port_of(first)
    assert port > 0
    with pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{port}: another program listens there"):
        await listen("127.0.0.1", port)
    for listener in first:
        await listener.aclose()
    again = await listen("127.0.0.1", port)
    assert port_of(again) == port
    for listener in again:
        await listener.aclose()


async def test_a_host_that_is_none_is_told() -> None:
    """By its name, and with what the system says."""
    with pytest.raises(SettingsError, match="cannot listen on no such host:0: "):
        await listen("no such host", 0)


async def test_a_socket_is_inherited() -> None:
    """By its number; what connects to it is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        (listener,) = inherited([os.dup(opened.fileno())])
        assert port_of([listener]) == opened.getsockname()[1]
        client = await trio.open_tcp_stream("127.0.0.1", port_of([listener]))
        accepted = await listener.accept()
        async with client, accepted:
            await client.send_all(b"x")
            assert await accepted.receive_some() == b"x"
        await listener.aclose()


async def test_what_is_no_listening_socket_is_refused() -> None:
    """A file, a socket that does not listen, a number of nothing; each stays whose it is."""
    reading, writing = os.pipe()
    with pytest.raises(SettingsError, match=rf"descriptor {reading} is no socket"):
        inherited([reading])
    os.close(reading)
    os.close(writing)
    with pytest.raises(SettingsError, match=rf"descriptor {reading} is no socket: Bad file descriptor"):
        inherited([reading])
    with socket.socket() as idle:
        with pytest.raises(SettingsError, match=rf"descriptor {idle.fileno()} is no listening socket"):
            inherited([idle.fileno()])
        idle.getsockname()


@pytest.mark.parametrize(
    ("host", "text"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("a.b", "a.b")],
)
def test_a_host_is_shown_as_a_url_has_it(host: str, text: str) -> None:
    """One that works on this machine."""
    assert shown(host) == text
