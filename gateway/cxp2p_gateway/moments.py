"""Times and days as RFC 3339 writes them, in UTC. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def moment(at_ms: int | None) -> str | None:
    """Wall-clock ms as text, to the millisecond."""
    if at_ms is None:
        return None
    at = EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_of(at_ms: int) -> str:
    """The day of wall-clock ms, as `2027-01-31`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def moment_ms(text: str) -> int:
    """Text as wall-clock ms. Raises ValueError for what RFC 3339 does not allow, and for times before 1970."""
    if not _MOMENT.fullmatch(text):
        raise ValueError(text)
    try:
        at_ms = (datetime.fromisoformat(text.upper()) - EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        raise ValueError(text) from None
    if at_ms < 0:
        raise ValueError(text)
    return at_ms
