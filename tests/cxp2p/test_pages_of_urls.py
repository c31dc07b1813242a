"""Pages of many URLs: which node fetches which, and what comes of a node's bytes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import units
from cxp2p.directory import Entry, Via
from cxp2p.errors import RemoteProtocolError
from cxp2p.records import Finish, PageFault, Piece, Prices, ScrapedPage, ScrapeJob, Service
from cxp2p.routing import Candidate
from cxp2p.scrape import (
    AT_ONCE_MAX,
    HOME_S,
    HOMES_MAX,
    SHARE_URLS,
    Gathering,
    Homes,
    firsts,
    host_of,
    longest_s,
    nodes_for,
    shares_max,
    split,
)
from cxp2p.testing.records import make_capability, make_identity, make_offer
from cxp2p.wire import decode, encode_bare_frame, encode_uvarint
from scrapers import frames_of, page_of, right, urls_of

WALL_MS = 1_800_000_000_000

HOSTS = st.sampled_from(["a.example", "b.example", "c.example", "d.example", "[::1]", "", "a.example:8080"])
URLS = st.lists(st.builds("https://{}/{}".format, HOSTS, st.integers(0, 5)), min_size=1, max_size=50)
HOMES = st.dictionaries(HOSTS.map(lambda host: host_of(f"https://{host}/")), st.sampled_from(["node-1", "x"]))
NODES = st.lists(st.sampled_from([f"node-{number}" for number in range(20)]), min_size=1, unique=True)


# Who fetches what.


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/x", "a.example"),
        ("https://A.Example.:443/", "a.example"),
        ("http://user@[::1]:8080/", "::1"),
        ("nonsense", ""),
        ("http://[::1", ""),
        ("", ""),
    ],
)
def test_hosts_are_compared_by_their_names(url: str, host: str) -> None:
    """Not by how they are written; what is no URL has none."""
    assert host_of(url) == host


def test_the_same_page_is_asked_for_once() -> None:
    """The case of a host and what follows # say nothing; the case of a path, the query and the scheme do."""
    urls = [
        "https://a.example",
        "https://a.example/",
        "HTTPS://A.EXAMPLE/#top",
        "https://a.example/A",
        "https://a.example/a",
        "https://a.example/?a",
        "http://a.example/",
        "http://[::1",
        "http://[::1",
        "https://Me@a.example/",
        "https://me@a.example/",
    ]

    assert firsts(urls) == [0, 0, 0, 3, 4, 5, 6, 7, 7, 9, 10]


@given(
    URLS, NODES, st.dictionaries(HOSTS.map(lambda host: host_of(f"https://{host}/")), st.sampled_from(["node-1", "x"]))
)
def test_each_host_is_in_one_share(urls: list[str], nodes: list[str], homes: dict[str, str]) -> None:
    """All URLs are in one share each; a host goes to its home if that is there; each node has at most one share."""
    shares = split(urls, range(len(urls)), nodes, homes)

    assert sorted(number for share in shares for number in share.numbers) == list(range(len(urls)))
    assert len({share.node for share in shares}) == len(shares)
    hosts = [{host_of(urls[number]) for number in share.numbers} for share in shares]
    assert sum(map(len, hosts)) == len(set.union(*hosts))
    for share, of_share in zip(shares, hosts, strict=True):
        assert share.node in nodes
        assert all(homes[host] == share.node for host in of_share if homes.get(host) in nodes)


@pytest.mark.parametrize(("hosts", "each", "nodes", "wanted"), [(50, 1, 5, [10] * 5), (3, 1, 5, [3]), (50, 1, 99, 13)])
def test_hosts_are_spread_over_as_many_nodes_as_are_worth_it(
    hosts: int, each: int, nodes: int, wanted: list[int] | int
) -> None:
    """Evenly; four pages are worth a node, and sixteen orders are the most."""
    urls = urls_of(hosts, each)
    shares = split(urls, range(len(urls)), [f"node-{number}" for number in range(nodes)], {})

    if isinstance(wanted, int):
        assert len(shares) == wanted <= AT_ONCE_MAX
        assert min(len(share.numbers) for share in shares) >= SHARE_URLS - 1
    else:
        assert [len(share.numbers) for share in shares] == wanted


