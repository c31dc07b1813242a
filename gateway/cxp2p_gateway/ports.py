"""The ports that a gateway listens on: opened here, or inherited from the process that started this one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final

import trio

from cxp2p.errors import SettingsError

BACKLOG: Final = 512


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listens on all addresses of `host`; on one if `port` is 0, which takes a free one. Raises SettingsError."""
    try:
        listeners = list(await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG))
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program listens there already",
            errno.EACCES: "this user may not listen there; ports below 1024 are for root",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from error
    if port == 0:  # a name with several addresses got a different port on each: the first one is reported
        for spare in listeners[1:]:
            await spare.aclose()
        return listeners[:1]
    return listeners


def inherited(descriptors: Sequence[int]) -> list[trio.SocketListener]:
    """The listening sockets that this process was started with. Raises SettingsError for what is none."""
    return [_inherited(descriptor) for descriptor in descriptors]


def _inherited(descriptor: int) -> trio.SocketListener:
    try:
        opened = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SettingsError(f"descriptor {descriptor} is no socket: {error.strerror}") from None
    try:
        return trio.SocketListener(trio.socket.from_stdlib_socket(opened))
    except ValueError as error:
        opened.detach()
        raise SettingsError(f"descriptor {descriptor} is no listening socket: {error}") from None


def port_of(listeners: Sequence[trio.SocketListener]) -> int:
    """The port of the first of them."""
    return int(listeners[0].socket.getsockname()[1])


def shown(host: str) -> str:
    """A host as it stands in a URL that works on this machine."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
