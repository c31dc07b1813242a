"""How an asker gets one job done: an order to the best node, and to the next one if it does not answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import trio

from cxp2p import protocols, receipts, units
from cxp2p.directory import Entry
from cxp2p.errors import (
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
    PeerUnreachable,
    ReceiptInvalid,
    RemoteProtocolError,
)
from cxp2p.evidence import Evidence, dispute, evidence_in
from cxp2p.identity import Identity, Kind
from cxp2p.lanes import FreeLanes
from cxp2p.net import Network
from cxp2p.net.attempt import STALL_S, Attempt, Books, Emit, Judge, Settlement
from cxp2p.net.claims import Claims, Papers
from cxp2p.net.discover import Discovery
from cxp2p.net.recent import RecentOrders
from cxp2p.records import Capability, ChatJob, FailureCode, Job, RefusalCode, Verdict, service_of
from cxp2p.routing import (
    Blame,
    Candidate,
    Fault,
    attracted,
    blame,
    most_it_costs,
    of_digest,
    rank,
    remaining,
    too_dear,
    worst,
)
from cxp2p.wire import encode

log = logging.getLogger("cxp2p.ask")

ATTEMPTS_MAX = 3
DEADLINE_S = 600.0
REQUEST_BYTES_MAX = protocols.ASK_BYTES_MAX - protocols.ENVELOPE_BYTES_MAX - 1024

__all__ = ["DEADLINE_S", "Asker", "Books", "Emit", "Judge", "Outcome", "Settlement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job was answered. `found_via`: dht, exchange or watch; `lookup_ms` is what that took, off the hot path."""

    node: str
    attempts: int
    queued_ms: int
    found_via: str
    lookup_ms: int
    settlement: Settlement


@dataclass(slots=True)
class _Run:
    """One job on its way through the nodes: those that were tried, what was wrong there, and when the last began."""

    job: Job
    request: bytes
    emit: Emit
    books: Books
    judge: Judge | None
    digest: bytes | None
    prefer: str
    affinity: bytes
    tried: list[str]
    faults: list[Fault]
    begun: float = math.inf

    def fault(self, node: str, capability: Capability, error: CxError) -> Fault:
        return Fault(node, capability.context_units, units.longest_input_bytes(self.job, self.request), error)