def test_never_more_shares_than_are_counted_on() -> None:
    """What a gateway makes room for is what is taken."""
    for hosts in (1, 7, 50):
        urls = urls_of(hosts, 2)
        shares = split(urls, range(len(urls)), [f"node-{number}" for number in range(99)], {})
        assert len(shares) <= shares_max(urls) <= AT_ONCE_MAX


def candidate(number: int, jobs: int = 0, price: int = 10, running: int = 0, busy_until: float = 0.0) -> Candidate:
    able = make_capability(service=Service.SCRAPE, slots=4, prices=Prices(input=0, output=price))
    able = replace(able, load=replace(able.load, running=running))
    identity = make_identity(number)
    offer = make_offer(identity, 1, capabilities=(able,))
    return Entry(offer, b"", Via.DHT, 0, jobs=jobs, busy_until=busy_until), able


def test_nodes_with_room_are_chosen_by_how_much_of_ours_they_have() -> None:
    """Full, shy, dear and tried ones are not chosen while there are others; without any the best one is."""
    idle, half, full = candidate(1), candidate(2, jobs=3), candidate(3, running=4)
    dear, shy, tried = candidate(4, price=1000), candidate(5, busy_until=9.0), candidate(6)
    peers = [entry.offer.peer for entry, _ in (idle, half, full, dear, shy, tried)]
    chosen = nodes_for([full, dear, shy, half, tried, idle], [peers[5]], Random(1), 1.0)

    assert chosen == peers[:2]
    assert nodes_for([full], [], Random(1), 1.0) == [peers[2]]
    assert nodes_for([], [], Random(1), 1.0) == []
    firsts = {nodes_for([idle, tried], [], Random(seed), 1.0)[0] for seed in range(20)}
    assert firsts == {peers[0], peers[5]}


def test_a_host_has_a_home_for_a_while() -> None:
    """Counted from when it went there, not from its last page; another node may take it over."""
    homes, urls = Homes(), ["https://a.example/1", "https://b.example/2"]
    homes.take(urls, "one", 0.0)
    homes.take(urls, "one", 500.0)
    homes.take(urls[1:], "two", 500.0)

    assert homes.of(urls, 599.0) == {"a.example": "one", "b.example": "two"}
    assert homes.of(urls, HOME_S) == {"b.example": "two"}
    homes.leave(urls[1:])
    assert homes.of(urls, 501.0) == {"a.example": "one"}


def test_homes_are_bounded() -> None:
    """Whoever asks for a million hosts takes no more room than for 4,096; the newest stay."""
    homes = Homes()
    for number in range(HOMES_MAX + 100):
        homes.take([f"https://h{number}.example/"], "one", float(number) / 100)

    assert len(homes) == HOMES_MAX
    assert homes.of(["https://h99.example/", "https://h100.example/"], 50.0) == {"h100.example": "one"}


def test_a_job_may_take_as_long_as_its_pages_one_after_another() -> None:
    """With robots.txt, the pauses of a host, and the time that scripts get."""
    job = ScrapeJob(model="web", urls=("a", "b"), timeout_s=10, wait_ms=500)

    assert longest_s(job) == 90 + 10 + 2 * (10 + 0.5 + 2)


# What comes of a node's bytes.


def fed(gathering: Gathering, data: bytes, units: int, step: int = 50) -> Gathering:
    """Takes bytes in small pieces, the units with the last one."""
    for start in range(0, max(1, len(data)), step):
        last = start + step >= len(data)
        gathering.take(Piece(data=data[start : start + step], units=units if last else 0), WALL_MS)
    return gathering


URLS_OF_FIVE = [*urls_of(4, 1), "https://a.example/dns_error"]


@given(st.permutations(right(URLS_OF_FIVE)), st.integers(1, 2000))
def test_pages_come_in_any_order_however_they_are_cut(pages: list[ScrapedPage], step: int) -> None:
    """They are there when their last byte is, and a page without content is no unit."""
    gathering = fed(Gathering(5), frames_of(pages), 4, step)

    assert gathering.fault(Finish.STOP) == ""
    assert tuple(gathering.pages[number] for number in range(5)) == right(URLS_OF_FIVE)
    assert gathering.worth == 4


