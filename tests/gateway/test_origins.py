"""How much one address and one key may do at once, also from behind proxies; and whose address it is."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network

import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock

from cxp2p_gateway.config import HttpSettings
from cxp2p_gateway.origins import LOOPBACK, Crowd, CrowdRules, origin_of
from doors import CHAT, KEY, OTHER_KEY, MemoryDoor, ask, chat_body, front, hangs
from sockets import listening
from wires import chat, request

TRUSTED = (*LOOPBACK, ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "origin"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),  # a stranger's word
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.9, 198.51.100.1"], "198.51.100.1"),  # the first one is a stranger's word
        ("10.0.0.1", ["198.51.100.9", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2, 2001:db8:1::5"], "198.51.100.1"),
        ("10.0.0.1", [" 198.51.100.1 "], "198.51.100.1"),
        ("10.0.0.1", ["garbage, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, garbage"], None),
        ("10.0.0.1", ["198.51.100.1, "], None),
        ("10.0.0.1", ["unknown"], None),
        ("10.0.0.1", ["10.0.0.3"], None),
        ("10.0.0.1", [], None),
        ("127.0.0.5", [], None),
        ("::1", ["2001:db8::1"], "2001:db8::/64"),
        ("2001:db8:0:7:1:2:3:4", [], "2001:db8:0:7::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("::ffff:127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        (None, ["192.0.2.1"], None),
    ],
)
def test_the_origin_is_the_last_address_that_no_trusted_proxy_has(
    peer: str | None, forwarded: list[str], origin: str | None
) -> None:
    """Read from the right: what a client wrote itself stands left of its own address."""
    assert origin_of(peer, forwarded, TRUSTED) == origin


def test_a_crowd_is_counted_and_leaves_nothing_behind() -> None:
    crowd = Crowd(2)
    with crowd.one_more("a"), crowd.one_more(None):
        assert not crowd.is_full("a")
        with suppress(KeyError), crowd.one_more("a"):
            assert crowd.is_full("a")
            assert not crowd.is_full("b")
            assert not crowd.is_full(None)
            raise KeyError
        assert not crowd.is_full("a")
    assert len(crowd) == 0


async def test_an_address_has_so_many_connections() -> None:
    """One more ends the one that idles longest; if none idles, it is refused, and another address is not."""
    rules = CrowdRules(connections_per_address_max=3, trusted_proxies=())
    async with (
        listening(MemoryDoor(work=hangs), rules) as here,
        here.connect() as idle,
        here.connect() as busy,
        here.connect() as other,
    ):
        await idle.say(request(key=None))
        assert await idle.reply("GET") is not None
        for client in (busy, other):
            await client.say(chat())
        await here.ran(2)
        async with here.connect() as third:
            await third.say(chat())
            assert await idle.rest() == b""
            await here.ran(3)
            reply, behind = await here.tell(request(key=None), "GET")
            assert reply is not None
            assert (reply.status, reply.reason, behind) == (429, "Too Many Requests", b"")
            assert reply.json() == {"error": "Too many requests at once from your address"}
            assert (reply.headers["retry-after"], reply.headers["connection"]) == ("2", "close")
            assert all(run.ended_at is None for run in here.door.runs)
        assert len(here.front.crowds.connections) == 1


async def test_a_proxy_on_this_machine_is_not_counted_but_whom_it_names() -> None:
    """The default: X-Forwarded-For of loopback is believed, and counts requests, not connections."""
    async with listening(MemoryDoor(work=hangs), CrowdRules(connections_per_address_max=2)) as here:
        named = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1"}
        async with here.connect() as first, here.connect() as second, here.connect() as third:
            for client in (first, second):
                await client.say(chat(headers=named))
            await here.ran(2)
            await third.say(chat("/v1/chat/completions", headers=named))
            reply = await third.reply()
            assert reply is not None
            assert (reply.status, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert await third.rest() == b""
            elsewhere = request(key=None, Connection="close", X_Forwarded_For="192.0.2.1, 192.0.2.2")
            for free in (elsewhere, request(key=None, Connection="close")):
                reply, _ = await here.tell(free, "GET")
                assert reply is not None
                assert reply.status == 200


async def test_a_stranger_is_not_believed_whom_it_asks_for() -> None:
    """Its own connections count, whatever it writes."""
    rules = CrowdRules(connections_per_address_max=1, trusted_proxies=())
    async with listening(MemoryDoor(work=hangs), rules) as here, here.connect() as client:
        await client.say(chat(headers={"X-Forwarded-For": "192.0.2.1"}))
        await here.ran(1)
        assert len(here.front.crowds.forwarded) == 0
        reply, _ = await here.tell(chat(headers={"X-Forwarded-For": "192.0.2.2"}))
        assert reply is not None
        assert reply.status == 429


async def test_a_key_has_so_many_requests_at_once(autojump_clock: MockClock) -> None:
    """Streams count until they end; another key has its own; who goes makes room."""
    app = front(MemoryDoor(work=hangs), crowd_rules=CrowdRules(requests_per_key_max=2))

    async def hold(stream: bool) -> None:
        await ask(app, "POST", CHAT, body=chat_body(stream=stream), leave_after_s=30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, True)
        nursery.start_soon(hold, False)
        await trio.sleep(20)  # the stream has its status by now
        refused = await ask(app, "GET", "/v1/models", key=KEY)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["message"] == "Rate limit reached: 2 requests at once"
        assert (await ask(app, "GET", "/v1/models", key=OTHER_KEY)).status == 200
        assert (await ask(app, "GET", "/health", key=None)).status == 200
    assert (await ask(app, "GET", "/v1/models", key=KEY)).status == 200
    assert len(app.crowds.keys) == 0


async def test_made_up_keys_are_not_counted(autojump_clock: MockClock) -> None:
    app = front(MemoryDoor(), crowd_rules=CrowdRules(requests_per_key_max=1))
    for number in range(50):
        assert (await ask(app, "GET", "/v1/models", key=f"made up {number}")).status == 401
    assert len(app.crowds.keys) == 0


def test_the_settings_name_what_is_wrong() -> None:
    """Proxies are addresses or networks; limits are at least 1."""
    settings = HttpSettings(trusted_proxies=("10.0.0.7", "2001:db8::/32"))
    assert settings.trusted_proxies == (ip_network("10.0.0.7/32"), ip_network("2001:db8::/32"))
    for wrong in ({"trusted_proxies": ["nginx"]}, {"requests_per_key_max": 0}, {"connections_per_address_max": 0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            HttpSettings.model_validate(wrong)
