"""Where pages may be fetched from: URLs in all spellings, addresses of all ranges, redirects."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.egress import (
    BLOCKED,
    REDIRECTS_MAX,
    URL_LETTERS_MAX,
    EgressRefused,
    admit_addresses,
    admit_redirect,
    admit_url,
    headers_for,
    is_public,
    rules_of,
)
from cxp2p.errors import SettingsError
from cxp2p.records import PageFault

RULES = rules_of()
SITE = admit_url("https://example.com/a/b?c", RULES)


def refusal(url: str) -> EgressRefused:
    with pytest.raises(EgressRefused) as caught:
        admit_url(url, RULES)
    return caught.value


@pytest.mark.parametrize(
    ("url", "one"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.Com:443/A?b#c", "https://example.com/A?b"),
        ("http://example.com.:80", "http://example.com/"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("http://example.com?", "http://example.com/?"),
        ("http://example.com/a/./b/../c/%2e%2E/d", "http://example.com/a/d"),
        ("http://example.com/../../x/..", "http://example.com/"),
        ("http://example.com/a b/ä?q=ö&r=%zz", "http://example.com/a%20b/%C3%A4?q=%C3%B6&r=%zz"),
        ("http://example.com//a//b", "http://example.com//a//b"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER\u3002example/", "http://xn--bcher-kva.example/"),
        ("http://faß.example/", "http://xn--fa-hia.example/"),
        ("http://my_site.example/", "http://my_site.example/"),
        ("http://1.1.1.1/", "http://1.1.1.1/"),
        ("http://[2606:4700::1111]:8443/x", "http://[2606:4700::1111]:8443/x"),
        ("http://[2606:4700:0::0:1111]/", "http://[2606:4700::1111]/"),
        ("http://[64:ff9b::1.1.1.1]/", "http://[64:ff9b::101:101]/"),
    ],
)
def test_a_page_has_one_url(url: str, one: str) -> None:
    """However it is written, and what was admitted is admitted again as it is."""
    target = admit_url(url, RULES)

    assert target.url == one
    assert admit_url(target.url, RULES) == target


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "/a", "//example.com", "http:", "http://", "http:///a", "http:example.com", "http:/e.com"),
        *(
            "ftp://example.com",
            "file:///etc/passwd",
            "gopher://example.com:80/",
            "javascript://example.com/",
            "data:,x",
        ),
        *(
            "http://user@example.com",
            "http://user:secret@example.com/",
            "http://example.com@127.0.0.1/",
            "http://@e.com",
        ),
        *("http://example.com\\@127.0.0.1/", "http:\\\\example.com", "http://example.com/\n", "http://exam\tple.com"),
        *("http://example.com/\x00", "http://example.com/\x7f", "\x00http://example.com", " http://example.com"),
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:080000/", "http://example.com:x/"),
        *(
            "http://example.com:-80/",
            "http://example.com:8 0/",
            "http://example.com:\u0668\u0660/",
            "http://example.com:80:80/",
        ),
        *("http://exa mple.com/", "http://example..com", "http://.example.com", "http://-.com/", "http://exam<ple.com"),
        *(f"http://{'a' * 64}.com/", f"http://{'a.' * 127}com/", "http://xn--\u0301.com", "http://a\u200bb\u2488.com/"),
        *("http://[::1", "http://::1/", "http://[1.1.1.1]/", "http://[::1]x/", "http://[]/", "http://[v1.a]/"),
        "http://example.com/\ud800",
    ],
)
def test_what_is_no_url_is_invalid(url: str) -> None:
    assert refusal(url).fault is PageFault.INVALID_URL


def test_long_urls_are_invalid() -> None:
    """Also those that are long only when they are written as they are sent."""
    fits = "http://example.com/".ljust(URL_LETTERS_MAX, "a")

    assert admit_url(fits, RULES).url == fits
    assert refusal(fits + "a").fault is PageFault.INVALID_URL
    assert refusal("http://example.com/" + "ä" * 400).fault is PageFault.INVALID_URL


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "0177.0.0.1", "0177.1"),
        *("017700000001", "127.0.0.01", "127.0.0.0x1", "0", "0.0.0.0", "0x", "1.1.1.1.1", "256.1.1.1", "1.1.1.256"),
        *("4294967297", "1.1.1.1.", "127.0.0.1.", "127.1.", "a.1", "a.0x1", "example.com.0x7f"),
        *(
            "\uff11\uff12\uff17.0.0.1",
            "\u2460\u2461\u2466.1",
            "127\u30020\u30020\u30021",
            "127\uff0e0\uff0e0\uff0e1",
            "127\uff610\uff610\uff611",
            "\uff12\uff11\uff13\uff10\uff17\uff10\uff16\uff14\uff13\uff13",
            "0\uff587f.1",
            "\U0001d7cf\U0001d7d0\U0001d7d5.\U0001d7ce.\U0001d7ce.\U0001d7cf",
        ),
        *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "ex%61mple.com", "localhost%00.example.com", "%6cocalhost"),
        *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]"),
        *("[::ffff:8.8.8.8]", "[::8.8.8.8]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::8.8.8.8]"),
        *(
            "[2002:7f00:1::]",
            "[2002:808:808::1]",
            "[2001:0:53aa:64c::1]",
            "[fe80::1]",
            "[fe80::1%25eth0]",
            "[fe80::1%1]",
        ),
        *(
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fec0::1]",
            "[ff02::1]",
            "[ff0e::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[100::1]",
        ),
        *("[::1%25lo]", "[2606:4700::1111%25eth0]", "[4000::1]", "[5f00::1]", "[::ffff:0:127.0.0.1]"),
        *(
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",
            "localhost.localdomain",
            "router",
        ),
        *(
            "printer.local",
            "db.internal",
            "wiki.corp",
            "nas.home.arpa",
            "tv.lan",
            "metadata.google.internal",
            "metadata",
        ),
        *(
            "metadata.goog",
            "metadata.azure.com",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "x.onion",
        ),
        *("kubernetes.default.svc.cluster.local", "instance-data.ec2.internal", "api.private", "db.default.svc"),
        *(
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
        ),
    ],
)
def test_hosts_that_are_not_public_are_blocked(host: str) -> None:
    """In all spellings that some program somewhere reads as an address. What is told is the same for all."""
    caught = refusal(f"http://{host}/")

    assert (caught.fault, caught.reason) == (PageFault.URL_BLOCKED, BLOCKED)


@pytest.mark.parametrize("host", ["kubernetes.io", "localhost.com", "metadataworks.co.uk", "local.ch", "internal.io"])
def test_public_names_that_look_like_others_are_admitted(host: str) -> None:
    assert admit_url(f"https://{host}/", RULES).host == host


def test_ports_are_those_of_the_web() -> None:
    """Or those that an operator names."""
    for port in (80, 443, 8080, 8443):
        assert admit_url(f"http://example.com:{port}/", RULES).port == port
    for port in (1, 22, 25, 81, 3306, 6379, 8000, 9200, 65535):
        assert refusal(f"http://example.com:{port}/").fault is PageFault.URL_BLOCKED

    assert admit_url("http://example.com:81/", rules_of(ports=(81,))).port == 81
    with pytest.raises(EgressRefused):
        admit_url("http://example.com/", rules_of(ports=(81,)))


def test_an_operator_allows_hosts_and_networks() -> None:
    """By their names, with what they resolve to and any port; by their addresses; and nothing else by that."""
    rules = rules_of(allow=["wiki.lan", "*.Dev.Corp", "127.0.0.0/8", "[::1]", "10.1.2.3"])

    for url in ("http://wiki.lan:3000/", "http://a.b.dev.corp/", "http://127.9.9.9:5000/", "http://[::1]:1/"):
        assert admit_url(url, rules).allowed
    assert admit_addresses(admit_url("http://wiki.lan/", rules), ["192.168.7.7"], rules)
    assert admit_addresses(SITE, ["10.1.2.3", "127.0.0.1"], rules)
    for url in (
        "http://dev.corp/",
        "http://x.wiki.lan/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.1.2.4/",
    ):
        with pytest.raises(EgressRefused):
            admit_url(url, rules)
    with pytest.raises(EgressRefused):
        admit_addresses(SITE, ["10.1.2.4"], rules)


@pytest.mark.parametrize("entry", ["", "*", "*.", "10.0.0.0/33", "127.1", "a b", "http://wiki.lan", "wiki.lan:80"])
def test_what_cannot_be_allowed_is_told(entry: str) -> None:
    with pytest.raises(SettingsError, match="allow: expected"):
        rules_of(allow=[entry])


@pytest.mark.parametrize(
    ("location", "after"),
    [
        ("/x", "https://example.com/x"),
        ("x?y", "https://example.com/a/x?y"),
        ("?z", "https://example.com/a/b?z"),
        ("//www.example.com", "https://www.example.com/"),
        ("https://other.example/ä ö", "https://other.example/%C3%A4%20%C3%B6"),
        ("../../../x", "https://example.com/x"),
        ("", "https://example.com/a/b?c"),
    ],
)
def test_redirects_are_read_from_where_they_stand(location: str, after: str) -> None:
    assert admit_redirect(SITE, location, 1, RULES).url == after


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("http://example.com/a/b", PageFault.URL_BLOCKED),  # without TLS
        ("https://127.0.0.1/", PageFault.URL_BLOCKED),
        ("https://[::1]/", PageFault.URL_BLOCKED),
        ("//localhost/", PageFault.URL_BLOCKED),
        ("https://example.com:22/", PageFault.URL_BLOCKED),
        ("file:///etc/passwd", PageFault.INVALID_URL),
        ("//[", PageFault.INVALID_URL),
        ("/\\evil.example", PageFault.INVALID_URL),
        ("https://user:word@example.com/", PageFault.INVALID_URL),
        ("/" + "a" * URL_LETTERS_MAX, PageFault.INVALID_URL),
    ],
)
def test_redirects_go_by_the_same_rules(location: str, fault: PageFault) -> None:
    with pytest.raises(EgressRefused) as caught:
        admit_redirect(SITE, location, 1, RULES)

    assert caught.value.fault is fault


def test_redirects_come_to_an_end() -> None:
    """The last that is followed is the fifth. From http to https is a way up."""
    plain = admit_url("http://example.com/", RULES)

    assert admit_redirect(plain, "https://example.com/", REDIRECTS_MAX, RULES).tls
    with pytest.raises(EgressRefused, match="more than 5 redirects") as caught:
        admit_redirect(plain, "/", REDIRECTS_MAX + 1, RULES)
    assert caught.value.fault is PageFault.HTTP_ERROR


def test_secrets_stay_with_their_origin() -> None:
    """Another scheme or port is another origin."""
    headers = {"Authorization": "x", "Cookie": "y", "If-None-Match": "z", "Accept": "*/*"}

    assert headers_for(admit_url("https://example.com/other", RULES), SITE, headers) == headers
    for url in ("http://example.com/", "https://example.com:8443/", "https://www.example.com/"):
        assert headers_for(admit_url(url, RULES), SITE, headers) == {"Accept": "*/*"}


LETTERS = (
    st.sampled_from("a1.0x7fF:@/\\[]%?#-_ \t\n\u3002\uff0e\u2460\uff11:\uff41äß\u200b\u0301\ud800\x00")
    | st.characters()
)


@given(st.text(LETTERS, max_size=40), st.sampled_from(["http://", "https://", "HTTP:", "", "//"]))
def test_any_text_is_a_target_or_a_refusal(text: str, scheme: str) -> None:
    """Never another error; and a target is what it says: one spelling, ASCII, a public host, a port of the web."""
    try:
        target = admit_url(scheme + text, RULES)
    except EgressRefused:
        return

    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url
    assert admit_url(target.url, RULES) == target
    assert target.port in RULES.ports
    assert target.address is None or is_public(target.address)
    assert target.host == target.host.lower()
    assert target.path.startswith("/")


@given(st.ip_addresses(v=4), st.data())
def test_no_spelling_of_a_private_address_is_admitted(address: ipaddress.IPv4Address, data: st.DataObject) -> None:
    """One to four parts, each decimal, octal or hexadecimal with any zeros, in digits and dots of other scripts."""
    count = data.draw(st.integers(1, 4))
    number = int(address)
    parts = [number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255]
    last = number & (1 << 8 * (5 - count)) - 1
    spelt = [*parts[: count - 1], last]
    zeros = data.draw(st.sampled_from(["", "0", "000"]))
    words = [
        data.draw(st.sampled_from([f"{each}", f"0{zeros}{each:o}", f"0x{zeros}{each:x}", f"0X{each:X}"]))
        for each in spelt
    ]
    host = data.draw(st.sampled_from([".", "\u3002", "\uff0e", "\uff61"])).join(words) + data.draw(
        st.sampled_from(["", "."])
    )
    if data.draw(st.booleans()):
        host = host.translate({ord("0") + digit: ord("\uff10") + digit for digit in range(10)})
    try:
        target = admit_url(f"http://{host}/", RULES)
    except EgressRefused:
        return

    assert target.address == address
    assert is_public(address)


@given(st.text(LETTERS, max_size=40))
def test_any_location_is_a_target_or_a_refusal(location: str) -> None:
    try:
        target = admit_redirect(SITE, location, 1, RULES)
    except EgressRefused:
        return

    assert target.tls
    assert admit_url(target.url, RULES) == target