def bare(fields: dict[str, object]) -> bytes:
    """A frame that no record makes."""
    body = cbor2.dumps(fields)
    return encode_uvarint(len(body)) + body


PAGE = page_of("https://a.example/x")
FAULT = page_of("https://a.example/timeout", 1)
BROKEN = {
    "a number that nobody asked for": (frames_of([replace(PAGE, number=2)]), 1, "page 2 of 2: nobody asked"),
    "the same number twice": (frames_of([PAGE, PAGE]), 2, "page 0 of 2: it came before"),
    "one page too many": (frames_of([PAGE, FAULT, FAULT]), 1, "more than the 2 pages"),
    "a byte too many": (frames_of([PAGE, FAULT]) + b"x", 1, "more than the 2 pages"),
    "a fault and content": (
        frames_of([replace(PAGE, fault=PageFault.TIMEOUT)]),
        0,
        "a page has content or a fault",
    ),
    "neither": (frames_of([ScrapedPage(number=0)]), 0, "a page has content or a fault"),
    "units before their page": (frames_of([PAGE])[:-1], 1, "1 units, and 0 pages with content"),
    "units for a fault": (frames_of([FAULT]), 1, "1 units, and 0 pages with content"),
    "from the future": (frames_of([replace(PAGE, fetched_at_ms=WALL_MS + 30_001)]), 1, "in the future"),
    "no CBOR": (encode_uvarint(3) + b"\xff\xff\xff", 0, "not valid CBOR"),
    "no page": (encode_bare_frame(Prices(input=1, output=2)), 0, "ScrapedPage."),
    "half a letter": (frames_of([replace(PAGE, content="é")]).replace(b"\xc3\xa9", b"\xc3x"), 1, "not valid CBOR"),
    "a page over the limit": (encode_uvarint(units.BYTES_PER_PAGE_MAX + 1), 0, "over the limit"),
    "a length without end": (b"\xff" * 5, 0, "frame length"),
    "a title over the limit": (bare({"number": 0, "content": "x", "title": "x" * 2049}), 1, "ScrapedPage.title"),
    "a field that nobody knows": (bare({"number": 0, "content": "x", "x": 1}), 1, "ScrapedPage.x"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_page_of_the_job_ends_it(how: str) -> None:
    """With its number and what is wrong, as soon as it is there."""
    data, worth, fault = BROKEN[how]

    with pytest.raises(RemoteProtocolError, match=fault):
        fed(Gathering(2), data, worth)


UNFINISHED = {
    "nothing": (b"", 0, "page 0 is missing, and 1 more of 2"),
    "a page too few": (frames_of([FAULT]), 0, "page 0 is missing, and 0 more of 2"),
    "a page that is cut off": (frames_of([PAGE, FAULT])[:-1], 1, "the last page is cut off"),
    "a unit too few": (frames_of([PAGE, FAULT]), 0, "0 units for 1 pages with content"),
}


@pytest.mark.parametrize("how", UNFINISHED)
def test_an_answer_that_is_not_whole_is_none(how: str) -> None:
    """Whatever its receipt says; one that was cancelled need not be whole."""
    data, worth, fault = UNFINISHED[how]
    gathering = fed(Gathering(2), data, worth)

    assert gathering.fault(Finish.STOP) == fault
    assert gathering.fault(Finish.LENGTH) == fault
    assert gathering.fault(Finish.CANCELLED) == ""


@given(st.binary(max_size=300), st.integers(0, 3))
def test_no_bytes_do_any_harm(data: bytes, worth: int) -> None:
    """They are pages, or an error of the node."""
    gathering = Gathering(3)
    try:
        fed(gathering, data, worth, 7)
    except RemoteProtocolError:
        return
    assert len(gathering.pages) <= 3


def test_a_page_survives_the_wire() -> None:
    """With all its fields."""
    page = replace(PAGE, rendered=True, cached=True, author="A", published="2020-01-01")
    frame = encode_bare_frame(page)

    assert decode(ScrapedPage, frame[2:]) == page
