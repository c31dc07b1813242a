"""Requests about keys with every field that there is, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cxp2p_gateway.key_endpoints import told_as_faults
from cxp2p_gateway.key_forms import rotate_ask, terms_ask
from cxp2p_gateway.key_ring import check_terms
from ledgers import WALL_MS


def checked_terms(body: dict[str, Any]) -> None:
    """As a request for a key is read and looked at."""
    with told_as_faults():
        check_terms(terms_ask(body), WALL_MS)


KEY_REQUESTS: dict[str, tuple[Callable[[dict[str, Any]], object], list[dict[str, Any]]]] = {
    "KeyRequest": (
        checked_terms,
        [
            {
                "name": "n",
                "spend_limit": 1.5,
                "spend_reset": "daily",
                "services": ["chat"],
                "models": ["m"],
                "rpm": 1,
                "tpm": 1,
                "max_parallel": 1,
                "expires_at": "2050-01-01T00:00:00Z",
            }
        ],
    ),
    "RotateRequest": (rotate_ask, [{"grace_seconds": 1}]),
}
