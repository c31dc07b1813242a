"""Requests over HTTP: how many, how they ended, how long they took."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from cxp2p_gateway.exchange import Exchange, status_of
from cxp2p_gateway.metrics.labels import OTHER, method_label, service_label

WHOLE_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ANSWER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)


class RequestMeter:
    """Counts requests that have ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "cxp2p_http_requests",
            "Requests that have ended; status 499: the client left first",
            ["route", "method", "service", "status"],
            registry=registry,
        )
        self._errors = Counter(
            "cxp2p_http_errors", "Requests that were told an error, by its code", ["code"], registry=registry
        )
        self._retries = Counter("cxp2p_http_retries", "Requests that an SDK called a retry", registry=registry)
        self._whole_s = Histogram(
            "cxp2p_http_request_seconds",
            "From a request to the end of its answer",
            ["route"],
            buckets=WHOLE_S,
            registry=registry,
        )
        self._answer_s = Histogram(
            "cxp2p_http_answer_seconds",
            "From a request to the status line of its answer, which is held back for the first piece",
            ["route"],
            buckets=ANSWER_S,
            registry=registry,
        )

    def ended(self, exchange: Exchange, now: float) -> None:
        """Counts one."""
        route = exchange.route or OTHER
        status = str(status_of(exchange))
        self._requests.labels(route, method_label(exchange.method), service_label(route), status).inc()
        if exchange.error_code is not None:
            self._errors.labels(exchange.error_code).inc()
        if exchange.headers.get("x-stainless-retry-count", "0") not in ("", "0"):
            self._retries.inc()
        ended_at = now if exchange.ended_at is None else exchange.ended_at
        self._whole_s.labels(route).observe(ended_at - exchange.started_at)
        if exchange.answered_at is not None:
            self._answer_s.labels(route).observe(exchange.answered_at - exchange.started_at)
