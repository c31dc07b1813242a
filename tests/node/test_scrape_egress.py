"""What a node connects to, over real sockets: a server on loopback that must never hear of what was refused."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from cxp2p.egress import Target, admit_url
from cxp2p.errors import SettingsError
from cxp2p.records import PageFault
from cxp2p_node.scrape.dial import NEAR_BITS_MIN, SystemResolver, own_networks
from cxp2p_node.scrape.fetch import Fetcher, fetcher_of
from cxp2p_node.scrape.fetched import FetchRefused, FetchSettings
from webs import LOOPBACK, Asked, Line, Web, allowing, authority, fetch, fetcher_on_loopback, on_loopback, refused

PUBLIC = "192.0.43.8"  # is never connected to here


def strict(web: Web, answers: dict[str, Sequence[str]]) -> Fetcher:
    """A fetcher with no exception but the server's port."""
    return fetcher_on_loopback(web, answers, allow=())


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "0"),
        *("0.0.0.0", "127.0.0.1.", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "%31%32%37.0.0.1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::127.0.0.1]"),
        *(
            "[2002:7f00:1::]",
            "[2001:0:1:1::80ff:fffe]",
            "[::1%25lo]",
            "localhost",
            "LOCALHOST.",
            "localhost.localdomain",
        ),
    ],
)
async def test_no_spelling_of_this_machine_is_connected_to(host: str) -> None:
    """The name resolves to it too, should anybody ask."""
    async with on_loopback(Web()) as web:
        fetcher = strict(web, {host: [LOOPBACK], "localhost": [LOOPBACK], "127.1": [LOOPBACK]})

        caught = await refused(fetcher, web.url(host))

        assert (caught.fault, caught.reason) == (PageFault.URL_BLOCKED, "URL blocked")
        assert web.taken == 0


