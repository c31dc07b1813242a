"""Where a web page may be fetched from: rules that keep strangers' URLs away from what is not public. Pure.

A gateway looks at a URL's spelling before it asks (`admit_url`). A node, whose network is the one at stake, does so
again, looks at every address that the name resolves to (`admit_addresses`), connects to one of those and to no other,
and does the same for each redirect (`admit_redirect`). Addresses are public by IANA's registries (RFC 6890) as they
stood in 2026: `ipaddress.is_global` calls too much public, and not the same from one Python to the next.

What is told to an asker never says what a name resolves to, or which rule was broken: `EgressRefused.detail` does, for
the log of whoever runs the program.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import quote, urljoin

import idna

from cxp2p.errors import CxError, SettingsError
from cxp2p.records import PageFault

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_LETTERS_MAX: Final = 2048
HOST_LETTERS_MAX: Final = 253  # RFC 1035, as text without the last dot
LABEL_LETTERS_MAX: Final = 63
REDIRECTS_MAX: Final = 5
ADDRESSES_MAX: Final = 64  # answers for one name; who has more has something else in mind
PORTS: Final = (80, 443, 8080, 8443)
BLOCKED: Final = "URL blocked"

_PORT_OF: Final = {"http": 80, "https": 443}

# Names that mean this machine, its network, or the services that clouds put beside it (RFC 6761, 6762, 7686, 8375).
_REFUSED_HOSTS: Final = frozenset({"kubernetes.default", "instance-data.ec2.internal"})
_REFUSED_FIRST: Final = frozenset({"metadata", "instance-data"})  # metadata.google.internal, metadata.goog, ...
_REFUSED_ENDS: Final = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "home.arpa", "corp", "private"}
    | {"svc", "cluster", "onion"}
)

# IANA's registries of special addresses, what is not to be routed at all, and one that a cloud made special.
_NOT_PUBLIC_4: Final = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's own service beside every machine
    )
)
_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")  # all that was ever given out; else mapped, local, multicast
_NOT_PUBLIC_6: Final = (
    ipaddress.IPv6Network("2001::/23"),  # Teredo, ORCHID, benchmarks, and other protocols' own
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation
    ipaddress.IPv6Network("2002::/16"),  # 6to4
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_NEVER: Final = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?", re.DOTALL)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SAFE: Final = "%/:?@!$&'()*+,;=-._~[]|^`{}\""  # of these some need not be, but browsers send them as they are
_DOTS: Final = re.compile(r"\.|%2e", re.IGNORECASE)


class EgressRefused(CxError):
    """This may not be fetched. `reason` is for the asker; `detail`, which only a log may hold, says what it was."""

    def __init__(self, fault: PageFault, reason: str, detail: str = "") -> None:
        super().__init__(f"{fault}: {detail or reason}")
        self.fault = fault
        self.reason = reason
        self.detail = detail or reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """What an operator has set; `rules_of` makes them.

    `hosts` and `networks` are allowed whatever else holds, with any port: "example.lan", or "*.example.lan" for all
    names under it. `denied` are networks that are not fetched from though they are public, such as those that this
    machine is in.
    """

    ports: frozenset[int] = frozenset(PORTS)
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL that was admitted, in its one spelling.

    `host`: a name in ASCII and small letters, or an address. `path`: with the query, beginning with a slash. `address`:
    if the host is one. `allowed`: the operator allows this host, so that its addresses need not be public.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None
    allowed: bool = field(default=False, compare=False)

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def host_header(self) -> str:
        """What the Host header says (RFC 9110, 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT_OF[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host_header}"

    @property
    def url(self) -> str:
        """The URL, without a fragment."""
        return self.origin + self.path


def rules_of(ports: Collection[int] = PORTS, allow: Iterable[str] = (), denied: Iterable[Network] = ()) -> EgressRules:
    """The rules that an operator's settings mean. Raises SettingsError for an entry of `allow` that is nothing."""
    hosts, networks = [], []
    for entry in allow:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            continue
        except ValueError:
            pass
        name = entry.removeprefix("*.")
        try:
            hosts.append(entry.removesuffix(name) + _ascii_name(name))
        except EgressRefused:
            expected = "expected a host (wiki.lan, *.lan), an address or a network (10.0.0.0/8)"
            raise SettingsError(f"allow: {expected}, not {entry!r}") from None
    return EgressRules(ports=frozenset(ports), hosts=frozenset(hosts), networks=tuple(networks), denied=tuple(denied))


def admit_url(url: str, rules: EgressRules) -> Target:
    """What a URL means, if it may be fetched as far as its spelling tells. Raises EgressRefused."""
    if len(url) > URL_LETTERS_MAX:
        raise _invalid(f"a URL has at most {URL_LETTERS_MAX} letters, not {len(url)}")
    if _NEVER.search(url):
        raise _invalid("a URL may hold neither control characters nor a backslash")
    whole = _URL.fullmatch(url)
    scheme = whole[1].lower() if whole else ""
    if whole is None or scheme not in _PORT_OF:
        raise _invalid("expected a URL that begins with http:// or https://")
    if "@" in whole[2]:
        raise _invalid("a URL may hold neither a name nor a password")
    parts = _AUTHORITY.fullmatch(whole[2])
    if parts is None or not parts[1]:
        raise _invalid("the URL has no host")
    port = int(parts[2][-6:]) if parts[2] else _PORT_OF[scheme]
    if not 1 <= port <= 65535 or len(parts[2] or "") > 5:
        raise _invalid("a port is a number between 1 and 65535")
    path = _tidy(whole[3]) + ("" if whole[4] is None else "?" + quote(whole[4], safe=_SAFE))
    address = _address(parts[1])
    host = str(address) if address else _ascii_name(parts[1])
    allowed = _in(address, rules.networks) if address else _is_allowed(host, rules)
    target = Target(scheme=scheme, host=host, port=port, path=path, address=address, allowed=allowed)
    if len(target.url) > URL_LETTERS_MAX:
        raise _invalid(f"a URL has at most {URL_LETTERS_MAX} letters, with what must be percent-encoded")
    if not allowed:
        _check(target, rules)
    return target


def admit_redirect(before: Target, location: str, count: int, rules: EgressRules) -> Target:
    """Where a redirect leads, the `count`th of a page (from 1). Raises EgressRefused, as `admit_url` does."""
    if count > REDIRECTS_MAX:
        raise EgressRefused(PageFault.HTTP_ERROR, f"more than {REDIRECTS_MAX} redirects")
    try:
        joined = urljoin(before.url, location.strip(" \t"))
    except ValueError:
        raise _invalid("it redirects to what is no URL") from None
    after = admit_url(joined, rules)
    if before.tls and not after.tls:
        raise _blocked("a redirect from https to http")
    return after


def admit_addresses(target: Target, addresses: Sequence[str], rules: EgressRules) -> tuple[Address, ...]:
    """The addresses that may be connected to, each once, in their order: all that a name resolved to, or none.

    Raises EgressRefused if there is none, or one that is not public.
    """
    if not addresses:
        raise EgressRefused(PageFault.DNS_ERROR, "its host was not found")
    if len(addresses) > ADDRESSES_MAX:
        raise _blocked(f"{target.host} resolves to {len(addresses)} addresses")
    found: dict[Address, None] = {}
    for each in addresses:
        try:
            address = ipaddress.ip_address(each)
        except ValueError:
            raise _blocked(f"{target.host} resolves to {each!r}, which is no address") from None
        if not target.allowed:
            _check_address(address, rules)
        found[address] = None
    return tuple(found)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could reach this address, if it is somebody's at all.

    IPv4 inside IPv6 is public only as NAT64 of a public address. v4-mapped, v4-compatible, 6to4 and Teredo are not:
    nothing that is served to the public is found by them.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not _in(address, _NOT_PUBLIC_4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _UNICAST_6 and not _in(address, _NOT_PUBLIC_6)


def headers_for(after: Target, before: Target, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go on to where a redirect leads: what was meant for one origin is not told to another."""
    if after.origin == before.origin:
        return dict(headers)
    secret = ("authorization", "cookie", "proxy-authorization", "if-none-match", "if-modified-since")
    return {name: value for name, value in headers.items() if name.lower() not in secret}


def _invalid(reason: str) -> EgressRefused:
    return EgressRefused(PageFault.INVALID_URL, reason)


def _blocked(detail: str) -> EgressRefused:
    return EgressRefused(PageFault.URL_BLOCKED, BLOCKED, detail)


def _address(host: str) -> Address | None:
    """The address that a host is, if it is written as one should be."""
    if host.startswith("["):
        if "%" in host:
            raise _blocked("an address with a zone")
        try:
            return ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise _invalid("what stands in brackets is no IPv6 address") from None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _ascii_name(host: str) -> str:
    """A name as DNS has it. Raises EgressRefused for what is none, and for what some read as an IPv4 address."""
    if "%" in host:
        raise _blocked("a host that is percent-encoded")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True, std3_rules=True, transitional=False).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise _invalid("its host is no name of IDNA") from None
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # WHATWG URL, "ends in a number": 127.1, 2130706433, 0x7f.1, 0177.0.0.1
        raise _blocked("a host that is a number")
    if len(name) > HOST_LETTERS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise _invalid("its host is no name")
    if max(map(len, labels)) > LABEL_LETTERS_MAX:
        raise _invalid(f"a part of its host has more than {LABEL_LETTERS_MAX} letters")
    return name


def _is_allowed(host: str, rules: EgressRules) -> bool:
    labels = host.split(".")
    over = (".".join(["*", *labels[index:]]) for index in range(1, len(labels)))
    return host in rules.hosts or any(each in rules.hosts for each in over)


def _check(target: Target, rules: EgressRules) -> None:
    if target.port not in rules.ports:
        raise _blocked(f"port {target.port} is not one of {', '.join(map(str, sorted(rules.ports)))}")
    if target.address:
        _check_address(target.address, rules)
    else:
        _check_name(target.host)


def _check_name(host: str) -> None:
    labels = host.split(".")
    ends = {labels[-1], ".".join(labels[-2:])}
    if len(labels) == 1 or ends & _REFUSED_ENDS or labels[0] in _REFUSED_FIRST or host in _REFUSED_HOSTS:
        raise _blocked(f"{host} is a name of a network of its own")


def _check_address(address: Address, rules: EgressRules) -> None:
    if _in(address, rules.networks):
        return
    if not is_public(address):
        raise _blocked(f"{address} is not public")
    if _in(address, rules.denied):
        raise _blocked(f"{address} is in a network of this machine's own")


def _in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _tidy(path: str) -> str:
    """A path without "." and "..", however they are written: the rules of robots.txt are for what is served."""
    kept: list[str] = []
    parts = path.split("/")[1:]
    for number, part in enumerate(parts, 1):
        plain = _DOTS.sub(".", part) if len(part) <= 6 else part
        if plain not in (".", ".."):
            kept.append(part)
            continue
        if plain == ".." and kept:
            kept.pop()
        if number == len(parts):
            kept.append("")
    return "/" + quote("/".join(kept), safe=_SAFE)
