"""What is counted of a running gateway, for Prometheus. One registry for each gateway, nothing global.

Every label has a bounded number of values: routes, services and error codes are ours, a model's name stands as
`labels.ModelLabels` allows. No label says who asked, or with which key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import trio
from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

import cxp2p
from cxp2p_gateway.metrics.asks import AskMeter
from cxp2p_gateway.metrics.claims import ClaimMeter
from cxp2p_gateway.metrics.money import MoneyMeter
from cxp2p_gateway.metrics.requests import RequestMeter


class Metrics:
    """All that is counted of one gateway. `catalogue`: models whose names are labels from the start."""

    def __init__(self, catalogue: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestMeter(self.registry)
        self.asks = AskMeter(self.registry, catalogue)
        self.money = MoneyMeter(self.registry)
        self.claims = ClaimMeter(self.registry)
        info = Gauge("cxp2p_build_info", "The version that runs; always 1", ["version"], registry=self.registry)
        info.labels(cxp2p.__version__).set(1)
        ProcessCollector(registry=self.registry)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Adds a number that is read when somebody looks."""
        Gauge(name, what, registry=self.registry).set_function(read)

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format 0.0.4. Answers go on between its parts: all of it can take 40 ms."""
        parts = []
        for family in self.registry.collect():
            parts.append(generate_latest(_One(family)))
            await trio.lowlevel.checkpoint()
        return b"".join(parts)


class _One(Collector):
    """A single metric, as something to collect."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)
