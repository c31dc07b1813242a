"""Asks of the network: what one request wants done, in one job or in many, and how the nodes do it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram

from cxp2p.client import Emit, Hear, Outcome
from cxp2p.errors import CxError
from cxp2p.known_models import name_of
from cxp2p.records import Piece, Service
from cxp2p_gateway.metrics.labels import ModelLabels, end_label

FIRST_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 60)
GAP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10)
QUEUE_S: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LEFT: Final = "left"  # how an ask ends that was cancelled: its client is gone, or its time is over


class AskMeter:
    """Counts asks. `catalogue`: models whose names are labels from the start."""

    def __init__(self, registry: CollectorRegistry, catalogue: Collection[str] = ()) -> None:
        self._models = ModelLabels(catalogue)
        self._asks = Counter(
            "cxp2p_asks", "Asks of the network that have ended", ["service", "model", "end"], registry=registry
        )
        self._first_s = Histogram(
            "cxp2p_first_piece_seconds",
            "From an ask to its first token or sound",
            ["service", "model"],
            buckets=FIRST_S,
            registry=registry,
        )
        self._gap_s = Histogram(
            "cxp2p_piece_gap_seconds",
            "Between two pieces of one answer",
            ["service", "model"],
            buckets=GAP_S,
            registry=registry,
        )
        self._queue_s = Histogram(
            "cxp2p_node_queue_seconds",
            "What jobs that were done had waited in their node's queue",
            ["service"],
            buckets=QUEUE_S,
            registry=registry,
        )
        self._failovers = Counter(
            "cxp2p_failovers",
            "Nodes that failed or refused a job which another one did",
            ["service"],
            registry=registry,
        )
        self._resumes = Counter(
            "cxp2p_resumes", "Jobs that went on where another node had broken off", ["service"], registry=registry
        )
        self._units = Counter(
            "cxp2p_units",
            "Units that both sides signed: tokens, letters, pages; in: what was sent, out: what was made",
            ["service", "model", "direction"],
            registry=registry,
        )

    @contextmanager
    def ask(self, service: Service, model: str) -> Iterator[Ask]:
        """Counts one ask, however it ends."""
        ask = Ask(self, service, name_of(model, service))
        end = LEFT
        try:
            yield ask
            end = "done"
        except CxError as error:
            end = end_label(error)
            raise
        finally:
            self._asks.labels(service.value, self._models.label(ask.model, served=ask.served), end).inc()

    def first(self, ask: Ask, waited_s: float) -> Histogram:
        """Notes how long an ask waited for its first piece; gives what its pauses are noted in."""
        service, model = ask.service.value, self._models.label(ask.model, served=True)
        self._first_s.labels(service, model).observe(waited_s)
        return self._gap_s.labels(service, model)

    def done(self, ask: Ask, outcomes: Sequence[Outcome]) -> None:
        """Notes how the jobs of an ask were done."""
        service = ask.service.value
        model = self._models.label(ask.model, served=True)
        for outcome in outcomes:
            agreed = outcome.settlement.countersign
            self._queue_s.labels(service).observe(outcome.queued_ms / 1000)
            self._failovers.labels(service).inc(outcome.attempts - 1)
            self._resumes.labels(service).inc(outcome.settlement.order.resume_of is not None)
            self._units.labels(service, model, "in").inc(agreed.in_units)
            self._units.labels(service, model, "out").inc(agreed.out_units)


class Ask:
    """One ask that runs. `served`: a node has answered, so that its model is one."""

    def __init__(self, meter: AskMeter, service: Service, model: str) -> None:
        self.service = service
        self.model = model
        self.served = False
        self._meter = meter
        self._since = trio.current_time()
        self._gaps: Histogram | None = None  # looked up once: there are many pieces

    def timed(self, emit: Emit) -> Emit:
        """`emit`, with a note of when each piece came. The time that its taker takes is no pause of the node."""

        async def take(piece: Piece) -> None:
            self._came()
            await emit(piece)
            self._since = trio.current_time()

        return take

    def heard(self, hear: Hear) -> Hear:
        """`hear`, with a note of when sound came."""

        async def take(data: bytes) -> None:
            self._came()
            await hear(data)
            self._since = trio.current_time()

        return take

    def done(self, outcomes: Sequence[Outcome]) -> None:
        """Notes how its jobs were done."""
        self.served = True
        self._meter.done(self, outcomes)

    def _came(self) -> None:
        waited_s = trio.current_time() - self._since
        if self._gaps is not None:
            self._gaps.observe(waited_s)
        else:
            self.served = True
            self._gaps = self._meter.first(self, waited_s)