@pytest.mark.parametrize(
    "answers",
    [
        *([LOOPBACK], ["127.255.255.254"], ["0.0.0.0"], ["::1"], ["::"], ["::ffff:127.0.0.1"], ["::ffff:7f00:1"]),
        *(["::127.0.0.1"], ["64:ff9b::7f00:1"], ["64:ff9b:1::7f00:1"], ["2002:7f00:1::1"], ["2001:0:1:1::80ff:fffe"]),
        *(["10.0.0.1"], ["172.31.0.1"], ["192.168.0.1"], ["169.254.169.254"], ["100.64.0.1"], ["198.18.0.1"]),
        *(["fd00::1"], ["fe80::1"], ["fe80::1%lo"], ["ff02::1"], ["224.0.0.1"], ["255.255.255.255"], ["240.0.0.1"]),
        *([PUBLIC, LOOPBACK], [LOOPBACK, PUBLIC], ["2606:4700::1111", "::1"], ["nonsense"]),
    ],
)
async def test_names_that_resolve_to_what_is_not_public_are_not_connected_to(answers: list[str]) -> None:
    """Not even if one of several addresses is public. What they resolve to is not told."""
    async with on_loopback(Web()) as web:
        caught = await refused(strict(web, {"evil.example": answers}), web.url("evil.example"))

        assert (caught.fault, caught.reason) == (PageFault.URL_BLOCKED, "URL blocked")
        assert web.taken == 0


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://inside.example:{}/"]
)
async def test_redirects_lead_to_nothing_that_is_not_public(place: str) -> None:
    """Neither by an address nor by a name that resolves to one."""
    paths: list[str] = []

    async def script(asked: Asked, line: Line) -> None:
        paths.append(asked.path)
        await line.to(place.format(web.port) + "secret")

    async with on_loopback(Web({"*": allowing(script)})) as web:
        fetcher = fetcher_on_loopback(
            web, {"site.example": ["127.0.0.2"], "inside.example": [LOOPBACK]}, allow=("127.0.0.2",)
        )
        listener = await trio.open_tcp_listeners(web.port, host="127.0.0.2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, web.serve, listener)
            caught = await refused(fetcher, web.url("site.example", "/first"))
            nursery.cancel_scope.cancel()

    assert caught.fault is PageFault.URL_BLOCKED
    assert paths == ["/first"]


async def test_a_name_is_resolved_once_and_the_answer_is_what_is_connected_to() -> None:
    """DNS that says something else the second time is not asked a second time."""
    asked_for: list[str] = []

    async def rebinding(target: Target) -> Sequence[str]:
        asked_for.append(target.host)
        await trio.lowlevel.checkpoint()
        return ["127.0.0.2"] if len(asked_for) == 1 else ["127.0.0.3"]

    async with on_loopback(Web()) as web:
        settings = FetchSettings(allow=("127.0.0.2",), ports=(web.port,), delay_s=0)
        fetcher = fetcher_of(settings, resolve=rebinding, networks=tuple)
        listeners = await trio.open_tcp_listeners(web.port, host="127.0.0.2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, web.serve, listeners)
            stream = await fetcher.connect(admit_url(web.url("rebind.example"), fetcher.rules))
            assert stream.socket.getpeername() == ("127.0.0.2", web.port)
            assert asked_for == ["rebind.example"]
            await stream.aclose()
            caught = await refused(fetcher, web.url("rebind.example"))
            nursery.cancel_scope.cancel()

        assert caught.fault is PageFault.URL_BLOCKED  # 127.0.0.3 is not allowed
        assert web.asked == []


class Elsewhere(trio.abc.SocketFactory):
    """Sockets of a machine where something turns connections aside."""

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:
        made = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        connect = made.connect
        made.connect = lambda place: connect(("127.0.0.2", place[1]))  # type: ignore[assignment,method-assign]
        return made


async def test_a_connection_that_ends_elsewhere_is_none() -> None:
    """Whatever put it there: the other end is asked for."""
    async with on_loopback(Web()) as web:
        listeners = await trio.open_tcp_listeners(web.port, host="127.0.0.2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, web.serve, listeners)
            trio.socket.set_custom_socket_factory(Elsewhere())
            assert (await refused(fetcher_on_loopback(web), web.url("site.example"))).fault is PageFault.CONNECT_ERROR
            trio.socket.set_custom_socket_factory(None)
            nursery.cancel_scope.cancel()

        assert web.asked == []


async def test_the_host_header_is_the_names() -> None:
    async with on_loopback(Web()) as web:
        found = await fetch(fetcher_on_loopback(web), web.url("site.example", "/x"))

    assert found.body == b"<p>site.example/x</p>"
    assert web.asked[-1].headers["host"] == f"site.example:{web.port}"


async def test_another_address_is_tried_if_one_leads_nowhere() -> None:
    """Of those that were judged, by turns of both families."""
    async with on_loopback(Web()) as web:
        names = {"a.example": ["::1", "127.0.0.9", LOOPBACK], "b.example": ["127.0.0.9"]}
        fetcher = fetcher_on_loopback(web, names, allow=("127.0.0.0/8", "::1"))

        assert (await fetch(fetcher, web.url("a.example"))).status == 200
        assert (await refused(fetcher, web.url("b.example"))).fault is PageFault.CONNECT_ERROR


async def test_names_that_do_not_exist_are_told_as_such() -> None:
    async with on_loopback(Web()) as web:
        caught = await refused(fetcher_on_loopback(web, {"none.example": []}), web.url("none.example"))
        assert caught.fault is PageFault.DNS_ERROR
        caught = await refused(fetcher_on_loopback(web, {}), web.url("none.example"))
        assert caught.fault is PageFault.DNS_ERROR


async def test_neighbours_with_public_addresses_are_not_connected_to() -> None:
    """The networks of the machine's own interfaces are asked for; here they are said to be public ones."""

    async def resolve(target: Target) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return ["2a00:1:2:3::77"]

    fetcher = fetcher_of(FetchSettings(), resolve=resolve, networks=lambda: (ip_network("2a00:1:2:3::/64"),))

    assert (await refused(fetcher, "http://printer.example/")).fault is PageFault.URL_BLOCKED


def test_a_machine_knows_its_own_networks() -> None:
    """Loopback at least, and none that is so large that half the internet would be in it."""
    found = own_networks()

    assert ip_network("127.0.0.0/8") in found
    assert all(network.prefixlen >= NEAR_BITS_MIN[network.version] for network in found)


async def test_the_systems_resolver_does_not_search() -> None:
    """A name is looked up as it stands, with a dot at its end, unless the operator has allowed it."""
    resolver, rules = SystemResolver(), fetcher_of(FetchSettings(allow=("localhost",))).rules

    assert LOOPBACK in await resolver(admit_url("http://localhost/", rules))
    with pytest.raises(socket.gaierror):
        await resolver(admit_url("http://no.such.name.invalid/", rules))


async def test_certificates_are_checked_for_the_name(tmp_path: Path) -> None:
    """Those of an authority whose file is a setting hold; for another name, or out of date, they do not."""
    own = authority(tmp_path)
    for names, days, fault in (
        (("site.example",), 1, None),
        (("other.example",), 1, PageFault.TLS_ERROR),
        (("site.example",), -1, PageFault.TLS_ERROR),
    ):
        async with on_loopback(Web(), own.context(*names, days=days)) as web:
            url = web.url("site.example", scheme="https")
            fetcher = fetcher_on_loopback(web, ca_path=own.path)
            if fault is None:
                assert (await fetch(fetcher, url)).body == b"<p>site.example/</p>"
            else:
                caught = await refused(fetcher, url)
                assert (caught.fault, "127" in caught.reason) == (fault, False)
                assert "certificate is not trusted" in caught.reason
            assert (await refused(fetcher_on_loopback(web), url)).fault is PageFault.TLS_ERROR


async def test_what_is_no_tls_is_told_as_such() -> None:
    async with on_loopback(Web()) as web:
        caught = await refused(fetcher_on_loopback(web), web.url("site.example", scheme="https"))

    assert (caught.fault, caught.reason) == (PageFault.TLS_ERROR, "no TLS with its host")


def test_a_file_of_certificates_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(SettingsError, match="ca_path"):
            fetcher_of(FetchSettings(ca_path=path))


async def test_what_speaks_for_itself_connects_by_the_same_rules() -> None:
    """A browser behind a proxy of ours, say."""
    async with on_loopback(Web()) as web:
        fetcher = strict(web, {"evil.example": [LOOPBACK]})
        with pytest.raises(FetchRefused) as caught:
            await fetcher.connect(admit_url(web.url("evil.example"), fetcher.rules))

        assert caught.value.fault is PageFault.URL_BLOCKED
        assert web.taken == 0
