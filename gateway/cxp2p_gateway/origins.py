"""Where requests come from, also behind proxies, and how many at once may come from one place or with one key. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SUBNET_BITS: Final = 64  # of IPv6: what one customer of a provider has at the least


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdRules:
    """How many there may be at once. `address`: an IPv4 address, or 64 bits of IPv6.

    What comes from `trusted_proxies` counts for the address that they name in X-Forwarded-For.
    """

    connections_max: int = 1024  # a process may hold 1,024 descriptors by default on some systems, 4,096 on most
    connections_per_address_max: int = 256
    requests_per_key_max: int = 512
    trusted_proxies: tuple[Network, ...] = LOOPBACK


class Crowd:
    """Counts what goes on at once under each name. What has no name is not counted."""

    def __init__(self, each_max: int) -> None:
        self.each_max = each_max
        self._inside: Counter[str] = Counter()

    def is_full(self, name: str | None) -> bool:
        """Whether one more under this name is too many."""
        return name is not None and self._inside[name] >= self.each_max

    @contextmanager
    def one_more(self, name: str | None) -> Iterator[None]:
        """Counts one more until the block ends. Names that nothing goes on under take no room."""
        if name is None:
            yield
            return
        self._inside[name] += 1
        try:
            yield
        finally:
            self._inside[name] -= 1
            if not self._inside[name]:
                del self._inside[name]

    def __len__(self) -> int:
        return len(self._inside)


class Crowds:
    """All that is counted for one front."""

    def __init__(self, rules: CrowdRules) -> None:
        self.rules = rules
        self.connections = Crowd(rules.connections_per_address_max)
        self.forwarded = Crowd(rules.connections_per_address_max)
        self.keys = Crowd(rules.requests_per_key_max)


def origin_of(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The address that a request is counted for: the last one that no trusted proxy has.

    `peer`: who holds the connection; `forwarded`: all X-Forwarded-For headers in order, each a list to which every
    proxy adds whom it heard from. What stands before the first stranger, from the right, is the stranger's own word.
    None if all are trusted, one is no address, or there is no peer: a connection in memory.
    """
    if peer is None:
        return None
    hops = [hop.strip() for header in forwarded for hop in header.split(",")]
    for hop in (peer, *reversed(hops)):
        try:
            address = ip_address(hop.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if not any(address in network for network in trusted):
            return _place(address)
    return None


def _place(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((address, SUBNET_BITS), strict=False))
