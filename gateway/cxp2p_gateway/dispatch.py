"""From a caller's job to a node and back, with the money: hold, job, receipt, post."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar

import trio

from cxp2p.claims import ORDER_KEPT_MS
from cxp2p.client import Embeddings, Emit, Hear, Judge, Net, Outcome, Scraped, Spoken, Took
from cxp2p.embed import AT_ONCE_MAX, Input, parts_max
from cxp2p.errors import JobFailed, NoNode
from cxp2p.net.tasks import background
from cxp2p.records import FailureCode, Job, ScrapeJob, Service, service_of
from cxp2p.scrape import shares_max
from cxp2p_gateway.asking import Caller, ModelCard, Overloaded
from cxp2p_gateway.books import JobBooks, RatesSeen
from cxp2p_gateway.limits import forbid
from cxp2p_gateway.listing import KnownModels, cards, live
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.metrics.asks import Ask
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.store import Store, StoreError
from cxp2p_gateway.store.claims import ClaimBooks

log = logging.getLogger("cxp2p.dispatch")

R = TypeVar("R")

UPKEEP_S: Final = 5.0
FORGOTTEN_STEP: Final = 200  # receipts in one write, some milliseconds: jobs wait for the same disk
FORGETTING_PAUSE_S: Final = 0.1  # between two writes while there are more
ORDERS_KEPT_MAX: Final = 100_000  # that ended without a receipt, 1 KB each
DAY_MS: Final = 86_400_000
CARDS_FRESH_S: Final = 1.0  # as often as nodes beat


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchOptions:
    """`jobs_max` at once in the gateway; over it callers are told to come back after `retry_after_s`.

    A gateway that started less than `young_s` ago waits up to `patience_s` for a first node that offers the model;
    later it knows the network, and says no at once. Receipts are kept for `kept_days`, and at most `kept_max` of them;
    every `upkeep_s` the gateway looks for what is overdue.
    """

    jobs_max: int = 256
    retry_after_s: float = 2.0
    young_s: float = 20.0
    patience_s: float = 5.0
    kept_days: int = 90
    kept_max: int = 1_000_000
    upkeep_s: float = UPKEEP_S


@dataclass(frozen=True, slots=True)
class _Asking:
    """An ask that may go out: the books it goes on, the time that is left, and for how many jobs there is room."""

    ask: Ask
    books: JobBooks
    left_s: float
    at_once: int


class Dispatch:
    """Does callers' jobs over a `Net`, and tells what the network offers. Make one with `open_dispatch`."""

    def __init__(
        self,
        net: Net,
        store: Store,
        wall_ms: Callable[[], int],
        options: DispatchOptions | None = None,
        catalogue: Collection[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self.running = 0
        self._metrics = metrics or Metrics(catalogue)
        self._net = net
        self._store = store
        self._wall_ms = wall_ms
        self._options = options or DispatchOptions()
        self._known = KnownModels(catalogue)
        self._opened_at = trio.current_time()
        self._cards: tuple[ModelCard, ...] = ()
        self._cards_until = float("-inf")
        self._rates = RatesSeen()
        self._claims = ClaimBooks(store)

    def __repr__(self) -> str:
        return f"<Dispatch {self.running} jobs of {self._options.jobs_max}>"

    def rates(self, caller: Caller) -> Mapping[Counted, Rate]:
        """Where the rates of the caller's key stand; nothing for a key without any."""
        return self._rates.of(caller, self._wall_ms() * 1000)

    # Jobs.

    async def run(
        self,
        caller: Caller,
        generation: str,
        job: Job,
        emit: Emit,
        *,
        deadline_s: float,
        judge: Judge | None = None,
    ) -> Outcome:
        """Does one job on the caller's account; see `Door.run`. Raises what it says there, and StoreError."""
        async with self._asking(caller, generation, service_of(job), job.model, deadline_s) as asking:
            outcome = await self._net.run(
                job,
                asking.ask.timed(emit),
                asking.books,
                deadline_s=asking.left_s,
                judge=judge,
                affinity=_affinity(caller),
            )
            asking.ask.done((outcome,))
            return outcome

    async def embed(
        self,
        caller: Caller,
        generation: str,
        model: str,
        inputs: Sequence[Input],
        *,
        truncate: bool,
        took: Took,
        deadline_s: float,
    ) -> Embeddings:
        """Vectors on the caller's account; see `Door.embed`. As many jobs at once as are worth it, and have room."""
        jobs = min(parts_max(inputs), AT_ONCE_MAX)
        async with self._asking(caller, generation, Service.EMBED, model, deadline_s, jobs) as asking:
            got = await self._net.run_embed(
                model,
                inputs,
                asking.books,
                truncate=truncate,
                deadline_s=asking.left_s,
                at_once=asking.at_once,
                took=took,
            )
            asking.ask.done(got.outcomes)
            return got

    async def speak(
        self, caller: Caller, generation: str, voice: str, text: str, hear: Hear, *, speed: float, deadline_s: float
    ) -> Spoken:
        """Speech on the caller's account; see `Door.speak`."""
        async with self._asking(caller, generation, Service.SPEECH, voice, deadline_s) as asking:
            spoken = await self._net.run_speech(
                voice, text, asking.books, asking.ask.heard(hear), speed=speed, deadline_s=asking.left_s
            )
            asking.ask.done(spoken.outcomes)
            return spoken

    async def scrape(
        self, caller: Caller, generation: str, job: ScrapeJob, *, took: Took, deadline_s: float
    ) -> Scraped:
        """Web pages on the caller's account; see `Door.scrape`. As many jobs at once as there are hosts, and room."""
        jobs = shares_max(job.urls)
        async with self._asking(caller, generation, Service.SCRAPE, job.model, deadline_s, jobs) as asking:
            got = await self._net.run_scrape(
                job, asking.books, deadline_s=asking.left_s, at_once=asking.at_once, took=took
            )
            asking.ask.done(got.outcomes)
            return got

    @asynccontextmanager
    async def _asking(
        self, caller: Caller, generation: str, service: Service, model: str, deadline_s: float, jobs: int = 1
    ) -> AsyncIterator[_Asking]:
        """One ask of a caller, counted, once there is a node. `jobs`: as many at once are worth it.

        Raises KeyForbids, Overloaded, NoNode, or JobFailed at the deadline.
        """
        forbid(caller, service, model)
        room = self._options.jobs_max - self.running
        if room <= 0:
            raise Overloaded(self._options.retry_after_s)
        at_once = min(jobs, room)
        self.running += at_once
        try:
            with self._metrics.asks.ask(service, model) as ask:
                ends_at = trio.current_time() + deadline_s
                await self._await_first_node(service, model, deadline_s)
                left_s = max(0.0, ends_at - trio.current_time())
                money = self._metrics.money
                books = JobBooks(self._store, caller, generation, self._wall_ms, left_s, money, self._rates)
                yield _Asking(ask, books, left_s, at_once)
        finally:
            self.running -= at_once

    async def _await_first_node(self, service: Service, model: str, deadline_s: float) -> None:
        """While the gateway is young: waits until its model is offered. Raises NoNode, or JobFailed at the deadline."""
        if trio.current_time() >= self._opened_at + self._options.young_s:
            return
        try:
            await self._net.find(model, min(self._options.patience_s, deadline_s), service)
        except NoNode:
            if deadline_s <= self._options.patience_s:
                raise JobFailed(FailureCode.TIMEOUT, f"no node was found in {deadline_s:g} s") from None
            raise

    # What there is.

    def models(self) -> tuple[ModelCard, ...]:
        """What live nodes offer, by name; up to a second old."""
        if trio.current_time() >= self._cards_until:
            self._note_models()
        return self._cards

    def knows(self, model: str) -> bool:
        """Whether the catalogue or the network has ever named this model, as far as this gateway remembers."""
        return model in self._known or any(
            capability.model == model for entry in self._net.offers() for capability in entry.offer.capabilities
        )

    def ready(self) -> bool:
        """Whether at least one live node is known."""
        return bool(live(self._net.offers(), self._wall_ms(), trio.current_time()))

    def _note_models(self) -> None:
        wall_ms, now = self._wall_ms(), trio.current_time()
        entries = live(self._net.offers(), wall_ms, now)
        self._known.see(entries, wall_ms)
        self._cards = cards(entries, self._known.since_s)
        self._cards_until = now + CARDS_FRESH_S

    # Upkeep.

    async def keep(self) -> None:
        """Notes the models that come and go, ends overdue holds, drops old receipts; ends only by cancellation."""
        while True:
            self._note_models()
            forgotten = 0
            try:
                overdue = await self._store.expire()
                if overdue:
                    self._metrics.money.expired(overdue)
                    log.error("%d holds were never ended by their jobs and have expired; please report this", overdue)
                kept = self._options
                age_ms = kept.kept_days * DAY_MS
                forgotten = max(
                    await self._store.forget_generations(age_ms, kept.kept_max, FORGOTTEN_STEP),
                    await self._claims.forget_orders(ORDER_KEPT_MS, ORDERS_KEPT_MAX, FORGOTTEN_STEP),
                )
            except StoreError as error:
                log.warning("overdue holds and old receipts wait: %s", error)
            await trio.sleep(FORGETTING_PAUSE_S if forgotten == FORGOTTEN_STEP else self._options.upkeep_s)


@asynccontextmanager
async def open_dispatch(
    net: Net,
    store: Store,
    wall_ms: Callable[[], int],
    options: DispatchOptions | None = None,
    catalogue: Collection[str] = (),
    metrics: Metrics | None = None,
) -> AsyncIterator[Dispatch]:
    """A dispatch that is kept up for as long as the block runs. `catalogue`: models that are known from the start."""
    dispatch = Dispatch(net, store, wall_ms, options, catalogue, metrics)
    async with background() as nursery:
        nursery.start_soon(dispatch.keep)
        yield dispatch


def _affinity(caller: Caller) -> bytes:
    """Of one account's requests: others that are called the same are not theirs."""
    return sha256(f"{caller.account} {caller.affinity}".encode(errors="replace")).digest() if caller.affinity else b""
