"""From a URL to the bytes of its page: by the rules of egress, with manners, and within limits.

A page is fetched in visits. A visit is one turn of one host: robots.txt if it is not known, the page, and redirects
that stay at the host; a redirect that leads elsewhere is a visit there. Each hop is judged anew, by the rules and by
its own host's robots.txt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from typing import Final

import trio

from cxp2p.client import wall_ms as wall_clock_ms
from cxp2p.egress import REDIRECTS_MAX, EgressRefused, EgressRules, Target, admit_redirect, admit_url, rules_of
from cxp2p.records import PageFault
from cxp2p_node.scrape.copies import ROBOTS_RETRY_S, ROBOTS_S, Copies, Copy, RobotsBook
from cxp2p_node.scrape.dial import Dialler, Dials, Networks, Resolve, SystemResolver, own_networks, tls_context
from cxp2p_node.scrape.exchange import Reply, exchange
from cxp2p_node.scrape.fetched import WAIT_S, Fetched, FetchRefused, FetchSettings
from cxp2p_node.scrape.inflate import ACCEPTED, Body, too_large
from cxp2p_node.scrape.manners import Manners
from cxp2p_node.scrape.replies import (
    ACCEPT,
    RETRY_S_MAX,
    check_length,
    check_status,
    check_text,
    content_type_of,
    may_be_kept,
    pause_s,
    validators,
)
from cxp2p_node.scrape.robots import ALLOW_ALL, FILE_BYTES_MAX, UNKNOWN, Robots, robots_of, token_of
from cxp2p_node.scrape.room import LARGE_BYTES, ROOM_BYTES, Place, Room
from cxp2p_node.scrape.turns import Budget, Turns, no_turn

ROBOTS_FETCH_S_MAX: Final = 15.0
SLICE_BYTES: Final = 8192  # is inflated at a time: to 1.6 MB at most

# Nothing came, if no reply did: unlike a page that is missing, this says something about all pages of a host.
_SILENT: Final = frozenset({PageFault.DNS_ERROR, PageFault.CONNECT_ERROR, PageFault.TLS_ERROR, PageFault.TIMEOUT})


@dataclass(slots=True, kw_only=True)
class _Trip:
    """One page on its way. `first`: what was asked for. `answered`: something of HTTP came in this visit.

    `later`: the host asked to be asked again, which is done once.
    """

    first: Target
    target: Target
    budget: Budget
    place: Place
    redirects: int = 0
    answered: bool = False
    retried: bool = False
    later: bool = False


@dataclass(slots=True)
class _Flight:
    """A page that somebody fetches, and others wait for. `timeout_s`: the time that it has."""

    timeout_s: float
    done: trio.Event = field(default_factory=trio.Event)
    fetched: Fetched | None = None
    refused: FetchRefused | None = None

    def holds_for(self, timeout_s: float) -> bool:
        """Whether its refusal would be the same with so much time."""
        return self.timeout_s >= timeout_s or self.refused is None or self.refused.fault is not PageFault.TIMEOUT


class Fetcher:
    """Fetches pages; `fetched.Fetches` says what it promises. Made by `fetcher_of`."""

    def __init__(self, settings: FetchSettings, dialler: Dials, wall_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._dialler = dialler
        self._wall_ms = wall_ms
        self._token = token_of(settings.user_agent)
        self._copies = Copies(settings.cache_bytes)
        self._robots = RobotsBook()
        self._manners = Manners(settings.delay_s)
        self._turns = Turns(self._manners, settings.at_once)
        self._room = Room(max(ROOM_BYTES, settings.body_bytes_max))
        self._flights: dict[str, _Flight] = {}

    def __repr__(self) -> str:
        return f"<Fetcher {len(self._flights)} pages on their way, {self._copies.bytes} bytes of copies>"

    @property
    def rules(self) -> EgressRules:
        """What may be fetched from, as it is now."""
        return self._dialler.rules

    async def connect(self, target: Target) -> trio.SocketStream:
        """A TCP connection by the same rules, for who speaks for himself over it. Raises FetchRefused."""
        return await self._dialler.connect(target)

    @asynccontextmanager
    async def turn(self, host: str, wait_s: float = WAIT_S) -> AsyncIterator[None]:
        """A visit to a host by other means. Raises FetchRefused if there is no turn in time."""
        async with self._turns.of(host, Budget(page_s=0.0, wait_s=wait_s), lambda: None):
            try:
                yield
            finally:
                self._manners.visited(host, trio.current_time())

    def place(self) -> Place:
        """For one page, before it is fetched. See `Fetches`."""
        return Place(self._room)

    async def fetch(
        self, url: str, *, timeout_s: float, age_s_max: int, wait_s: float = WAIT_S, place: Place | None = None
    ) -> Fetched:
        """The page at `url`, or a copy that is no older than `age_s_max`. Raises FetchRefused. See `Fetches`."""
        own = place or self.place()
        try:
            fetched = await self._fetch(url, Budget(page_s=timeout_s, wait_s=wait_s), age_s_max, own)
            await own.share(len(fetched.body))
            return fetched
        finally:
            if own is not place:
                own.leave()

    async def _fetch(self, url: str, budget: Budget, age_s_max: int, place: Place) -> Fetched:
        try:
            target = admit_url(url, self.rules)
        except EgressRefused as refused:
            raise FetchRefused.of(refused) from None
        if age_s_max and (copy := self._copies.young(target.url, age_s_max, trio.current_time())):
            return copy
        timeout_s = budget.page_s
        deadline = trio.current_time() + timeout_s + budget.wait_s
        while flight := self._flights.get(target.url):
            with trio.move_on_at(deadline) as scope:
                await flight.done.wait()
            if scope.cancelled_caught:
                raise _too_late()
            if flight.fetched is not None:
                return flight.fetched
            if flight.refused is not None and flight.holds_for(timeout_s):
                raise flight.refused.copy()
        return await self._lead(_Trip(first=target, target=target, budget=budget, place=place))

    async def _lead(self, trip: _Trip) -> Fetched:
        """Fetches for all who want this page. If it is cancelled, one of them does it again."""
        url = trip.first.url
        flight = self._flights[url] = _Flight(trip.budget.page_s)
        try:
            while flight.fetched is None:
                flight.fetched = await self._visit(trip)
            return flight.fetched
        except FetchRefused as refused:
            refused.final_url = refused.final_url or trip.target.url
            flight.refused = refused.copy()
            raise
        finally:
            del self._flights[url]
            flight.done.set()

    async def _visit(self, trip: _Trip) -> Fetched | None:
        """Goes on with a page while it is at one host. None if it is not done yet: at another, or later again."""
        host = trip.target.host
        trip.answered = trip.later = False
        async with self._turns.of(host, trip.budget, lambda: self._look(trip)):
            try:
                while trip.target.host == host and not trip.later:
                    check_robots(await self._robots_of(trip), trip.target)
                    with trip.budget.fetching():
                        fetched = await self._hop(trip)
                    if fetched is not None:
                        return fetched
                return None
            except FetchRefused as refused:
                if not trip.answered and refused.fault in _SILENT:
                    self._manners.failed(host, trio.current_time(), refused.fault)
                raise
            finally:
                known = self._robots.last(trip.target.origin)
                self._manners.visited(host, trio.current_time(), known.delay_s if known else 0.0)

    def _look(self, trip: _Trip) -> None:
        """Raises FetchRefused if it is known already that a visit is in vain, or would be too late."""
        now, host = trio.current_time(), trip.target.host
        robots = self._robots.of(trip.target.origin, now)
        if robots is not None:
            check_robots(robots, trip.target)
        if fault := self._manners.fault(host, now):
            raise FetchRefused(fault, "nothing came from its host just now, twice")
        if self._manners.next_at(host) - now <= trip.budget.wait_s:
            return
        if status := self._manners.asked_status(host, now):
            raise FetchRefused(PageFault.HTTP_ERROR, f"the server said {status}, and asked for a pause", status)
        raise no_turn()

    async def _hop(self, trip: _Trip) -> Fetched | None:
        """One request of a visit: the page, or None if it is elsewhere, or later."""
        target = trip.target
        copy = self._copies.of(trip.first.url)
        if copy is not None and copy.fetched.final_url != target.url:
            copy = None
        async with self._asked(trip, target, copy.validators if copy else {}) as reply:
            if self._paused(target, reply, trip):
                trip.retried = trip.later = True
                return None
            if reply.redirects:
                trip.redirects += 1
                trip.target = self._redirected(target, reply, trip.redirects)
                return None
            if reply.status == 304 and copy is not None and copy.validators:
                return self._still(trip.first.url, copy)
            if reply.status in (404, 410):
                self._copies.drop(trip.first.url)
            check_status(reply.status, target.url)
            return await self._page(trip, target, reply)

    def _paused(self, target: Target, reply: Reply, trip: _Trip) -> bool:
        """Remembers the pause that the host asks for, if it does. Whether it is short enough to try again then."""
        pause = pause_s(reply.status, reply.headers, self._wall_ms() / 1000)
        if pause:
            self._manners.pause(target.host, trio.current_time(), pause, reply.status)
        return 0 < pause <= min(RETRY_S_MAX, trip.budget.wait_s) and not trip.retried

    async def _page(self, trip: _Trip, target: Target, reply: Reply) -> Fetched:
        """Reads the page, and keeps a copy if it may."""
        url = trip.first.url
        content_type = content_type_of(reply.headers, reply.status, target.url)
        try:
            body = await self._body(reply, trip.place)
        except FetchRefused as refused:
            refused.status = reply.status
            raise
        check_text(content_type, body, reply.status, target.url)
        fetched = Fetched(
            final_url=target.url,
            status=reply.status,
            content_type=content_type,
            body=body,
            fetched_at_ms=self._wall_ms(),
        )
        if reply.status == 200 and may_be_kept(reply.headers):
            self._copies.keep(url, Copy(fetched, trio.current_time(), validators(reply.headers)))
        else:
            self._copies.drop(url)
        return fetched

    async def _body(self, reply: Reply, place: Place) -> bytes:
        bytes_max = self._settings.body_bytes_max
        if not check_length(reply.headers, bytes_max):
            raise too_large(bytes_max)
        body = Body(reply.headers.get("content-encoding", ""), bytes_max)
        large = False
        try:
            while part := await reply.part():
                for at in range(0, len(part), SLICE_BYTES):
                    body.take(part[at : at + SLICE_BYTES])
                    if body.size > LARGE_BYTES and not large:
                        await place.grow(bytes_max)
                        large = True
            place.settle(body.size)
            return body.end()
        except BaseException:
            place.leave()  # before it waits for another turn
            raise

    def _still(self, url: str, copy: Copy) -> Fetched:
        """The copy is still the page, as the server says."""
        fetched = replace(copy.fetched, fetched_at_ms=self._wall_ms())
        self._copies.keep(url, Copy(fetched, trio.current_time(), copy.validators))
        return replace(fetched, cached=True)

    def _redirected(self, target: Target, reply: Reply, count: int) -> Target:
        try:
            return admit_redirect(target, _location(reply), count, self.rules)
        except EgressRefused as refused:
            raise FetchRefused.of(refused, target.url, reply.status) from None

    @asynccontextmanager
    async def _asked(self, trip: _Trip, target: Target, conditions: Mapping[str, str]) -> AsyncIterator[Reply]:
        """A request for a target, and the reply to it."""
        headers = {"User-Agent": self._settings.user_agent, "Accept": ACCEPT, "Accept-Encoding": ACCEPTED}
        stream = await self._dialler.open(target)
        async with exchange(stream, target, {**headers, **conditions}) as reply:
            trip.answered = True
            self._manners.answered(target.host, trio.current_time())
            yield reply

    async def _robots_of(self, trip: _Trip) -> Robots:
        """What the origin says of robots. Raises FetchRefused if nothing comes from its host at all."""
        origin = trip.target.origin
        robots = self._robots.of(origin, trio.current_time())
        if robots is None:
            found = await self._read_robots(trip)
            robots, keep_s = (found, ROBOTS_S) if found else (self._robots.last(origin) or UNKNOWN, ROBOTS_RETRY_S)
            self._robots.learn(origin, robots, trio.current_time() + keep_s)
        return robots

    async def _read_robots(self, trip: _Trip) -> Robots | None:
        """robots.txt of an origin, None if it should be there and cannot be had (RFC 9309, 2.3.1)."""
        at = replace(trip.target, path="/robots.txt")
        try:
            with trio.fail_after(ROBOTS_FETCH_S_MAX):
                for count in count_from(1):
                    async with self._asked(trip, at, {}) as reply:
                        if not reply.redirects:
                            return await self._robots_in(at, reply)
                        if count > REDIRECTS_MAX:
                            return ALLOW_ALL
                        at = self._redirected(at, reply, count)
        except trio.TooSlowError:
            if not trip.answered:
                raise _too_late() from None
        except FetchRefused:
            if not trip.answered:
                raise
        return None

    async def _robots_in(self, target: Target, reply: Reply) -> Robots | None:
        pause = pause_s(reply.status, reply.headers, self._wall_ms() / 1000)
        if reply.status >= 500 or reply.status == 429:
            self._manners.pause(target.host, trio.current_time(), pause, reply.status)
            return None
        if not 200 <= reply.status < 300:
            return ALLOW_ALL
        body = Body(reply.headers.get("content-encoding", ""), self._settings.body_bytes_max)
        while body.size <= FILE_BYTES_MAX and (part := await reply.part()):
            body.take(part)
        return robots_of(body.begun(), self._token)


def fetcher_of(
    settings: FetchSettings,
    *,
    resolve: Resolve | None = None,
    networks: Networks = own_networks,
    wall_ms: Callable[[], int] = wall_clock_ms,
) -> Fetcher:
    """A fetcher, to be used by the tasks of one trio run. Raises SettingsError for what settings cannot be.

    `resolve` is this system's DNS, and `networks` are those of this machine, if a test does not say otherwise.
    """
    rules = rules_of(settings.ports, settings.allow)
    dialler = Dialler(rules, resolve or SystemResolver(), tls_context(settings.ca_path), networks)
    return Fetcher(settings, dialler, wall_ms)


def check_robots(robots: Robots, target: Target) -> None:
    """Raises FetchRefused for a page that robots.txt keeps from us."""
    if not robots.allows(target.path):
        why = "cannot be had" if robots is UNKNOWN else "does not allow it"
        raise FetchRefused(PageFault.ROBOTS_DISALLOWED, f"its host's robots.txt {why}", final_url=target.url)


def _too_late() -> FetchRefused:
    return FetchRefused(PageFault.TIMEOUT, "it did not come in time")


def _location(reply: Reply) -> str:
    """Where a redirect leads: ASCII by the standard, UTF-8 as some send it."""
    told = reply.headers["location"]
    try:
        return told.encode("latin-1").decode()
    except UnicodeDecodeError:
        return told
