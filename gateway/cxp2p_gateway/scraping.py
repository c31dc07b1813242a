"""POST /scrape: the pages of up to 50 URLs, each with what came of it; their jobs' end when the client leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.client import Outcome, Scraped
from cxp2p.egress import EgressRefused, EgressRules, admit_url
from cxp2p.errors import CxError
from cxp2p.records import PageFault, ScrapedPage, Service
from cxp2p.scrape import MODEL
from cxp2p_gateway import openai, pages
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault, fault_of
from cxp2p_gateway.long_answers import LongAnswer
from cxp2p_gateway.means import JobEndpoint, Means
from cxp2p_gateway.middleware import ClientGone
from cxp2p_gateway.pages import ScrapeAsk
from cxp2p_gateway.reading import Lease, read_json
from cxp2p_gateway.waiting import Patience, note_outcomes, room_in, wants_cx, watch

TELL_S: Final = 3.0  # before a client's time is over its answer is made of what is there; a quarter of a short time
SPACE: Final = b" "  # JSON may begin with any number of them (RFC 8259, 2)

Told: TypeAlias = ScrapedPage | PageFault | Fault


@dataclass(slots=True)
class _Work:
    """One request on its way. `told`: what has come of each URL; `lease`: the room that its pages take.

    `asked`: the spelling of each URL that nodes get.
    """

    ask: ScrapeAsk
    exchange: Exchange
    generation: str
    wait_s: float
    lease: Lease
    wants_cx: bool
    asked: list[str]
    told: list[Told | None]
    outcomes: Sequence[Outcome] = ()
    fault: Fault | None = None
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def open(self) -> list[int]:
        """The numbers of the URLs of which nothing is known yet."""
        return [number for number, told in enumerate(self.told) if told is None]


class ScrapeEndpoint(JobEndpoint):
    """The endpoint. Pages are held until all have come, and count as the request's body does."""

    def __init__(self, means: Means, egress: EgressRules) -> None:
        super().__init__(means)
        self._egress = egress

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        with self._budget.lease() as lease:
            ask = pages.scrape_ask(await read_json(exchange.headers, receive, lease))
            work = _Work(
                ask=ask,
                exchange=exchange,
                generation=f"scrape-{self._outside.new_id()}",
                wait_s=self._patience.wait_s(exchange),
                lease=lease,
                wants_cx=wants_cx(exchange),
                asked=[],
                told=[],
            )
            self._admit(work)
            exchange.notes |= {"model": ask.model, "urls": len(ask.urls), "generation": work.generation}
            answer = _Answer(work, self._patience, send)
            if work.open:
                with self._places.take(ask.model):
                    await self._answered(work, answer, receive)
            else:
                await answer.send()
            await answer.end()

    def _admit(self, work: _Work) -> None:
        """Looks at how URLs are spelled: what may not be fetched reaches no node, which would look again."""
        for url in work.ask.urls:
            told, asked = None, ""
            try:
                asked = admit_url(url, self._egress).url
            except EgressRefused as error:
                told = error.fault
            work.asked.append(asked)
            work.told.append(told)

    async def _answered(self, work: _Work, answer: _Answer, receive: Receive) -> None:
        """Sends the answer but for its end. Raises Fault if nothing was sent and there is none, or ClientGone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            nursery.start_soon(self._run, work)
            await answer.wait()
            if work.fault is None or work.exchange.status:
                note_outcomes(work.exchange, work.outcomes)
                await answer.send()
            nursery.cancel_scope.cancel()
        if work.exchange.gone:
            raise ClientGone
        if not work.exchange.status and work.fault is not None:
            raise work.fault

    async def _run(self, work: _Work) -> None:
        """Leaves in `work` how it ended."""
        numbers = work.open
        with trio.move_on_after(work.wait_s):
            try:
                got = await self._scraped(work, numbers)
            except CxError as error:
                work.fault = self._fault_of(error, work)
                if work.fault is None:
                    raise
            else:
                work.outcomes = got.outcomes
                for number, page in zip(numbers, got.pages, strict=True):
                    told = self._fault_of(page, work) if isinstance(page, CxError) else page
                    work.told[number] = told or Fault(Condition.UPSTREAM_FAILED)
        if work.open:
            work.fault = work.fault or Fault(Condition.DEADLINE)
            for number in work.open:
                work.told[number] = work.fault
        work.over.set()

    async def _scraped(self, work: _Work, numbers: Sequence[int]) -> Scraped:
        assert work.exchange.caller is not None
        return await self._door.scrape(
            work.exchange.caller,
            work.generation,
            work.ask.job([work.asked[number] for number in numbers]),
            took=room_in(work.lease),
            deadline_s=work.wait_s - min(TELL_S, work.wait_s / 4),
        )

    def _fault_of(self, error: CxError, work: _Work) -> Fault | None:
        model = work.ask.model
        return fault_of(error, model, model == MODEL or self._door.knows(model), Service.SCRAPE)


class _Answer(LongAnswer):
    """Sends an answer, with spaces in front if it is long in coming: proxies cut silence."""

    def __init__(self, work: _Work, patience: Patience, send: Send) -> None:
        super().__init__(work.exchange, work.generation, send)
        self._work = work
        self._patience = patience

    async def wait(self) -> None:
        """Until it is known what to tell. From the first space on it is a 200."""
        work = self._work
        while not work.over.is_set():
            with trio.move_on_after(self._patience.keep_alive_s if work.exchange.status else self._patience.hold_s):
                await work.over.wait()
                return
            await self.send_now(SPACE)

    async def send(self) -> None:
        """All of it but the end."""
        work = self._work
        outcomes = [openai.cx_object(outcome) for outcome in work.outcomes]
        cx = (outcomes[0] if len(outcomes) == 1 else outcomes) if work.wants_cx else None
        told = [each for each in work.told if each is not None]
        await self.add(pages.results_json(work.ask.urls, told, work.exchange.base, cx))
