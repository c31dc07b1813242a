"""Label values that strangers have a say in, each with a bound. Pure.

A Prometheus server keeps a series for each value for as long as it lives, and so does this process: a label that a
stranger can choose freely would fill both.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cxp2p.errors import CxError

MODELS_MAX: Final = 64  # beside the catalogue's; each costs about fifty series
OTHER: Final = "other"
NONE: Final = "none"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SERVICES: Final = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/dashboard/playground/chat": "chat",
    "/dashboard/playground/embeddings": "embed",
    "/dashboard/playground/speech": "speech",
    "/dashboard/playground/scrape": "scrape",
    "/embeddings": "embed",
    "/tts": "speech",
    "/audio/speech": "speech",
    "/scrape": "scrape",
}
ENDS: Final = {
    "AnswerRefused": "answer_refused",
    "InsufficientCredit": "insufficient_credit",
    "JobFailed": "failed",
    "JobRefused": "refused",
    "KeyEnded": "key_ended",
    "KeyForbids": "key_forbids",
    "NoNode": "no_node",
    "Overloaded": "overloaded",
    "PeerUnreachable": "unreachable",
    "RateLimited": "rate_limited",
    "ReceiptInvalid": "receipt_invalid",
    "StoreError": "store",
    "StoreUnavailable": "store",
}


class ModelLabels:
    """Which models have a label of their own: the catalogue's, and the first `models_max` others that were served."""

    def __init__(self, catalogue: Collection[str], models_max: int = MODELS_MAX) -> None:
        self._catalogue = frozenset(catalogue)
        self._models_max = models_max
        self._others: set[str] = set()

    def label(self, model: str, *, served: bool) -> str:
        """The label of a model. A name that only a client has said, and no node answered to, is `other`."""
        if model in self._catalogue or model in self._others:
            return model
        if not served or len(self._others) >= self._models_max:
            return OTHER
        self._others.add(model)
        return model


def method_label(method: str) -> str:
    """The label of an HTTP method."""
    return method if method in METHODS else OTHER


def service_label(route: str) -> str:
    """The label of the service that a route is for."""
    return SERVICES.get(route, NONE)


def end_label(error: CxError) -> str:
    """The label of how an ask failed."""
    return ENDS.get(type(error).__name__, OTHER)
