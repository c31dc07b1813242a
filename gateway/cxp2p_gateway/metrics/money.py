"""Money: what was posted, what is held, and how long the disk takes to say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cxp2p.records import Service, Verdict

WRITE_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class MoneyMeter:
    """Counts what a gateway's jobs do to the ledger."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._spent = Counter(
            "cxp2p_spend_microcredits", "µcredits posted to nodes for jobs", ["service"], registry=registry
        )
        self._receipts = Counter(
            "cxp2p_receipts", "Receipts of jobs, by what was said of them", ["verdict"], registry=registry
        )
        self._open = Gauge("cxp2p_holds_open", "Holds of this process that have not ended", registry=registry)
        self._expired = Counter("cxp2p_holds_expired", "Holds that no job ended, which is a bug", registry=registry)
        self._write_s = Histogram(
            "cxp2p_ledger_commit_seconds",
            "Until a change of the ledger is on disk; the count is that of all changes by jobs",
            ["change"],
            buckets=WRITE_S,
            registry=registry,
        )

    @contextmanager
    def reserving(self) -> Iterator[None]:
        """A hold is being made."""
        with self._timed("reserve"):
            yield
        self._open.inc()

    @contextmanager
    def posting(self, service: Service, charge: int, verdict: Verdict) -> Iterator[None]:
        """A hold is being posted, for a receipt of which this was said."""
        with self._timed("post"):
            yield
        self._open.dec()
        self._receipts.labels(verdict.value).inc()
        self._spent.labels(service.value).inc(charge)

    @contextmanager
    def voiding(self) -> Iterator[None]:
        """A hold is being given back."""
        with self._timed("void"):
            yield
        self._open.dec()

    def expired(self, holds: int) -> None:
        """Holds were overdue, and have been ended."""
        self._expired.inc(holds)
        self._open.dec(holds)

    @contextmanager
    def _timed(self, change: str) -> Iterator[None]:
        """Times what succeeds: a refusal does not reach the disk."""
        began = trio.current_time()
        yield
        self._write_s.labels(change).observe(trio.current_time() - began)
