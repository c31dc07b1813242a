"""Where pages may be fetched from: addresses of all ranges, and what a name resolves to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxp2p.egress import (
    ADDRESSES_MAX,
    BLOCKED,
    Address,
    EgressRefused,
    admit_addresses,
    admit_url,
    is_public,
    rules_of,
)
from cxp2p.records import PageFault

RULES = rules_of()
SITE = admit_url("https://example.com/a/b?c", RULES)


NOT_PUBLIC = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32
    ::/128 ::1/128 ::/96 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:2::/48
    2001:db8::/32 2001:10::/28 2001:20::/28 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
    64:ff9b::10.0.0.0/104 64:ff9b::127.0.0.0/104 64:ff9b::169.254.0.0/112 64:ff9b::192.168.0.0/112
""".split()


@pytest.mark.parametrize("network", NOT_PUBLIC)
def test_ranges_that_are_not_public_are_refused(network: str) -> None:
    """From their first address to their last."""
    whole = ipaddress.ip_network(network)
    for address in (whole[0], whole[-1], whole[whole.num_addresses // 2]):
        assert not is_public(address)
        with pytest.raises(EgressRefused) as caught:
            admit_addresses(SITE, [str(address)], RULES)
        assert caught.value.reason == BLOCKED


@pytest.mark.parametrize(
    "address",
    "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0"
    " 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255"
    " 2606:4700::1111 2a00:1450:4001::1 2001:200::1 2001:4860:4860::8888 2003::1 64:ff9b::8.8.8.8".split(),
)
def test_addresses_beside_those_ranges_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses())
@example(ipaddress.ip_address("192.88.99.1"))
def test_what_is_called_public_is_at_least_what_python_calls_so(address: Address) -> None:
    """`is_global` is never stricter, by any version of Python, but for what it makes of NAT64."""
    if is_public(address) and address not in ipaddress.IPv6Network("64:ff9b::/96"):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "::", "2002::", "64:ff9b::", "2001::", "64:ff9b:1::"]))
def test_an_address_in_another_is_never_more_public(inner: ipaddress.IPv4Address, around: str) -> None:
    """v4-mapped, v4-compatible, 6to4, NAT64, Teredo (where it is inverted)."""
    shift, mask = {"2002::": (80, 0), "2001::": (0, 0xFFFF_FFFF)}.get(around, (0, 0))
    outer = ipaddress.IPv6Address(int(ipaddress.IPv6Address(around)) | ((int(inner) ^ mask) << shift))

    assert not is_public(outer) or (is_public(inner) and around == "64:ff9b::")


def test_all_answers_for_a_name_must_be_public() -> None:
    """One that is not is one too many, wherever it stands; and there must be any."""
    assert list(map(str, admit_addresses(SITE, ["1.1.1.1", "2606:4700::1111", "1.1.1.1"], RULES))) == [
        "1.1.1.1",
        "2606:4700::1111",
    ]
    for answers in (["1.1.1.1", "10.0.0.1"], ["10.0.0.1", "1.1.1.1"], ["2606:4700::1111%eth0"], ["1.1.1.1", "x"]):
        with pytest.raises(EgressRefused) as caught:
            admit_addresses(SITE, answers, RULES)
        assert (caught.value.fault, caught.value.reason) == (PageFault.URL_BLOCKED, BLOCKED)
    with pytest.raises(EgressRefused) as caught:
        admit_addresses(SITE, [], RULES)
    assert caught.value.fault is PageFault.DNS_ERROR
    with pytest.raises(EgressRefused) as caught:
        admit_addresses(SITE, [f"1.1.1.{number}" for number in range(ADDRESSES_MAX + 1)], RULES)
    assert caught.value.reason == BLOCKED


def test_networks_of_this_machine_are_refused_though_public() -> None:
    """Its neighbours have public addresses too. What the operator allows is allowed all the same."""
    near = (ipaddress.ip_network("2a00:1:2:3::/64"),)
    rules = rules_of(denied=near)

    for address in ("2a00:1:2:3::1", "2a00:1:2:3:ffff::1"):
        with pytest.raises(EgressRefused):
            admit_addresses(SITE, [address], rules)
        with pytest.raises(EgressRefused):
            admit_url(f"http://[{address}]/", rules)
        assert admit_addresses(SITE, [address], rules_of(allow=["2a00:1:2:3::/64"], denied=near))
    assert admit_addresses(SITE, ["2a00:1:2:4::1"], rules)
