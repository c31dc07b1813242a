"""Web pages of many URLs: which node fetches which of them, and what comes of a node's bytes. Pure.

The pages of one host are all one node's, one job at a time, and the next request's too for a while: a host sees the
pauses that a node makes between two pages, and the node's copies are used. A page is whole by itself, so that of a job
that breaks off only what is missing has to be fetched again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from cxp2p import protocols
from cxp2p.errors import JobRefused, RemoteProtocolError
from cxp2p.records import Finish, Piece, RefusalCode, ScrapedPage, ScrapeJob
from cxp2p.routing import Candidate, rank, with_room
from cxp2p.units import BYTES_PER_PAGE_MAX
from cxp2p.wire import FrameReader, decode

MODEL: Final = "web"  # what nodes call this service, if they do not say otherwise
URLS_MAX: Final = 50  # of a ScrapeJob
URL_LETTERS_MAX: Final = 2048
SHARE_URLS: Final = 4  # fewer are not worth a further node: an order takes 20 ms, and a node fetches hosts side by side
AT_ONCE_MAX: Final = 16  # orders of one request
HOMES_MAX: Final = 4096  # hosts, each with a name of at most 255 letters
HOME_S: Final = 600.0  # a node keeps a host for so long: copies are used, and a bad node is not kept for good
PAUSE_S: Final = 2.0  # between two pages of a host; nodes make it one second, if the host does not ask for more
SPARE_S: Final = 90.0  # for the queue of a node, and the turns of a host that others want too


@dataclass(frozen=True, slots=True)
class Share:
    """What one node is asked for: the numbers of some URLs. No other share has any of their hosts."""

    node: str
    numbers: tuple[int, ...]


def check_urls(urls: Sequence[str]) -> None:
    """Raises JobRefused for URLs that no job can hold."""
    if not 1 <= len(urls) <= URLS_MAX:
        raise JobRefused(RefusalCode.REQUEST_INVALID, f"{len(urls)} URLs are not between 1 and {URLS_MAX}")
    for number, url in enumerate(urls):
        if not 1 <= len(url) <= URL_LETTERS_MAX:
            why = f"URL {number} has {len(url)} letters, which is not between 1 and {URL_LETTERS_MAX}"
            raise JobRefused(RefusalCode.REQUEST_INVALID, why)


def host_of(url: str) -> str:
    """The host of a URL, as names are compared; "" if it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def firsts(urls: Sequence[str]) -> list[int]:
    """For each URL the number of the first one that is the same page, mostly its own.

    What follows `#` does not leave the asker, and the case of a host says nothing (RFC 3986, 3.5 and 6.2.2).
    """
    seen: dict[str, int] = {}
    return [seen.setdefault(_page_of(url), number) for number, url in enumerate(urls)]


def _page_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if not parts.netloc or "@" in parts.netloc:
        return url
    return urlunsplit((parts.scheme, parts.netloc.lower(), parts.path or "/", parts.query, ""))


def shares_max(urls: Sequence[str]) -> int:
    """Over how many nodes URLs can be split, if there are enough."""
    return min(AT_ONCE_MAX, len({host_of(url) for url in urls}))


