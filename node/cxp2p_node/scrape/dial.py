"""Connections to the hosts of pages: a name is resolved once, every address is judged, one of those is connected to.

Nothing below looks the name up again: what a DNS server says the second time does not matter. TLS is for the name.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import ifaddr
import trio

from cxp2p.egress import Address, EgressRefused, EgressRules, Network, Target, admit_addresses
from cxp2p.errors import SettingsError
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused

CONNECT_S_MAX: Final = 10.0  # the name, TCP and TLS together
NEXT_S: Final = 0.3  # RFC 8305, 5: so long an address is alone, before the next one is tried beside it
TRIED_MAX: Final = 4  # addresses of one name
LOOK_S: Final = 60.0  # so often it is looked at which networks this machine is in
LOOKUPS_MAX: Final = 24  # threads that wait for DNS; one that hangs is left behind, and counts until it ends
NEAR_BITS_MIN: Final = {4: 8, 6: 32}  # a network that is larger than this is none that this machine is in

Resolve: TypeAlias = Callable[[Target], Awaitable[Sequence[str]]]
"""All addresses of a target's name. Raises OSError."""
LookUp: TypeAlias = Callable[..., Sequence[tuple[Any, ...]]]
"""What blocks as `socket.getaddrinfo` does."""
Networks: TypeAlias = Callable[[], tuple[Network, ...]]
"""The networks that this machine is in."""


class Dials(Protocol):
    """Opens connections: a `Dialler`, or a test's twin."""

    @property
    def rules(self) -> EgressRules: ...

    async def connect(self, target: Target) -> trio.SocketStream: ...

    async def open(self, target: Target) -> trio.abc.Stream: ...


class Dialler:
    """Opens connections by the rules. `networks`: what is refused though it is public, see `own_networks`."""

    def __init__(self, rules: EgressRules, resolve: Resolve, context: ssl.SSLContext, networks: Networks) -> None:
        self._rules = rules
        self._resolve = resolve
        self._context = context
        self._networks = networks
        self._look_at = -math.inf

    @property
    def rules(self) -> EgressRules:
        """The rules, with the networks that this machine is in now."""
        now = trio.current_time()
        if now >= self._look_at:
            self._rules = replace(self._rules, denied=self._networks())
            self._look_at = now + LOOK_S
        return self._rules

    async def connect(self, target: Target) -> trio.SocketStream:
        """A TCP connection to an address of the target that may be connected to. Raises FetchRefused."""
        try:
            addresses = admit_addresses(target, await self._addresses(target), self.rules)
        except EgressRefused as refused:
            raise FetchRefused.of(refused) from None
        stream = await _first(_in_turn(addresses)[:TRIED_MAX], target.port)
        if stream is None:
            raise FetchRefused(PageFault.CONNECT_ERROR, "no connection to its host")
        return stream

    async def open(self, target: Target) -> trio.abc.Stream:
        """A connection on which HTTP can be spoken, over TLS if the target is. Raises FetchRefused."""
        with trio.move_on_after(CONNECT_S_MAX):
            stream = await self.connect(target)
            return await self._secure(stream, target) if target.tls else stream
        raise FetchRefused(PageFault.TIMEOUT, f"no connection to its host in {CONNECT_S_MAX:g} s")

    async def _addresses(self, target: Target) -> Sequence[str]:
        if target.address is not None:
            return [str(target.address)]
        try:
            return await self._resolve(target)
        except (OSError, UnicodeError):
            raise FetchRefused(PageFault.DNS_ERROR, "its host was not found") from None

    async def _secure(self, stream: trio.SocketStream, target: Target) -> trio.abc.Stream:
        secure = trio.SSLStream(stream, self._context, server_hostname=target.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(secure)
            if isinstance(error, trio.BrokenResourceError):
                raise FetchRefused(PageFault.TLS_ERROR, _tls_words(error)) from None
            raise
        return secure


def tls_context(ca_path: Path | None) -> ssl.SSLContext:
    """TLS that trusts the system's certificates, and those in the file. Raises SettingsError for one that cannot be."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_path is not None:
        try:
            context.load_verify_locations(ca_path)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"ca_path: {ca_path} holds no certificates: {error}") from None
    return context


class SystemResolver:
    """Resolves as this system does, in threads of its own: DNS that hangs holds up no other work of the node."""

    def __init__(self, look_up: LookUp = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._limiter = trio.CapacityLimiter(LOOKUPS_MAX)

    async def __call__(self, target: Target) -> list[str]:
        """All addresses of a name. Search domains are for names that the operator has allowed."""
        name = target.host if target.allowed else target.host + "."

        def look_up() -> list[str]:
            found = self._look_up(name, target.port, type=socket.SOCK_STREAM)
            return [str(address[0]) for *_, address in found]

        found: list[str] = await trio.to_thread.run_sync(  # type: ignore[call-arg]
            look_up, abandon_on_cancel=True, limiter=self._limiter
        )
        return found


def own_networks() -> tuple[Network, ...]:
    """The networks that this machine is in. Its neighbours have public addresses too, with IPv6 mostly."""
    found: set[Network] = set()
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0])
            near = each.network_prefix >= NEAR_BITS_MIN[address.version]
            prefix = each.network_prefix if near else address.max_prefixlen
            found.add(ipaddress.ip_network((int(address), prefix), strict=False))
    return tuple(found)


def _in_turn(addresses: Sequence[Address]) -> list[Address]:
    """The addresses, those of the two families by turns: one of them may lead nowhere from here (RFC 8305, 4)."""
    first = [each for each in addresses if each.version == addresses[0].version]
    second = [each for each in addresses if each.version != addresses[0].version]
    return [each for pair in zip_longest(first, second) for each in pair if each is not None]


async def _first(addresses: Sequence[Address], port: int) -> trio.SocketStream | None:
    """The first connection that comes about; the others are closed. None if none does."""
    streams: list[trio.SocketStream] = []

    async def attempt(address: Address, failed: trio.Event, nursery: trio.Nursery) -> None:
        stream = await _connected(address, port)
        failed.set()
        if stream is not None:
            streams.append(stream)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for number, address in enumerate(addresses, 1):
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed, nursery)
                with trio.move_on_after(NEXT_S if number < len(addresses) else math.inf):
                    await failed.wait()
        chosen = streams.pop(0) if streams else None
    finally:
        for late in streams:
            late.socket.close()
    return chosen


async def _connected(address: Address, port: int) -> trio.SocketStream | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((str(address), port))
        if not is_peer(sock.getpeername()[0], address):
            raise OSError("connected to another address")
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            return None
        raise
    return trio.SocketStream(sock)


def is_peer(peer: str, address: Address) -> bool:
    """Whether the other end of a connection is who was meant: nothing on the way may have put it elsewhere."""
    return ipaddress.ip_address(peer) == address


def _tls_words(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"[:200]
    return "no TLS with its host"