class Asker:
    """Asks the network for work and settles it. `rng` makes ids, salts and seeds: a `SystemRandom` outside of tests."""

    def __init__(
        self,
        identity: Identity,
        network: Network,
        discovery: Discovery,
        wall_ms: Callable[[], int],
        rng: Random,
        calendar: receipts.Calendar = receipts.HOURS,
        papers: Papers | None = None,
    ) -> None:
        """`papers`: where what was signed is kept for nodes' claims; the newest orders are, in memory, without."""
        self._identity = identity
        self._network = network
        self._discovery = discovery
        self._directory = discovery.directory
        self._wall_ms = wall_ms
        self._rng = rng
        self._calendar = calendar
        self._lanes = FreeLanes(lambda: rng.randbytes(16))
        self._recent = RecentOrders() if papers is None else None
        self._papers: Papers = papers or self._recent or RecentOrders()
        network.serve(protocols.CLAIM, Claims(identity, self._papers, self._lied).handle)

    async def run(
        self,
        job: Job,
        emit: Emit,
        books: Books,
        *,
        deadline_s: float = DEADLINE_S,
        judge: Judge | None = None,
        digest: bytes | None = None,
        prefer: str = "",
        affinity: bytes = b"",
    ) -> Outcome:
        """Does one job: pieces go to `emit` in order, the signed outcome is returned.

        Until the first piece a failure moves on to the next node unseen, at most 3 nodes. Cancelling the call tells
        the node at once and settles what was delivered; so does an `emit` that raises. If the best node costs more
        than the account has, the cheapest is asked. Raises NoNode, JobRefused (every node said no, or the request is
        too large for any), JobFailed (after the first piece, or the request itself cannot be done), PeerUnreachable,
        InsufficientCredit. An answer with which `judge` finds fault is disputed, so that it costs nothing, its node is
        asked last for a while, and AnswerRefused is raised. `digest`: only nodes with exactly these weights are asked.
        `prefer`: the node that is asked first, if it can be. `affinity`: jobs with the same go to the same node while
        it has room, because they begin alike.
        """
        books = books if self._recent is None else self._recent.over(books)
        run = _Run(job, encode(job), emit, books, judge, digest, prefer, affinity, [], [])
        if len(run.request) > REQUEST_BYTES_MAX:
            why = f"the request has {len(run.request)} bytes, the limit is {REQUEST_BYTES_MAX}"
            raise JobRefused(RefusalCode.REQUEST_INVALID, why)
        with trio.move_on_after(deadline_s):
            return await self._run(run)
        if trio.current_time() - run.begun >= STALL_S:  # long enough for any node; a caller may have allowed less
            self._directory.suspend(run.tried[-1], trio.current_time())
        raise JobFailed(FailureCode.TIMEOUT, f"the job was not done in {deadline_s:g} s")

    async def _run(self, run: _Run) -> Outcome:
        while len(run.tried) < ATTEMPTS_MAX:
            entry, capability = self._choose(run)
            node = entry.offer.peer
            run.tried.append(node)
            run.begun = trio.current_time()
            attempt = self._order(run, node, capability, self._lanes.take(node))
            try:
                try:
                    await self._attempt(attempt, run, entry)
                except JobRefused as error:
                    if error.code is not RefusalCode.LANE_UNKNOWN:
                        raise
                    attempt = self._order(run, node, capability, self._lanes.open())
                    await self._attempt(attempt, run, entry)
            except InsufficientCredit as error:
                if too_dear(run.faults):
                    raise
                run.faults.append(run.fault(node, capability, error))
            except (PeerUnreachable, RemoteProtocolError, JobRefused, JobFailed) as error:
                log.info("order %s on %s: %s", attempt.order.order_id.hex(), node, error)
                run.faults.append(run.fault(node, capability, error))
                self._blame(run.faults[-1], run.job.model)
                if attempt.emitted:
                    raise _cut_off(error) from error
            else:
                return self._outcome(attempt, entry, len(run.tried))
        raise worst(run.faults)

    def _choose(self, run: _Run) -> Candidate:
        now = trio.current_time()
        candidates = self._directory.candidates(service_of(run.job), run.job.model, self._wall_ms(), now)
        ranked = rank(remaining(of_digest(candidates, run.digest), run.faults), run.tried, self._rng, now)
        if run.affinity:
            ranked = attracted(ranked, run.affinity, now, len(run.request))
        if run.prefer:
            ranked.sort(key=lambda candidate: candidate[0].offer.peer != run.prefer)
        if too_dear(run.faults):
            ranked.sort(key=lambda candidate: most_it_costs(candidate[1]))
        if ranked:
            return ranked[0]
        if run.faults:
            raise worst(run.faults)
        self._discovery.want(service_of(run.job), run.job.model)
        raise NoNode(f"no live node offers {run.job.model!r}")

    def _order(self, run: _Run, node: str, capability: Capability, lane: receipts.Lane) -> Attempt:
        salt, job = self._rng.randbytes(16), run.job
        max_out = units.output_units_max(job, capability)
        seed = job.sampling.seed if isinstance(job, ChatJob) else None
        terms = receipts.Terms(
            gateway=self._identity.peer,
            node=node,
            capability=capability,
            request_commit=receipts.request_commit(salt, run.request),
            max_in=units.input_units_max(job, run.request, capability.context_units),
            max_out=max_out,
            seed=self._rng.getrandbits(63) if seed is None else seed % 2**63,
        )
        order = receipts.make_order(terms, lane, self._rng.randbytes(16), self._wall_ms(), self._calendar)
        return Attempt(
            identity=self._identity,
            order=order,
            envelope=self._identity.seal(Kind.ORDER, encode(order)),
            lane=lane,
            salt=salt,
            request=run.request,
            bytes_max=units.answer_bytes_max(job, max_out),
            started=trio.current_time(),
            output=units.Output(order.service),
            judge=run.judge,
            loading_ms=capability.load.loading_ms,
        )

    async def _attempt(self, attempt: Attempt, run: _Run, entry: Entry) -> None:
        entry.jobs += 1  # before the first wait: jobs that come together must not all choose the same node
        try:
            try:
                await run.books.reserve(attempt.order, attempt.envelope)
            except CxError:  # the order never left
                self._lanes.give_back(attempt.order.node, attempt.lane)
                raise
            await self._attempt_held(attempt, run)
        finally:
            entry.jobs -= 1

    async def _attempt_held(self, attempt: Attempt, run: _Run) -> None:
        """With the hold on disk: from here on it is settled or void, whatever happens."""
        free = False  # the node itself said that it costs nothing
        try:
            await attempt.run(self._network, run.emit, run.books)
        except JobRefused as error:
            free = True
            if error.code not in (RefusalCode.LANE_UNKNOWN, RefusalCode.ORDER_INVALID):
                attempt.lane_after = attempt.lane
            raise
        except (JobFailed, ReceiptInvalid) as error:
            free = attempt.receipt_envelope is None or isinstance(error, ReceiptInvalid)
            raise
        finally:
            self._remember(attempt)
            with trio.CancelScope(shield=True):
                await self._close(attempt, run.books, free=free)

    async def _close(self, attempt: Attempt, books: Books, *, free: bool) -> None:
        """Gives the hold back if there is no receipt, and keeps what can be shown to others of a wrong one."""
        evidence: Evidence | None = None
        settlement = attempt.settlement
        if settlement is None:
            if attempt.receipt_envelope is not None:
                evidence = evidence_in(attempt.envelope, attempt.receipt_envelope)
            got = None if free or evidence is not None else attempt.delivered()
            await books.void(attempt.order, "no receipt", got)
        elif settlement.countersign.verdict is not Verdict.ACCEPTED:
            signed = (settlement.order_envelope, settlement.receipt_envelope)
            evidence = evidence_in(*signed) or dispute(*signed, settlement.countersign_envelope)
        if evidence is not None:
            await self._papers.accuse(evidence)

    def _lied(self, node: str) -> None:
        self._directory.suspend(node, trio.current_time())

    def _remember(self, attempt: Attempt) -> None:
        """What an attempt taught us of its node, however it ended."""
        node, now = attempt.order.node, trio.current_time()
        if attempt.lane_after is not None:
            self._lanes.give_back(node, attempt.lane_after)
        if attempt.first_piece_s is not None:
            waited_ms = attempt.first_piece_s * 1000 - attempt.loading_ms
            self._directory.measure(node, max(1.0, waited_ms), len(attempt.request), now)
        elif attempt.cancelled and attempt.asked_at is not None:
            waited_ms = (now - attempt.asked_at) * 1000 - attempt.loading_ms
            self._directory.waited(node, waited_ms, len(attempt.request), now)
        if attempt.settlement is not None and not attempt.broken_off:
            if attempt.settlement.countersign.verdict is Verdict.ACCEPTED:
                self._directory.welcome(node, now, attempt.order.model)
            elif attempt.fault and attempt.settlement.countersign.reason == attempt.fault:
                self._directory.full(node, now, 0)
            else:
                self._directory.suspend(node, now)

    def _blame(self, fault: Fault, model: str) -> None:
        error, now = fault.error, trio.current_time()
        if isinstance(error, ReceiptInvalid):
            log.warning("receipt of %s is invalid: %s; evidence %s", fault.node, error, error.evidence.hex())
        match blame(fault):
            case Blame.FULL:
                retry_after_ms = error.retry_after_ms if isinstance(error, JobRefused) else 0
                self._directory.full(fault.node, now, retry_after_ms)
            case Blame.FAILED:
                self._directory.suspend(fault.node, now, model if isinstance(error, JobFailed) else None)

    def _outcome(self, attempt: Attempt, entry: Entry, attempts: int) -> Outcome:
        assert attempt.settlement is not None
        return Outcome(
            node=attempt.order.node,
            attempts=attempts,
            queued_ms=round(attempt.queued_s * 1000),
            found_via=entry.found_via,
            lookup_ms=entry.lookup_ms,
            settlement=attempt.settlement,
        )


def _cut_off(error: CxError) -> JobFailed:
    if isinstance(error, JobFailed):
        return error
    return JobFailed(FailureCode.ENGINE_DIED, f"the node stopped in the middle of its answer: {error}")