def nodes_for(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[str]:
    """The nodes to choose from, best first: those that have room, or the best one if none has. None that was tried.

    How soon a node has a page says more of the host than of the node: those go first that have the fewest of our jobs.
    """
    ranked = rank(candidates, tried, rng, now)
    free = [(entry.jobs, rng.random(), entry.offer.peer) for entry, _ in with_room(ranked, now)]
    return [peer for _, _, peer in sorted(free)] or [entry.offer.peer for entry, _ in ranked[:1]]


def split(urls: Sequence[str], numbers: Iterable[int], nodes: Sequence[str], homes: Mapping[str, str]) -> list[Share]:
    """Which node is asked for which of the URLs: all of a host one node, that of `homes` if it is one of `nodes`.

    Other hosts go, the largest first, to the node that has least so far. `nodes`: the best first, at least one.
    """
    hosts: dict[str, list[int]] = {}
    for number in numbers:
        hosts.setdefault(host_of(urls[number]), []).append(number)
    shares: dict[str, list[int]] = {}
    homeless: list[list[int]] = []
    for host, of_host in hosts.items():
        if homes.get(host) in nodes:
            shares.setdefault(homes[host], []).extend(of_host)
        else:
            homeless.append(of_host)
    worth = -(-sum(map(len, homeless)) // SHARE_URLS)
    chosen = nodes[: max(1, min(worth, AT_ONCE_MAX))]
    for of_host in sorted(homeless, key=len, reverse=True):
        node = min(chosen, key=lambda each: len(shares.get(each, ())))
        shares.setdefault(node, []).extend(of_host)
    return [Share(node, tuple(sorted(of_node))) for node, of_node in shares.items()]


def longest_s(job: ScrapeJob) -> float:
    """How long a node that works may take for a job, were its pages fetched one after another, and robots.txt first."""
    return SPARE_S + job.timeout_s + len(job.urls) * (job.timeout_s + job.wait_ms / 1000 + PAUSE_S)


class Homes:
    """Which node fetches which host. Bounded: when it is full, the host that has had its node longest is let go."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def of(self, urls: Iterable[str], now: float) -> dict[str, str]:
        """The node of each host of these URLs that has one."""
        found = {}
        for host in {host_of(url) for url in urls}:
            node, until = self._nodes.get(host, ("", 0.0))
            if until > now:
                found[host] = node
        return found

    def take(self, urls: Iterable[str], node: str, now: float) -> None:
        """From now on `node` fetches the hosts of these URLs; for how long depends on when it began to."""
        for host in {host_of(url) for url in urls}:
            had, until = self._nodes.get(host, ("", 0.0))
            if had == node and until > now:
                continue
            self._nodes.pop(host, None)
            self._nodes[host] = (node, now + HOME_S)
        while len(self._nodes) > HOMES_MAX:
            self._nodes.popitem(last=False)

    def leave(self, urls: Iterable[str]) -> None:
        """The hosts of these URLs have no node any more: it could not fetch them."""
        for host in {host_of(url) for url in urls}:
            self._nodes.pop(host, None)


class Gathering:
    """The pages of a job for `count` URLs, as their bytes come from one node."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pages: dict[int, ScrapedPage] = {}
        self.size = 0
        self._reader = FrameReader(BYTES_PER_PAGE_MAX)
        self._units = 0

    def __repr__(self) -> str:
        return f"<Gathering {len(self.pages)} of {self.count} pages, {self.size} bytes>"

    @property
    def worth(self) -> int:
        """How many units have come: pages with content."""
        return sum(page.fault is None for page in self.pages.values())

    def take(self, piece: Piece, wall_ms: int) -> None:
        """What came next. Raises RemoteProtocolError for what is no page of this job, and for units before it."""
        self.size += len(piece.data)
        self._units += piece.units
        self._reader.feed(piece.data)
        while (body := self._reader.next_body()) is not None:
            page = decode(ScrapedPage, body)
            fault = self._fault_of(page, wall_ms)
            if fault:
                raise RemoteProtocolError(f"page {page.number} of {self.count}: {fault}")
            self.pages[page.number] = page
        if len(self.pages) == self.count and not self._reader.empty:
            raise RemoteProtocolError(f"more than the {self.count} pages that were asked for")
        if self._units > self.worth:
            raise RemoteProtocolError(f"{self._units} units, and {self.worth} pages with content so far")

    def _fault_of(self, page: ScrapedPage, wall_ms: int) -> str:
        if page.number >= self.count:
            return "nobody asked for it"
        if page.number in self.pages:
            return "it came before"
        if (page.fault is None) is not bool(page.content):
            return "a page has content or a fault"
        if page.fetched_at_ms > wall_ms + protocols.CLOCK_SKEW_MS_MAX:
            return "it was fetched in the future"
        return ""

    def fault(self, finish: Finish) -> str:
        """What is wrong with an answer that ended like this, and is all there is; "" if nothing is."""
        if finish not in (Finish.STOP, Finish.LENGTH):
            return ""
        if not self._reader.empty:
            return "the last page is cut off"
        missing = [number for number in range(self.count) if number not in self.pages]
        if missing:
            return f"page {missing[0]} is missing, and {len(missing) - 1} more of {self.count}"
        return "" if self._units == self.worth else f"{self._units} units for {self.worth} pages with content"
