"""How an asker gets web pages: the hosts of a request are split over nodes, each of which fetches its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import trio

from cxp2p import scrape
from cxp2p.embed import no_room
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
    PeerUnreachable,
    RemoteProtocolError,
)
from cxp2p.net.ask import DEADLINE_S, Asker, Books, Outcome
from cxp2p.net.discover import Discovery
from cxp2p.net.embedding import Took
from cxp2p.records import FailureCode, Finish, Piece, ScrapedPage, ScrapeJob, Service
from cxp2p.scrape import Gathering, Homes, Share

log = logging.getLogger("cxp2p.ask")

RUNS_MAX: Final = 3  # of one share whose answers break off or are no pages; each may ask three nodes

NODES_FAULTS: Final = (
    NoNode,
    JobRefused,
    JobFailed,
    AnswerRefused,
    PeerUnreachable,
    RemoteProtocolError,
    InsufficientCredit,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """For each URL in their order its page, whose `number` is the URL's, or why no node could be had for it.

    `outcomes`: of the orders that it took, each with its receipt.
    """

    pages: tuple[ScrapedPage | CxError, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class _Request:
    """One request: the shares that wait, what came so far, and what went wrong."""

    job: ScrapeJob
    books: Books
    ends_at: float
    took: Took | None
    waiting: deque[Share]
    pages: dict[int, ScrapedPage] = field(default_factory=dict)
    errors: dict[int, CxError] = field(default_factory=dict)
    running: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    fatal: CxError | None = None

    def missing(self, share: Share) -> list[int]:
        """What is left of a share."""
        return [number for number in share.numbers if number not in self.pages]

    def urls(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.job.urls[number] for number in numbers)

    def keep(self, numbers: Sequence[int], gathering: Gathering, count_max: int) -> None:
        """Takes what came of the URLs with these numbers, at most so many pages."""
        for number in sorted(gathering.pages)[:count_max]:
            self.pages[numbers[number]] = replace(gathering.pages[number], number=numbers[number])


class Scraper:
    """Asks the network for web pages, over an `Asker`. `rng` chooses between nodes that are equally good."""

    def __init__(self, asker: Asker, discovery: Discovery, wall_ms: Callable[[], int], rng: Random) -> None:
        self._asker = asker
        self._discovery = discovery
        self._wall_ms = wall_ms
        self._rng = rng
        self._homes = Homes()

    async def run(
        self,
        job: ScrapeJob,
        books: Books,
        *,
        deadline_s: float = DEADLINE_S,
        at_once: int = scrape.AT_ONCE_MAX,
        took: Took | None = None,
    ) -> Scraped:
        """The pages of all URLs of `job`; a URL that is there twice is asked for once. At most `at_once` orders run.

        What breaks off is asked for again elsewhere, without the pages that had come. A URL for which no node can be
        had, or that takes longer than `deadline_s`, has an error in place of its page; if they all have, the first is
        raised. Raises what `Asker.run` and `took` raise; then, and if the call is cancelled, all orders end.
        """
        firsts = scrape.firsts(job.urls)
        ends_at = trio.current_time() + deadline_s
        request = _Request(job, books, ends_at, took, deque(self._shares(job, sorted(set(firsts)))))
        async with trio.open_nursery() as nursery:
            for _ in range(min(at_once, len(request.waiting))):
                nursery.start_soon(self._do_shares, request, nursery.cancel_scope)
        if request.fatal is not None:
            raise request.fatal
        if not request.pages:
            raise request.errors[firsts[0]]
        return Scraped(
            pages=tuple(
                replace(request.pages[first], number=number) if first in request.pages else request.errors[first]
                for number, first in enumerate(firsts)
            ),
            outcomes=tuple(request.outcomes),
        )

    def _shares(self, job: ScrapeJob, numbers: Sequence[int]) -> list[Share]:
        now = trio.current_time()
        nodes = self._nodes(job.model, ())
        if not nodes:
            self._discovery.want(Service.SCRAPE, job.model)
            raise NoNode(f"no live node offers {job.model!r} for scraping")
        shares = scrape.split(job.urls, numbers, nodes, self._homes.of(job.urls, now))
        for share in shares:
            self._homes.take((job.urls[number] for number in share.numbers), share.node, now)
        return shares

    def _nodes(self, model: str, tried: Collection[str]) -> list[str]:
        now = trio.current_time()
        candidates = self._discovery.directory.candidates(Service.SCRAPE, model, self._wall_ms(), now)
        return scrape.nodes_for(candidates, tried, self._rng, now)

    async def _do_shares(self, request: _Request, scope: trio.CancelScope) -> None:
        """Does one share after another; one without room waits for those that run. What is no node's fault ends all."""
        while request.waiting:
            share = request.waiting.popleft()
            request.running += 1
            try:
                await self._do_share(request, share)
            except NODES_FAULTS as error:
                if no_room(error) and request.running > 1:
                    request.waiting.append(share)
                    return
                request.errors.update(dict.fromkeys(request.missing(share), error))
                self._homes.leave(request.urls(share.numbers))
            except CxError as error:
                request.fatal = request.fatal or error
                scope.cancel()
            finally:
                request.running -= 1

    async def _do_share(self, request: _Request, share: Share) -> None:
        failed, tried = None, [share.node]
        while numbers := request.missing(share):
            gathering = Gathering(len(numbers))
            try:
                outcome = await self._ask(request, numbers, gathering, tried[-1])
            except NoNode as error:
                raise failed or error from None
            except (JobFailed, AnswerRefused, RemoteProtocolError) as error:
                if isinstance(error, JobFailed) and not isinstance(error.__cause__, RemoteProtocolError):
                    over = trio.current_time() >= request.ends_at
                    request.keep(numbers, gathering, len(numbers) - (not over))
                if len(tried) == RUNS_MAX or _is_final(error, gathering, request.ends_at):
                    raise
                log.info("%d of %d URLs are asked for again: %s", len(numbers), len(share.numbers), error)
                failed = error
                tried.append(next(iter(self._nodes(request.job.model, tried)), ""))
            else:
                request.outcomes.append(outcome)
                request.keep(numbers, gathering, len(numbers))
                if request.missing(share):
                    raise RemoteProtocolError("pages are missing, and nobody looked")  # JUDGE_S was too short
                self._settle_homes(request, numbers, outcome.node)

    def _settle_homes(self, request: _Request, numbers: Sequence[int], node: str) -> None:
        """Hosts stay with a node that got a page of them."""
        got = {scrape.host_of(request.job.urls[number]) for number in numbers if request.pages[number].content}
        urls = request.urls(numbers)
        self._homes.take([url for url in urls if scrape.host_of(url) in got], node, trio.current_time())
        self._homes.leave([url for url in urls if scrape.host_of(url) not in got])

    async def _ask(self, request: _Request, numbers: Sequence[int], gathering: Gathering, node: str) -> Outcome:
        """One order for some URLs; its pages gather."""
        job = replace(request.job, urls=request.urls(numbers))

        async def take(piece: Piece) -> None:
            if request.took is not None:
                request.took(len(piece.data))
            gathering.take(piece, self._wall_ms())
            await trio.lowlevel.checkpoint()

        async def judge(finish: Finish) -> str:
            await trio.lowlevel.checkpoint()
            return gathering.fault(finish)

        left_s = max(0.0, request.ends_at - trio.current_time())
        deadline_s = min(left_s, scrape.longest_s(job))
        return await self._asker.run(job, take, request.books, deadline_s=deadline_s, judge=judge, prefer=node)


def _is_final(error: CxError, gathering: Gathering, ends_at: float) -> bool:
    """Whether there is no use in asking another node: time is over, or three were asked for the first piece."""
    if not isinstance(error, JobFailed):
        return False
    if error.code is FailureCode.TIMEOUT:
        return trio.current_time() >= ends_at
    return not gathering.size
