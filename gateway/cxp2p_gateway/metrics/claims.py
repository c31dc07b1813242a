"""Claims: how they were answered, what was paid late, and what nodes were caught at."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from cxp2p.evidence import Wrong
from cxp2p.records import Service


class ClaimMeter:
    """Counts what does not go as agreed between a gateway and its nodes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._claims = Counter(
            "cxp2p_claims", "Claims of nodes, by how they were answered", ["answer"], registry=registry
        )
        self._late = Counter(
            "cxp2p_late_microcredits",
            "µcredits that the operator paid for late receipts",
            ["service"],
            registry=registry,
        )
        self._evidence = Counter(
            "cxp2p_evidence", "What nodes signed that they should not have, and disputes", ["wrong"], registry=registry
        )

    def answered(self, how: str) -> None:
        """A claim was answered: again, accepted, adjusted, disputed, refused or later."""
        self._claims.labels(how).inc()

    def late(self, service: Service, charge: int) -> None:
        """A claimed receipt was paid."""
        self._late.labels(service.value).inc(charge)

    def accused(self, wrong: Wrong) -> None:
        """A node was caught, or a receipt disputed."""
        self._evidence.labels(wrong.value).inc()
